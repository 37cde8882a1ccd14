"""Every row of a benchmark, kept in results.json from the first one on, so that an interrupted run can go on."""

import dataclasses
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np

from benchmarks import perceptual
from benchmarks.metrics import SMALLEST
from blinddeblur import __version__
from blinddeblur.errors import UsageError
from blinddeblur.files.together import write_bytes

FILE = "results.json"
SET = "set"  # the folder of the test set, which is written first
LIBRARIES = ("torch", "numpy", "opencv-python-headless", "scikit-image")


@dataclass(frozen=True)
class Row:
    """Of one case, contender and seed. None where there is no such figure.

    Attributes:
        raw, psnr: in dB, before and after the best shift.
        error: mean square after it.
        ssim, perceptual: after it.
        mnc: agreement of the kernel with the true one.
        seconds, peak: of the process; the latter in MB.
        failure: why there is no result.
        skipped: why none was asked for.
    """

    case: str
    contender: str
    seed: int
    raw: float | None = None
    psnr: float | None = None
    error: float | None = None
    ssim: float | None = None
    perceptual: float | None = None
    mnc: float | None = None
    seconds: float | None = None
    peak: float | None = None
    failure: str | None = None
    skipped: str | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """What there is one row of."""
        return self.case, self.contender, self.seed

    @property
    def finished(self) -> bool:
        """Whether there is a result."""
        return self.failure is None and self.skipped is None


class AnyRow(Protocol):
    """What is kept of a benchmark: a dataclass."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What there is one row of."""


R = TypeVar("R", bound=AnyRow)


class Results(Generic[R]):
    """The file of one folder.

    Attributes:
        settings: what was measured, and how; the same for all rows.
        commands: of each contender.
        rows: by their key, of the kind given.

    Raises UsageError when the folder holds other things, or results of other settings, versions or commands.
    """

    def __init__(
        self,
        kind: type[R],
        folder: Path,
        settings: dict[str, Any],
        commands: dict[str, list[str]] | None = None,
    ) -> None:
        self.path = folder / FILE
        self.settings = {**settings, "versions": versions()}
        self.commands = commands or {}
        self.rows: dict[tuple[Any, ...], R] = {}
        if not self.path.exists():
            return
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            before, told = found["settings"], found["commands"]
            self.rows = {row.key: row for row in (kind(**row) for row in found["rows"])}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{self.path} is no file of results, or it is damaged. Choose another -o.") from error
        for name, value in json.loads(json.dumps(self.settings)).items():
            if before.get(name) != value:
                raise UsageError(
                    f"{self.path} holds results with {name} = {before.get(name)}, and now it is {value}. Give the "
                    "same, or another -o."
                )
        for key, command in told.items():
            done = any(isinstance(row, Row) and row.contender == key and row.finished for row in self.rows.values())
            if done and self.commands.get(key, command) != command:
                raise UsageError(f"{self.path} holds results of another command of {key}. Choose another -o.")
        self.commands = {**told, **self.commands}

    def add(self, *rows: R) -> None:
        """Keep rows, in the place of earlier ones, and write the file."""
        self.rows |= {row.key: row for row in rows}
        found = {
            "settings": self.settings,
            "machine": {"cores": cores(), "system": platform.platform(), "commit": _commit()},
            "commands": self.commands,
            "rows": [dataclasses.asdict(cast("Any", row)) for row in self.rows.values()],
        }
        write_bytes(json.dumps(found, indent=1).encode(), self.path, overwrite=True)


def check_folder(folder: Path) -> None:
    """Raise UsageError unless a folder is empty, or holds results already."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file. Name a folder as -o.")
    others = [path for path in folder.iterdir() if path.name != SET] if folder.is_dir() else []
    if others and not (folder / FILE).exists():
        raise UsageError(f"{folder} holds other things. Name an empty folder as -o, or a new one.")


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of what figures depend on."""
    own = {"blinddeblur": __version__, "python": platform.python_version()}
    picture = np.zeros((SMALLEST, SMALLEST, 1))
    measured = perceptual.distance(picture, picture) is not None  # else the package of the metric is missing
    return {
        **own,
        **{name: version(name) for name in LIBRARIES},
        "perceptual metric": perceptual.NAME if measured else "none",
    }


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _commit() -> str | None:
    """Of the checkout that this is run from, if it is one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
