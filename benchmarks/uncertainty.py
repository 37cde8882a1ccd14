"""Whether the uncertainty map holds: how many pixels of the truth lie within 1, 2 and 3 sigma of the restored photo.

python -m benchmarks.uncertainty PHOTOS [--number 8] [--samples 16] [--side 160] [--known]
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.metrics import shifted
from blinddeblur import Engine, Result, Settings, random_kernel
from blinddeblur.files import decoding
from blinddeblur.files.photo import EXTENSIONS
from blinddeblur.physics.convolution import blur
from blinddeblur.samplers import posterior

KERNEL_SIDE = 41  # pixels; the blur itself reaches 6 to 20
NOISE = 0.01
BORDER = 15  # pixels left out, where the unseen frame decides
REACH = 6  # pixels; kernel and image can be shifted against the truth by that much

Array = NDArray[np.float32]


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of sharp photos that nothing was calibrated on.")],
    number: int = 8,
    samples: int = 16,
    side: int = 160,
    known: bool = False,
) -> None:
    """Crops of photos under random kernels, 1 % noise, 8 bits, default options; maps from 4, 8, ... of the samples.

    With --samples 0 the quick map, which takes none.
    """
    files = sorted(p for p in photos.iterdir() if p.suffix.lower() in EXTENSIONS)
    counts = [n for n in (4, 8, 16, 32, 64) if n <= samples] or [0]
    totals: dict[int, list[list[float]]] = {n: [] for n in counts}
    print("photo", "samples", "1 sigma", "2 sigma", "3 sigma", "mean sigma", "RMS error", sep="\t")
    for index, path in enumerate(files[:: max(1, len(files) // number)][:number]):
        x, y, kernel = blurred_crop(path, side, np.random.default_rng(index))
        settings = Settings(samples=samples, uncertainty=not samples, kernel=kernel if known else None)
        result = Engine(settings).restore(y)
        restored = result.image / np.float32(255)
        truth = shifted_onto(x, restored)
        for n in counts:
            row = coverage(truth - restored, _from_samples(result, restored, n) if n else result.uncertainty)
            totals[n].append(row)
            print(path.stem, n, *(f"{value:.3f}" for value in row), sep="\t", flush=True)
    for n, rows in totals.items():
        print("mean", n, *(f"{value:.3f}" for value in np.mean(rows, axis=0)), sep="\t")


def _from_samples(result: Result, restored: Array, number: int) -> Array:
    drawn = result.samples[:number] / np.float32(255)
    spread = torch.from_numpy(((drawn - restored) ** 2).mean(axis=0)).permute(2, 0, 1)[None]
    image = torch.from_numpy(restored).permute(2, 0, 1)[None]
    sigma: Array = posterior.uncertainty(spread, image, result.confidence)[0].permute(1, 2, 0).numpy()
    return sigma


def blurred_crop(path: Path, side: int, rng: np.random.Generator) -> tuple[Array, NDArray[np.uint8], Array]:
    """The sharp middle of a photo (side, side, C), its blurred noisy measurement in 8 bits, and the kernel."""
    kernel = random_kernel(rng, KERNEL_SIDE, extent=rng.uniform(6, 20))
    pixels = decoding.read(path).pixels
    wide = side + KERNEL_SIDE - 1
    top, left = ((extent - wide) // 2 for extent in pixels.shape[:2])
    x = pixels[top : top + wide, left : left + wide]
    y = blur(torch.from_numpy(x.transpose(2, 0, 1).copy())[None], torch.from_numpy(kernel))[0].numpy()
    noisy = y.transpose(1, 2, 0) + NOISE * rng.normal(size=(side, side, x.shape[2]))
    radius = KERNEL_SIDE // 2
    return x[radius:-radius, radius:-radius], np.rint(255 * noisy.clip(0, 1)).astype(np.uint8), kernel


def shifted_onto(x: Array, restored: Array) -> Array:
    """The truth moved to where it fits the restored image best, in quarters of a pixel: no method knows the shift."""
    best = (0.0, 0.0)
    for step, reach in ((1.0, REACH), (0.5, 1), (0.25, 1)):
        moves = step * np.arange(-reach, reach + 1)
        candidates = [(best[0] + down, best[1] + across) for down in moves for across in moves]
        best = min(candidates, key=lambda move: float((_inner(shifted(x, *move) - restored) ** 2).mean()))
    return shifted(x, *best)


def coverage(error: Array, sigma: Array) -> list[float]:
    """Shares of the pixels within 1, 2 and 3 sigma, mean sigma, and root mean square of the error."""
    error, sigma = _inner(error), _inner(sigma)
    shares = [float((np.abs(error) <= times * sigma).mean()) for times in (1, 2, 3)]
    return [*shares, float(sigma.mean()), float((error**2).mean() ** 0.5)]


def _inner(values: Any) -> Any:
    return values[BORDER:-BORDER, BORDER:-BORDER]


if __name__ == "__main__":
    typer.run(main)
