"""The command line as tests use it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from blinddeblur.cli import app


def run(*arguments: str | Path, given: bytes | None = None) -> Result:
    """What a command says and its exit code; `given` is its standard input."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=given)


def tree(folder: str | Path = ".") -> list[str]:
    """Every file in a folder and below it, by its path from there; but for the kernel that tests deblur with."""
    paths = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != "k.npy")
    return sorted(str(path.relative_to(folder)) for path in paths)


def interrupted(*arguments: str | Path, after: str) -> tuple[int, str]:
    """The exit code of a command that Ctrl-C ends once it has said something, and what it says from there on."""
    process = subprocess.Popen(
        [sys.executable, "-m", "blinddeblur", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it for background jobs
    )
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            if after in line:
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    return process.wait(30), said
