"""The house keeps its shape: few floors, few modules at the root, and one name for one thing.

Which room may know which is held by import-linter, see pyproject.toml.
"""

import ast
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import blinddeblur

PACKAGE = Path(blinddeblur.__file__).parent
FLOORS = 9  # modules, each imported by the one before
ROOT_MODULES = 9


@cache
def modules() -> dict[str, ast.Module]:
    """The module of every name, but for those that only open a package or start the program."""
    paths = [path for path in PACKAGE.rglob("*.py") if path.stem not in ("__init__", "__main__")]
    names = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for path, name in names.items()}


def imported(name: str) -> set[str]:
    """The modules of the package that a module imports, within functions and for types as well."""
    found = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & modules().keys()
            found |= inner or {node.module}
    return found & modules().keys() - {name}


def test_no_chain_of_imports_is_long_and_none_comes_back() -> None:
    below = {name: imported(name) for name in modules()}
    chains: dict[str, list[str]] = {}
    for name in TopologicalSorter(below).static_order():  # raises an error for a circle
        chains[name] = [name, *max((chains[other] for other in below[name]), key=len, default=[])]
    longest = max(chains.values(), key=len)
    assert len(longest) <= FLOORS, " -> ".join(longest)
    assert len(longest) > FLOORS // 2  # the imports were found


def test_the_root_is_an_entrance_and_no_store() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= ROOT_MODULES


def test_no_module_has_the_name_of_another() -> None:
    parts = [name.rsplit(".", 1)[-1] for name in modules()] + [
        path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()
    ]
    assert [name for name, number in Counter(parts).items() if number > 1] == []


def test_no_public_class_has_the_name_of_another() -> None:
    classes = [
        node.name
        for module in modules().values()
        for node in module.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [name for name, number in Counter(classes).items() if number > 1] == []


def test_packages_do_not_work_when_they_are_opened() -> None:
    assert [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE and path.read_text()] == []
