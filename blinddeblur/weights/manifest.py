"""What weights.toml lists: every prior there is, and where its file comes from.

A prior that a user has trained lies in a folder of its own: a weights.toml with its entry, and its file beside it.
"""

import functools
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blinddeblur.errors import UsageError, WeightsError

KINDS = ("image", "kernel", "tilt", "spectra", "judge")
ARCHITECTURES = ("compact", "conditioned", "guided-diffusion", "spectra", "judgement")
RETRAIN = "Run its training again, or copy its whole folder anew."

_HERE = Path(__file__).parent
_TEXTS = ("kind", "architecture", "file", "licence", "trained_on")
_REQUIRED = dict.fromkeys(_TEXTS, str) | {"parameters": dict, "addresses": list, "bundled": bool}
_OPTIONAL = {"size": int, "sha256": str, "folder": str, "grey": dict}
_GREY = {"prior": str, "above": float}


@dataclass(frozen=True)
class Entry:
    """One prior as weights.toml lists it.

    Attributes:
        parameters: of the architecture.
        size, sha256: of the published file, in bytes; None where nobody has published them.
        folder: a page from which a person can fetch the file.
        grey: of a prior that knows the details of colour: the name of the prior of grey images that knows the rest,
            "prior", and the noise "above" which it does; None for a prior that needs no other.
        home: the folder that the file lies in: the package's, or that of a prior that a user has trained; None for the
            cache.
    """

    name: str
    kind: str
    architecture: str
    parameters: dict[str, Any]
    file: str
    addresses: tuple[str, ...]
    size: int | None
    sha256: str | None
    licence: str
    trained_on: str
    bundled: bool
    folder: str | None
    grey: dict[str, Any] | None = None
    home: Path | None = None


def shipped_list() -> Path:
    """The shipped weights.toml: a wheel has it inside the package, a source checkout one folder up."""
    inside = _HERE.parent / "weights.toml"
    return inside if inside.exists() else _HERE.parent.parent / "weights.toml"


@functools.cache
def manifest() -> dict[str, Entry]:
    """Every entry of the shipped weights.toml by name, in its order. Raises WeightsError as read_manifest."""
    return read_manifest(shipped_list())


def read_manifest(path: Path, remedy: str = "Reinstall blinddeblur.") -> dict[str, Entry]:
    """The entries of a manifest by name. Raises WeightsError, with the remedy, where it or an entry is malformed."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"The list of weights {path} cannot be read: {error}. {remedy}") from error
    entries = {}
    for name, table in tables.items():
        if problem := _problem(name, table, path.parent):
            raise WeightsError(f"The entry {name} of {path} is malformed: {problem}. {remedy}")
        fields = dict.fromkeys(_OPTIONAL) | table | {"addresses": tuple(table["addresses"])}
        entries[name] = Entry(name=name, home=_HERE / "shipped" if table["bundled"] else None, **fields)
    return entries


def find(name: str) -> Entry:
    """The entry of that name; or of the folder of a trained prior, or of its weights.toml, given as a path.

    Raises:
        UsageError: there is none; the message lists the names there are.
        WeightsError: the manifest is malformed.
    """
    path = Path(name).expanduser()
    if name not in manifest() and path.exists():
        return _trained(path)
    return listed(name)


def listed(name: str) -> Entry:
    """The entry of that name in the shipped weights.toml. For the errors see `find`."""
    try:
        return manifest()[name]
    except KeyError:
        known = ", ".join(manifest())
        raise UsageError(f"There are no weights named {name}. The known names are: {known}.") from None


def _trained(path: Path) -> Entry:
    """The only entry of a weights.toml, or of that in a folder, with its file beside it."""
    file = path / "weights.toml" if path.is_dir() else path
    if not file.exists():
        raise UsageError(f"The folder {path} holds no trained prior: there is no weights.toml in it.")
    entries = list(read_manifest(file, RETRAIN).values())
    if len(entries) != 1 or entries[0].sha256 is None:
        raise UsageError(f"{file} is not the list of one trained prior. Give the folder that a training wrote.")
    return replace(entries[0], bundled=False, home=file.parent)


def _problem(name: str, table: Any, folder: Path) -> str | None:
    """What is wrong with an entry of the manifest in that folder, or None."""
    fields = _REQUIRED | _OPTIONAL
    if not isinstance(table, dict):
        return "it is no table"
    if missing := _REQUIRED.keys() - table.keys():
        return f"it lacks {', '.join(sorted(missing))}"
    if unknown := table.keys() - fields.keys():
        return f"nothing is known of {', '.join(sorted(unknown))}"
    if wrong := [key for key in table if not isinstance(table[key], fields[key])]:
        return f"{wrong[0]} must be of type {fields[wrong[0]].__name__}"
    reachable = table["bundled"] or table["addresses"] or "folder" in table or (folder / table["file"]).is_file()
    rules = {
        "its name must consist of a-z, 0-9 and -": re.fullmatch("[a-z0-9-]+", name),
        f"kind must be one of {', '.join(KINDS)}": table["kind"] in KINDS,
        f"architecture must be one of {', '.join(ARCHITECTURES)}": table["architecture"] in ARCHITECTURES,
        "file must be a bare file name": re.fullmatch(r"\w[\w.-]*", table["file"]),
        "addresses must begin with https://": all(str(a).startswith("https://") for a in table["addresses"]),
        "sha256 must be 64 hexadecimal digits": re.fullmatch("[0-9a-f]{64}", table.get("sha256", "0" * 64)),
        "a bundled file needs size and sha256": not table["bundled"] or {"size", "sha256"} <= table.keys(),
        "grey must name another prior, and the noise above which it denoises": "grey" not in table
        or ({k: type(v) for k, v in table["grey"].items()} == _GREY and table["grey"]["prior"] != name),
        "it needs addresses or a folder, or its file beside this list": reachable,
    }
    return next((rule for rule, kept in rules.items() if not kept), None)
