"""How the power of sharp photos is spread over frequencies: a Gaussian prior over their log spectra. No network.

A sharp photo is taken as a stationary Gaussian field with the spectrum

    ln S_c(f) = -2.1 ln |f| + B(f) c,        c ~ N(mu, C / T),

where B holds hat functions of ln |f| and waves of the angle, each times hats of ln |f|. Mean and covariance are those
of sharp photographs; the temper T > 1 says that they are less different than it seems from fits to noisy periodograms.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SLOPE = -2.1  # of the logarithm of power over that of frequency: about that of photographs, so that c is small
KNOTS, LOWEST, HIGHEST = 11, 0.01, 0.55  # hats of ln |f|, in cycles per pixel
ANGULAR_KNOTS, ANGULAR_LOWEST, ANGULAR_HIGHEST = 3, 0.02, 0.5  # hats that the waves of the angle are multiplied by
WAVES = (2, 4, 6, 8)  # periods around the circle; odd ones cannot be, since power is the same at f and -f
SIZE = KNOTS + 2 * len(WAVES) * ANGULAR_KNOTS  # coefficients
TEMPER = 10.0  # 5 to 20 choose kernels as well within .1 dB on 32 crops; 1 and 40 do not


@dataclass(frozen=True)
class PhotoSpectra:
    """What is known of the spectra of sharp photos.

    Attributes:
        mean: (SIZE,) of the coefficients c.
        precision: (SIZE, SIZE), the inverse of their covariance, tempered: T C^-1.
    """

    mean: Tensor
    precision: Tensor

    @classmethod
    def of(cls, coefficients: Tensor, temper: float = TEMPER) -> "PhotoSpectra":
        """The prior of fitted coefficients (N, SIZE), one row a photo; the farthest fiftieth of them does not count."""
        far = (coefficients - coefficients.mean(dim=0)).abs().amax(dim=1)
        kept = coefficients[far <= far.quantile(0.98)].double()
        covariance = torch.cov(kept.T, correction=0) + 1e-3 * torch.eye(SIZE, dtype=torch.float64)
        return cls(kept.mean(dim=0).float(), (temper * torch.linalg.inv(covariance)).float())

    def to(self, device: torch.device) -> "PhotoSpectra":
        """The same on a device."""
        return PhotoSpectra(self.mean.to(device), self.precision.to(device))


def frequencies(height: int, width: int) -> tuple[Tensor, Tensor]:
    """(height, width // 2 + 1), in cycles per pixel, of a real transform: their lengths, and their angles."""
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    return torch.hypot(rows, columns), torch.atan2(rows, columns)


def law(length: Tensor) -> Tensor:
    """The logarithm of a power law at frequencies (F,)."""
    return SLOPE * length.log()


def basis(length: Tensor, angle: Tensor) -> Tensor:
    """B at frequencies (F,) with their angles: (F, SIZE)."""
    place = length.log()
    columns = [_hats(place, KNOTS, LOWEST, HIGHEST)]
    coarse = _hats(place, ANGULAR_KNOTS, ANGULAR_LOWEST, ANGULAR_HIGHEST)
    for periods in WAVES:
        columns += [coarse * wave(periods * angle)[:, None] for wave in (torch.cos, torch.sin)]
    return torch.cat(columns, dim=1)


def _hats(place: Tensor, number: int, lowest: float, highest: float) -> Tensor:
    """(F, number): weights of linear interpolation between knots evenly spaced in ln |f|, constant beyond them."""
    low, high = math.log(lowest), math.log(highest)
    at = ((place - low) / (high - low) * (number - 1)).clamp(0, number - 1)
    return (1 - (at[:, None] - torch.arange(number)).abs()).clamp_min(0)
