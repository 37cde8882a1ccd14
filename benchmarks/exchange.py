"""Photos and kernels as programs of others take and leave them.

python -m benchmarks.exchange photo PHOTO COPY.png [--multiple 16]
python -m benchmarks.exchange cut RESULT PHOTO CUT.png
python -m benchmarks.exchange kernel KERNEL.tif KERNEL.npy [--turned]
"""

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from blinddeblur.errors import KernelError
from blinddeblur.files import decoding, encoding
from blinddeblur.files.photo import Photo

app = typer.Typer(help=__doc__, add_completion=False)


@app.command()
def photo(
    source: Path,
    copy: Path,
    multiple: Annotated[
        int, typer.Option(min=1, help="Continue the photo, so that its sides are multiples of it.")
    ] = 1,
) -> None:
    """A plain copy with 8 bits: many programs misread 16."""
    pixels = decoding.read(source).pixels
    beyond = [-side % multiple for side in pixels.shape[:2]]
    encoding.write(Photo(np.pad(pixels, [*((0, rest) for rest in beyond), (0, 0)], "symmetric")), copy)


@app.command()
def cut(result: Path, source: Path, output: Path) -> None:
    """The part of a result that the photo had before it was continued."""
    height, width = decoding.read(source).stored.shape[:2]
    restored = decoding.read(result)
    encoding.write(restored.with_pixels(restored.stored[:height, :width]), output)


@app.command()
def kernel(
    source: Path,
    output: Path,
    turned: Annotated[
        bool, typer.Option(help="By half a turn, where a program correlates instead of convolving.")
    ] = False,
) -> None:
    """A kernel as an array (.npy) out of a picture, which may be one of floating point numbers."""
    values = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise KernelError(f"{source} cannot be read as a picture.")
    grey = np.atleast_3d(values).mean(axis=2)
    with output.open("xb") as file:
        np.save(file, grey[::-1, ::-1] if turned else grey)


if __name__ == "__main__":
    app()
