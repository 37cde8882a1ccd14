"""How near a restored picture comes to the truth, and an estimated kernel to the true one.

Pictures are (H, W, C) floats in [0, 1]. BORDER pixels on each side count in nothing: there the unseen frame decides. A
blind method cannot know by how much kernel and picture are shifted against each other, so all but `raw` is measured
after the best shift, as Levin et al. (CVPR 2009) do.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from benchmarks import perceptual

BORDER = 15  # pixels left out
REACH = 8  # pixels, the largest shift
FINER = (0.5, 0.25)  # steps in pixels, after whole ones
SMALLEST = 64  # pixels of a side; less leaves too little within the border
GREY = (0.299, 0.587, 0.114)  # shares of red, green and blue
LEAST_ERROR = 1e-12  # mean square; no PSNR above 120 dB

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Likeness:
    """raw, psnr: in dB, before and after the best shift. error: mean square after it. perceptual: None without one."""

    raw: float
    psnr: float
    error: float
    ssim: float
    perceptual: float | None


def likeness(restored: NDArray[Any], truth: NDArray[Any]) -> Likeness:
    """Both (H, W, C) in [0, 1], of one height and width; where only one has colours, both are compared in grey."""
    x, y = np.asarray(restored, np.float64), np.asarray(truth, np.float64)
    if x.shape[2] != y.shape[2]:
        x, y = grey(x), grey(y)
    moved, error = _aligned(x, y)
    distance = perceptual.distance(_inner(moved).clip(0, 1), _inner(y))
    return Likeness(psnr(_error(x, y)), psnr(error), error, ssim(moved, y, BORDER), distance)


def agreement(a: NDArray[Any], b: NDArray[Any]) -> float:
    """MNC, the largest value of the normalised cross-correlation of two kernels (h, w): 1 for the same shape."""
    side = 2 * max(a.shape + b.shape)
    product = np.fft.rfft2(a, (side, side)) * np.fft.rfft2(b, (side, side)).conj()
    correlation = np.fft.irfft2(product, (side, side)).max()
    return float(correlation / max(np.linalg.norm(a) * np.linalg.norm(b), LEAST_ERROR))


def ssim(x: NDArray[Any], y: NDArray[Any], border: int) -> float:
    """Wang et al. 2004, 11x11 Gaussian window of sigma 1.5, channel by channel; `border` pixels count in nothing."""
    _, local = structural_similarity(
        x,
        y,
        channel_axis=2,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return float(local[border:-border, border:-border].mean())


def shifted(x: NDArray[Any], down: float, across: float) -> NDArray[Any]:
    """(H, W, C) moved by fractions of a pixel; what comes from beyond the frame is mirrored."""
    if not down and not across:
        return x
    matrix = np.array([[1, 0, across], [0, 1, down]])
    moved = cv2.warpAffine(x, matrix, x.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return moved.reshape(x.shape)


def psnr(error: float) -> float:
    """In dB, from a mean square error."""
    return float(-10 * np.log10(max(error, LEAST_ERROR)))


def grey(x: Array) -> Array:
    """(H, W, 1) of a picture in colour, or in grey already."""
    return x if x.shape[2] == 1 else (x @ np.array(GREY))[..., None]


def _aligned(x: Array, truth: Array) -> tuple[Array, float]:
    """The picture moved to where it fits the truth best, and its mean square error there."""
    whole = range(-REACH, REACH + 1)
    inside = _inner(truth)
    height, width = inside.shape[:2]

    def error_at(down: int, across: int) -> float:
        top, left = BORDER - down, BORDER - across
        return float(np.mean((x[top : top + height, left : left + width] - inside) ** 2))

    # No shift wins a draw.
    error, _, best = min((error_at(i, j), abs(i) + abs(j), (float(i), float(j))) for i in whole for j in whole)
    for step in FINER:
        centre = best
        for down in (-step, 0.0, step):
            for across in (-step, 0.0, step):
                move = (centre[0] + down, centre[1] + across)
                found = _error(shifted(x, *move), truth)
                if found < error:
                    error, best = found, move
    return shifted(x, *best), error


def _error(x: Array, truth: Array) -> float:
    return float(np.mean((_inner(x) - _inner(truth)) ** 2))


def _inner(x: Array) -> Array:
    return x[BORDER:-BORDER, BORDER:-BORDER]
