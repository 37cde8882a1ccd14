"""The names of results, by which they are known from photos."""

import os
import re
from pathlib import Path

from blinddeblur.errors import UsageError

MARK = ".deblurred"
_MINE = re.compile(rf"{re.escape(MARK)}|\.kernel|\.sample-\d+|\.uncertainty|\.compare|\.preview")


def is_ours(path: Path) -> bool:
    """Whether a file has the name of one of our results."""
    return _MINE.fullmatch(Path(path.stem).suffix) is not None


def kernel_paths(stem: Path) -> tuple[Path, Path]:
    """The picture and the array of a photo's kernel."""
    return beside(stem, ".kernel.png"), beside(stem, ".kernel.npy")


def uncertainty_paths(stem: Path) -> tuple[Path, Path]:
    """The picture and the array of a photo's uncertainty."""
    return beside(stem, ".uncertainty.png"), beside(stem, ".uncertainty.npy")


def beside(stem: Path, ending: str) -> Path:
    """A file whose name is the stem's with an ending."""
    # Appended, since with_suffix would cut a name like "1.5 seconds" at its dot.
    return stem.with_name(stem.name + ending)


def real_name(path: Path) -> str:
    """The path without links, the same for every name of a file. Raises UsageError for what is no name."""
    try:
        return os.path.realpath(path)
    except ValueError as error:  # a NUL
        raise UsageError(f"{str(path)!r} is no name of a file.") from error
