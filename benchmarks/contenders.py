"""What can be compared: commands out of contenders.toml, ours under [methods], programs of others under [peers].

    [peers.l0]
    name = "l0"                               # in tables; by default the word after "peers."
    command = ["program", "{blurred}", "{output}/restored.png"]
    result = "restored.png"                   # a pattern within {output} that one file matches
    kernel = "*.kernel.png"                   # likewise, the kernel that was found, where it is told
    told = "true kernel"                      # what it is told that others are not
    timeout = 600                             # seconds
    needs = ["program", "python:skimage", "$L0_HOME/bin/deblur"]  # programs, modules, files: all must be there
    where = "https://..."                     # where to get it

PLACEHOLDERS lists what is filled in; $NAME is a variable of the environment. The working folder is that of the whole
benchmark.
"""

import importlib.util
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blinddeblur.errors import UsageError

SHIPPED = Path(__file__).with_name("contenders.toml")
PLACEHOLDERS = {
    "python": "this Python",
    "blurred": "the blurred picture, a PNG file",
    "input": "a folder that holds only that",
    "output": "an empty folder for the results",
    "kernel": "the kernel that `fast` has found: {kernel}.png and {kernel}.npy exist",
    "true_kernel": "likewise the true one; without it the case is left out",
    "kernel_size": "side in pixels of the true kernel's array, 31 where there is none",
    "sigma": "standard deviation of the noise where white is 1, estimated from the blurred picture",
    "seed": "of everything random",
    "threads": "how many threads it may use, as OMP_NUM_THREADS says as well",
}
BLURRED = "blurred"  # the row of the input itself
FIRST = "fast"  # the method whose kernel others are given
KNOWN = "fast-known"  # the method whose error is the unit of the error ratio
TIMEOUT = 3600.0  # seconds

_FILLED = re.compile(r"\{([a-z_]+)\}|\$([A-Za-z_][A-Za-z0-9_]*)")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TAKEN = (BLURRED, "set", "all", "none", "truth")  # names of other things


@dataclass(frozen=True)
class Contender:
    """One command, see the head of this module for its fields. key: what follows "methods." or "peers."."""

    key: str
    command: tuple[str, ...]
    result: str
    name: str = ""
    kernel: str | None = None
    told: str = ""
    timeout: float = TIMEOUT
    needs: tuple[str, ...] = ()
    where: str = ""

    def uses(self, placeholder: str) -> bool:
        """Whether the command has this placeholder."""
        return any(placeholder == match[1] for part in self.command for match in _FILLED.finditer(part))

    def missing(self) -> list[str]:
        """What it needs and is not there, each in words."""
        variables = [match[2] for part in self.command for match in _FILLED.finditer(part) if match[2]]
        unset = [f"the environment variable {name}" for name in variables if name not in os.environ]
        return list(dict.fromkeys([*unset, *filter(None, map(_missing, self.needs))]))

    def filled(self, values: Mapping[str, str]) -> list[str]:
        """The command with its placeholders and environment variables filled in."""

        def value(match: re.Match[str]) -> str:
            return values[match[1]] if match[1] else os.environ.get(match[2], "")

        return [_FILLED.sub(value, part) for part in self.command]


@dataclass(frozen=True)
class Contenders:
    """All that can be chosen from."""

    methods: dict[str, Contender]
    peers: dict[str, Contender]

    def chosen(self, methods: Iterable[str], peers: Iterable[str]) -> list[Contender]:
        """The contenders of these names, in this order; the method whose kernel one of them is given comes first.

        Of the peers, "all" are those that are installed. Raises UsageError for a name that is not there, or a peer that
        is not installed.
        """
        names = [name for name in peers if name != "all"]
        found = [_named(name, self.methods, "method") for name in methods]
        found += [_named(name, self.peers, "peer") for name in names]
        for contender in found:
            if missing := contender.missing():
                raise UsageError(f"{contender.key} cannot run: {_told(contender, missing)}")
        if "all" in peers:
            found += [peer for peer in self.peers.values() if not peer.missing()]
        if any(contender.uses("kernel") for contender in found):
            found.insert(0, _named(FIRST, self.methods, "method"))
        return list(dict.fromkeys(found))

    def everybody(self) -> dict[str, Contender]:
        """Methods, then peers, by key."""
        return {**self.methods, **self.peers}

    def absent(self) -> dict[str, str]:
        """The peers that are not installed, and what each lacks and where to get it."""
        return {key: _told(peer, missing) for key, peer in self.peers.items() if (missing := peer.missing())}


def load(more: Path | None = None) -> Contenders:
    """Those of contenders.toml, and of another file of this kind, which may replace some. Raises UsageError."""
    groups: dict[str, dict[str, Contender]] = {"methods": {}, "peers": {}}
    for path in (SHIPPED, more):
        if path is None:
            continue
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path} is no list of contenders: {error}.") from error
        for group, entries in tables.items():
            if group not in groups or not isinstance(entries, dict):
                raise UsageError(f"{path}: There are [methods.NAME] and [peers.NAME], but no [{group}].")
            for key, entry in entries.items():
                other = groups["peers" if group == "methods" else "methods"]
                if key in other:
                    raise UsageError(f"{path}: {key} is the name of a method and of a peer. Rename one.")
                groups[group][key] = _contender(f"{path}: {group}.{key}", key, entry)
    return Contenders(groups["methods"], groups["peers"])


def _contender(place: str, key: str, entry: Any) -> Contender:
    if not _KEY.fullmatch(key) or key in _TAKEN:
        raise UsageError(f"{place}: A folder is named after it, so take letters, digits, -, _ and .; not {key!r}.")
    if not isinstance(entry, dict):
        raise UsageError(f"{place} is no table of settings.")
    lists, numbers = ("command", "needs"), ("timeout",)
    for name, value in entry.items():
        if name not in Contender.__dataclass_fields__ or name == "key":
            fields = ", ".join(name for name in Contender.__dataclass_fields__ if name != "key")
            raise UsageError(f"{place}: There is no setting {name}. There are {fields}.")
        strings = isinstance(value, list) and all(isinstance(part, str) for part in value)
        if name in lists and not strings:
            raise UsageError(f"{place}: {name} must be a list of strings.")
        if name in numbers and (not isinstance(value, int | float) or isinstance(value, bool) or not value > 0):
            raise UsageError(f"{place}: {name} must be a number of seconds above 0.")
        if name not in lists + numbers and not isinstance(value, str):
            raise UsageError(f"{place}: {name} must be a string.")
    for name in ("command", "result"):
        if not entry.get(name):
            raise UsageError(f"{place}: {name} is missing.")
    unknown = [m[1] for part in entry["command"] for m in _FILLED.finditer(part) if m[1] and m[1] not in PLACEHOLDERS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise UsageError(f"{place}: Nothing is known to fill in for {{{unknown[0]}}}. There are {known}.")
    values: dict[str, Any] = {name: tuple(value) if name in lists else value for name, value in entry.items()}
    return Contender(key=key, **{"name": key, **values})


def _named(name: str, entries: dict[str, Contender], kind: str) -> Contender:
    if name not in entries:
        raise UsageError(f"There is no {kind} {name}. Choose of {', '.join(entries) or 'none: the list is empty'}.")
    return entries[name]


def _missing(need: str) -> str | None:
    if need.startswith("python:"):
        module = need.removeprefix("python:")
        return None if _is_module(module) else f"the module {module} for {sys.executable}"
    if "/" in need or "$" in need:
        unset = [match[2] for match in _FILLED.finditer(need) if match[2] and match[2] not in os.environ]
        if unset:
            return f"the environment variable {unset[0]}"
        path = Path(os.path.expandvars(need)).expanduser()
        return None if path.exists() else f"the file {path}"
    return None if shutil.which(need) else f"the program {need}"


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # of a package that is not there
        return False


def _told(contender: Contender, missing: list[str]) -> str:
    where = f" Get it from {contender.where}." if contender.where else ""
    return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.{where}"
