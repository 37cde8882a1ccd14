"""What kernels that vary over the frame gain: photos under a camera that turns and moves, and the same without turning.

python -m benchmarks.varying PHOTOS [--number 8]

The truth is a path of poses: a sharp photo, turned about its middle and moved, averaged over the exposure; 1 % noise, 8
bits. The frame is cut out of a larger photo, so that light from beyond falls into it. Poses are counted from the mean
pose, in which the truth is shown.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.uncertainty import shifted_onto
from blinddeblur import Engine, Settings
from blinddeblur.estimation import varying
from blinddeblur.files import decoding
from blinddeblur.files.photo import EXTENSIONS
from blinddeblur.training.random_kernels import shake

POSES = 160
EXTENT = (8, 16)  # pixels that the middle of the frame moves
TURN = (10, 20)  # pixels that a corner moves by turning alone
NOISE = 0.01
MARGIN = 24  # pixels of the photo around the frame
BORDER = 15  # pixels left out
SEED = 20261125

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Path3:
    """Poses of a camera: (N, 2) rows and columns in pixels, and (N,) angles in radians, both 0 in the mean."""

    moves: NDArray[np.float64]
    angles: NDArray[np.float64]

    def exposed(self, x: Array) -> Array:
        """The mean of a photo (H, W, C) over all poses, without its margin."""
        height, width = x.shape[:2]
        total = np.zeros_like(x)
        for (down, across), angle in zip(self.moves, self.angles, strict=True):
            matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), float(np.degrees(angle)), 1)
            matrix[:, 2] += (across, down)
            total += cv2.warpAffine(x, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        return total[MARGIN:-MARGIN, MARGIN:-MARGIN] / np.float32(len(self.angles))

    def kernel(self, down: float, across: float, size: int) -> Array:
        """The true kernel (size, size) at a place counted from the middle of the frame."""
        cosine, sine = np.cos(self.angles), np.sin(self.angles)  # as getRotationMatrix2D turns: x' = c x + s y
        places = (
            self.moves + np.stack([-sine * across + cosine * down - down, cosine * across + sine * down - across]).T
        )
        kernel = np.zeros((size, size), np.float32)
        for share in (np.array([a, b]) for a in (0, 1) for b in (0, 1)):
            corner = np.floor(places).astype(int) + share
            weight = np.prod(1 - np.abs(places - corner), axis=1)
            np.add.at(kernel, (corner[:, 0] + size // 2, corner[:, 1] + size // 2), weight / len(places))
        return kernel


def camera_path(rng: np.random.Generator, height: int, width: int, turning: bool) -> Path3:
    """A random path for a frame of this size; it turns by as much as moves a corner by TURN pixels."""
    moves, turns = shake(rng, POSES), shake(rng, POSES)[:, 0]
    moves *= rng.uniform(*EXTENT) / np.ptp(moves, axis=0).max()
    angles = turns / np.ptp(turns) * rng.uniform(*TURN) / np.hypot(height / 2, width / 2)
    angles = angles * turning
    return Path3(moves - moves.mean(axis=0), angles - angles.mean())


def measured(x: Array, path: Path3, rng: np.random.Generator) -> tuple[Array, NDArray[np.uint8]]:
    """The truth in the frame, and the photo."""
    y = path.exposed(x)
    noisy = y + NOISE * rng.standard_normal(y.shape)
    return x[MARGIN:-MARGIN, MARGIN:-MARGIN], np.rint(255 * noisy.clip(0, 1)).astype(np.uint8)


def psnr(x: Array, restored: NDArray[np.uint8]) -> float:
    """In dB after the best common shift."""
    picture: Array = restored.astype(np.float32) / np.float32(255)
    inner = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    return float(-10 * np.log10(np.mean((shifted_onto(x, picture)[inner] - picture[inner]) ** 2)))


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of sharp photos that nothing was calibrated on.")],
    number: int = 8,
    always: Annotated[bool, typer.Option(help="Take the kernels as varying whatever the evidence says.")] = False,
) -> None:
    """Aligned PSNR in dB: blurred, restored with one kernel, with default options; and whether these took several."""
    files = sorted(p for p in photos.iterdir() if p.suffix.lower() in EXTENSIONS)
    engine, single = Engine(Settings()), Engine(Settings(), find_varying=one_kernel)
    if always:
        engine = Engine(Settings(), find_varying=partial(varying.estimate, least_gain=-1e9, most_loss=1e9))
    print("photo", "camera", "blurred", "one kernel", "default", "varying", "seconds", sep="\t")
    for turning in (True, False):
        rows = []
        for index, path in enumerate(files[:: max(1, len(files) // number)][:number]):
            x = decoding.read(path).pixels
            rng = np.random.default_rng([SEED, index])
            camera = camera_path(rng, x.shape[0] - 2 * MARGIN, x.shape[1] - 2 * MARGIN, turning)
            truth, y = measured(x, camera, rng)
            found = engine.restore(y)
            one = found if found.kernel_map is None else single.restore(y)
            rows.append([psnr(truth, y), psnr(truth, one.image), psnr(truth, found.image)])
            rows[-1] += [float(found.kernel_map is not None), found.seconds]
            print(path.stem, "turns" if turning else "moves", *(f"{v:.2f}" for v in rows[-1]), sep="\t", flush=True)
        print("mean", "turns" if turning else "moves", *(f"{v:.2f}" for v in np.mean(rows, axis=0)), sep="\t")


def one_kernel(*given: Any) -> None:
    """Kernels that vary are never found."""


if __name__ == "__main__":
    typer.run(main)
