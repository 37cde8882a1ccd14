"""How wide a round blur is: what the spectrum of a picture and the strength of its tilts tell of it.

Neither needs the sharp image. The spectrum tells of any picture, roughly; the tilts of many frames tell more, since
the air that moves a point also blurs it.
"""

import torch
from torch import Tensor

from blinddeblur.physics.atmosphere import Blurs
from blinddeblur.physics.spectrum import counts, frequencies, radial_power, radial_transfer
from blinddeblur.priors import power_law
from blinddeblur.priors.kolmogorov import KolmogorovTilt

LAG = 32  # pixels between the points whose tilts are compared: beyond the width of the aperture, within a small frame
FROM_TILT = 0.3  # standard deviation of the logarithm of D / r0 that is told from tilts: no air is quite Kolmogorov's
LEAST_STRENGTH = 0.25  # D / r0; all that is less is no blur worth the name


def from_spectrum(y: Tensor, blurs: Blurs, sigma: float) -> Tensor:
    """(M,): the logarithm of how likely each blur is for a picture (1, 1, H, W) with noise sigma, up to a constant."""
    transfers = torch.stack([radial_transfer(kernel) for kernel in blurs.kernels])
    number = counts(y.shape[-2], y.shape[-1])
    found = power_law.log_likelihood(radial_power(y), transfers, sigma**2, frequencies(), number)
    return found.to(blurs.kernels.device)


def from_tilts(tilts: Tensor, cell: int, prior: KolmogorovTilt, blurs: Blurs) -> Tensor:
    """(M,): the logarithm of how likely each blur is for tilts (N, 2, h, w), N >= 2, in pixels at centres of cells."""
    strength = max(strength_of(tilts, cell, prior), LEAST_STRENGTH)
    return -0.5 * ((blurs.strengths.clamp_min(LEAST_STRENGTH) / strength).log() / FROM_TILT) ** 2


def strength_of(tilts: Tensor, cell: int, prior: KolmogorovTilt) -> float:
    """D / r0 of air that tilts so much, by the differences between points that lie LAG pixels apart."""
    number, _, rows, columns = tilts.shape
    step = min(LAG // cell, max(rows, columns) - 1)
    squares = [
        (tilts.narrow(axis, step, tilts.shape[axis] - step) - tilts.narrow(axis, 0, tilts.shape[axis] - step)).square()
        for axis in (-2, -1)
        if tilts.shape[axis] > step
    ]
    seen = sum(float(square.mean()) for square in squares) / len(squares)
    unbiased = seen * number / (number - 1)  # their mean was taken away
    return prior.d_over_r0 * (unbiased / prior.structure(step * cell)) ** 0.6  # it grows with (D / r0)^(5/3)


def median(belief: Tensor) -> int:
    """The number of the blur that is as likely too narrow as too wide, of the logarithms of probabilities (M,)."""
    return int((torch.softmax(belief, dim=0).cumsum(dim=0) < 0.5).sum())
