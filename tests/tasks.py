"""What processes and clusters are given to do in tests: engines that are names, and jobs that go wrong."""

import os
import signal
import time
from pathlib import Path

from blinddeblur.errors import PhotoError, WeightsError


def engine(name: str) -> str:
    return name


def missing() -> str:
    raise WeightsError("The weights are missing.")


def dying() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def _kill_me_first(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return ""


def square(name: str, number: int) -> tuple[str, int]:
    return name, number**2


def troubled(name: str, job: tuple[str, Path]) -> str:
    what, marker = job
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "die once":
        _kill_me_first(marker)
    if what == "fail":
        raise PhotoError("The picture is too small.")
    if what == "bug":
        raise KeyError(what)
    return what


def where(name: str, job: int) -> int:
    time.sleep(0.3)
    return os.getpid()


def talk(name: str, job: int) -> None:
    print("loud")  # noqa: T201
    os.write(2, b"loud")


def write_slowly(folder: Path, seconds: int) -> None:
    """As together.write_bytes does: a temporary file that an exception removes."""
    temporary = folder / f"{os.getpid()}.tmp"
    try:
        temporary.touch()
        time.sleep(seconds)
    finally:
        temporary.unlink()
