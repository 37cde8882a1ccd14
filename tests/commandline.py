"""The command line as tests use it."""

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
