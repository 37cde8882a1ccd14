"""What all samplers share: the noise levels, and the denoiser they call."""

from typing import Protocol

from torch import Tensor


class Denoiser(Protocol):
    """An image prior: D(x0 + sigma n, sigma) -> x0, for x (B, C, H, W) in [0, 1] and sigma in the same units."""

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor: ...


def log_spaced(start: float, end: float, steps: int) -> list[float]:
    """Noise levels from `start` down to `end`, each the same fraction of the one before."""
    return [start * (end / start) ** (index / (steps - 1)) for index in range(steps)]


def paper_estimate(denoise: Denoiser, x_t: Tensor, alpha_bar: float) -> Tensor:
    """The prior's x_0 in [0, 1] for a state of the variance-preserving diffusion of what lies in [-1, 1]."""
    sigma = ((1 - alpha_bar) / alpha_bar) ** 0.5 / 2
    return denoise((x_t / alpha_bar**0.5 + 1) / 2, sigma)
