"""The blur of turbulence: what is left of the air in an exposure too short for it to move."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blinddeblur.errors import KernelError, UsageError

SIZE = 31  # of kernels; holds 97 % of the light up to D / r0 = 4, 95 % up to 6
TRANSFORM = 512  # pixels a side of the transform that kernels are made with; light beyond it comes round, under 0.1 %
STRENGTHS = (0.0, *np.geomspace(0.5, 8, 24).round(3).tolist())  # D / r0 of the family of blurs
FINER = (1.0, 1.5)  # pixels per lambda / D of blurs narrower than all of these: a lens that outdoes the pixels


@dataclass(frozen=True)
class Blurs:
    """Round blurs from none to strong turbulence, a family of one parameter.

    Attributes:
        kernels: (M, K, K), the first a single point.
        strengths: (M,), D / r0 of each; 0 for those that are no air at all.
    """

    kernels: Tensor
    strengths: Tensor


def round_blurs(size: int, device: torch.device | str = "cpu") -> Blurs:
    """The family of round blurs on arrays of an odd side `size`, at most 511 pixels."""
    point = np.zeros((size, size), np.float32)
    point[size // 2, size // 2] = 1
    finer = [short_exposure_kernel(0, size, pixels) for pixels in FINER]
    air = [short_exposure_kernel(strength, size) for strength in STRENGTHS]
    kernels = torch.from_numpy(np.stack([point, *finer, *air]))
    strengths = torch.tensor([0.0] * (1 + len(FINER)) + list(STRENGTHS))
    return Blurs(kernels.to(device), strengths.to(device))


def short_exposure_kernel(
    d_over_r0: float, size: int = SIZE, pixels_per_lambda_over_d: float = 2.0
) -> NDArray[np.float32]:
    """The mean blur of short exposures whose tilt is taken away, (size, size); it sums to 1.

    Its transfer function is that of a circular aperture without light in between, times Fried's (1966, "Optical
    resolution through a randomly inhomogeneous medium", near field):

        exp(-3.44 (D/r0)^(5/3) nu^(5/3) (1 - nu^(1/3)))    2 / pi (acos nu - nu sqrt(1 - nu^2)),    nu = a f

    with f in cycles per pixel and a in pixels for lambda / D. Without turbulence it is the Airy disc, and not a point;
    what falls beyond the array is left out. Pixels are points: the photo that is blurred knows their area already.

    Args:
        d_over_r0: the aperture over Fried's parameter, not negative; 0 is still air.
        size: odd.
        pixels_per_lambda_over_d: a; 2 samples the aperture's transfer function at its Nyquist rate. Below 2 the band of
            the pixels cuts it off, and what this makes negative is set to 0.

    Raises:
        KernelError: the size is not odd, or above 511.
        UsageError: another parameter is not a number in its range.
    """
    if size < 1 or size % 2 == 0 or size >= TRANSFORM:
        raise KernelError(f"A kernel cannot have {size} x {size} pixels. Give an odd size below {TRANSFORM}.")
    if not (math.isfinite(d_over_r0) and d_over_r0 >= 0):
        raise UsageError(f"The turbulence D / r0 is {d_over_r0}. Give 0 or a positive number.")
    if not (math.isfinite(pixels_per_lambda_over_d) and pixels_per_lambda_over_d > 0):
        raise UsageError(f"lambda / D cannot be {pixels_per_lambda_over_d} pixels. Give a positive number.")
    row, column = np.fft.fftfreq(TRANSFORM)[:, None], np.fft.rfftfreq(TRANSFORM)[None]
    nu = np.minimum(pixels_per_lambda_over_d * np.hypot(row, column), 1)
    air = np.exp(-3.44 * d_over_r0 ** (5 / 3) * nu ** (5 / 3) * (1 - np.cbrt(nu)))
    aperture = 2 / math.pi * (np.arccos(nu) - nu * np.sqrt(1 - nu**2))
    whole = np.fft.fftshift(np.fft.irfft2(air * aperture))
    middle = slice(TRANSFORM // 2 - size // 2, TRANSFORM // 2 + size // 2 + 1)
    kernel = np.maximum(whole[middle, middle], 0)
    return (kernel / kernel.sum()).astype(np.float32)
