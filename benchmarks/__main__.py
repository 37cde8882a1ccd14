"""python -m benchmarks SET -o OUT: methods of ours and installed programs of others, side by side on a test set."""

import importlib.util
import signal
from pathlib import Path
from typing import Annotated

import typer

from blinddeblur.commands.console import Console
from blinddeblur.errors import BlindDeblurError, UsageError

INTERRUPTED = 130  # exit code after Ctrl-C, by the convention of shells


def main(
    name: Annotated[str, typer.Argument(metavar="levin|photos|turbulence|seeds|FOLDER", help="The test set.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for all that comes out.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the data are. (default: data/levin or data/photos)"),
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help='Methods of ours; "none" for none. (default: fast)')
    ] = None,
    peers: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Programs of others; all: those installed.")
    ] = None,
    contenders: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="More contenders, as benchmarks/contenders.toml has them.")
    ] = None,
    number: Annotated[
        int | None, typer.Option(metavar="N", help="Cases. (default: all; 20 of photos, seeds and turbulence)")
    ] = None,
    side: Annotated[int, typer.Option(metavar="N", help="Of a crop of a photo in pixels.")] = 256,
    extent: Annotated[str, typer.Option(metavar="MIN,MAX", help="Reach of the blur of photos in pixels.")] = "9,32",
    noise: Annotated[float, typer.Option(help="Gaussian noise of photos, a standard deviation; white is 1.")] = 0.01,
    photons: Annotated[
        float | None, typer.Option(metavar="N", help="Instead, Poisson noise with N photons for white.")
    ] = None,
    crops: Annotated[
        str, typer.Option(metavar="spread|texture", help="Of photos: several of each, or the one with most texture.")
    ] = "spread",
    seed: Annotated[int, typer.Option(help="Of the contenders, and of the sequences of turbulence.")] = 0,
    seeds: Annotated[int, typer.Option(metavar="N", help="Of the set seeds: each is run with 0 to N - 1.")] = 5,
    jobs: Annotated[int, typer.Option(metavar="N", help="Processes at once, which share the cores.")] = 1,
) -> None:
    """Figures of methods on a test set: results.json, results.md, sheet.jpg and the restored pictures in a folder.

    FOLDER holds photos, or blurred/ with sharp/ and kernel/ beside it. Nothing is downloaded.
    The same command goes on where an earlier one was stopped. Exit codes: 0 all finished, 1 some failed, 2 wrong usage.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what is running ends with this process
    try:
        if importlib.util.find_spec("skimage") is None:
            raise UsageError('The benchmarks need packages of their own: pip install ".[benchmarks]" brings them.')
        from benchmarks import comparison

        wanted = comparison.Wanted(
            name=name,
            output=output,
            data=data,
            methods=None if methods is None else _names(methods),
            peers=_names(peers or []),
            contenders=contenders,
            number=number,
            side=side,
            extent=_extent(extent),
            noise=noise,
            photons=photons,
            crops=crops,
            seeds=list(range(seeds)) if name == "seeds" else [seed],
            jobs=jobs,
        )
        code = comparison.run(wanted)
    except BlindDeblurError as error:
        Console().error(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        Console().error("Interrupted. What is finished is kept; the same command goes on.")
        code = INTERRUPTED
    raise typer.Exit(code)


def _names(texts: list[str]) -> list[str]:
    """Lists separated by commas, one after the other."""
    names = [name.strip() for text in texts for name in text.split(",")]
    return [name for name in dict.fromkeys(names) if name and name != "none"]


def _extent(text: str) -> tuple[float, float]:
    try:
        least, largest = (float(number) for number in text.split(","))
    except ValueError as error:
        raise UsageError(f"--extent takes two numbers, such as 9,32, not {text!r}.") from error
    return least, largest


if __name__ == "__main__":
    typer.run(main)
