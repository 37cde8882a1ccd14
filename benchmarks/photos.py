"""A test set of blurred photos with their truth: crops of sharp photos under random kernels, 1 % noise, 8 bits.

python -m benchmarks.photos PHOTOS -o SET [--number 100]

SET/blurred is what to restore, SET/sharp and SET/kernel hold the truth, under the same names. The border of each crop
is cut off after the blur, so that light from beyond the frame falls into it as in a camera. The kernels are drawn from
the generator that the shipped priors were trained with, but from other seeds: none of them was learned from.
"""

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from blinddeblur import photo, random_kernel
from blinddeblur.errors import UsageError
from blinddeblur.physics.convolution import blur

KERNEL_SIDE = 47  # pixels; the blur itself reaches 9 to 32
EXTENTS = (9, 32)
NOISE = 0.01
SEED = 20261124
PLACES = ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5))  # of crops in a photo, as shares of the room there is


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of sharp photos.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the set.")],
    number: int = 100,
    side: int = 256,
) -> None:
    """Write the set; its first N are the same for every --number."""
    files = sorted(
        (p for p in photos.iterdir() if p.suffix.lower() in photo.EXTENSIONS), key=lambda p: (len(p.name), p)
    )
    if number > len(files) * len(PLACES):
        raise UsageError(f"{len(files)} photos give at most {len(files) * len(PLACES)} crops.")
    for index in range(number):
        path, place = files[index % len(files)], PLACES[index // len(files)]
        rng = np.random.default_rng([SEED, index])
        x = torch.from_numpy(photo.read(path).pixels)
        wide = side + KERNEL_SIDE - 1
        top, left = (int(share * (extent - wide)) for share, extent in zip(place, x.shape, strict=False))
        crop = x[top : top + wide, left : left + wide].permute(2, 0, 1)[None]
        extent = math.exp(rng.uniform(*map(math.log, EXTENTS)))
        kernel = random_kernel(rng, KERNEL_SIDE, extent)
        y = blur(crop, torch.from_numpy(kernel))[0].permute(1, 2, 0).numpy()
        margin = KERNEL_SIDE // 2
        sharp = crop[0, :, margin:-margin, margin:-margin].permute(1, 2, 0).numpy()
        name = f"{index:03}.png"
        for folder, pixels in (("sharp", sharp), ("blurred", y + NOISE * rng.standard_normal(y.shape))):
            photo.write(photo.Photo(pixels.astype(np.float32)), output / folder / name)
        photo.write(photo.Photo(kernel[..., None] / kernel.max(), depth=16), output / "kernel" / name)


if __name__ == "__main__":
    typer.run(main)
