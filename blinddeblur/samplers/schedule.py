"""The noise levels that samplers go through, and what they ask a prior at each."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from blinddeblur.priors.ddpm import linear_alpha_bar

CURVATURE = 7.0  # rho of Karras et al. 2022: larger puts more of the steps at low noise


class Denoiser(Protocol):
    """An image prior: D(x0 + sigma n, sigma) -> x0, for x (B, C, H, W) in [0, 1] and sigma in the same units."""

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor: ...


class Diffusion(Protocol):
    """A prior on the scale of the paper: (x_t, t, alpha_bar_t) -> x_0 by Tweedie's formula, and v or None."""

    def __call__(self, x_t: Tensor, t: int, alpha_bar: float, /) -> tuple[Tensor, Tensor | None]: ...


class Predicts(Protocol):
    """Whatever predicts x_0 on the scale of the paper: a network (Prior), or an analytic one such as KolmogorovTilt."""

    def predict(self, x_t: Tensor, t: int, alpha_bar: float, /) -> tuple[Tensor, Tensor | None]:
        """Tweedie's estimate of x_0 in [-1, 1], and v of Nichol and Dhariwal 2021, equation 15, or None."""
        ...


def log_spaced(start: float, end: float, steps: int) -> list[float]:
    """Noise levels from `start` down to `end`, 2 or more, each the same fraction of the one before."""
    return [start * (end / start) ** (index / (steps - 1)) for index in range(steps)]


def curved(start: float, end: float, steps: int) -> list[float]:
    """Noise levels from `start` down to `end`, 2 or more, and 0 after them (Karras et al. 2022, equation 5)."""
    low, high = end ** (1 / CURVATURE), start ** (1 / CURVATURE)
    return [(high + (low - high) * i / (steps - 1)) ** CURVATURE for i in range(steps)] + [0.0]


@dataclass(frozen=True)
class Level:
    """One step of the respaced schedule: where it is, and the coefficients of q(x_{t-1} | x_t, x_0)."""

    t: int
    alpha_bar: float
    previous: float  # alpha_bar of the step after this one
    beta: float

    @property
    def posterior_variance(self) -> float:
        """beta tilde of Ho et al. 2020, equation 7."""
        return self.beta * (1 - self.previous) / (1 - self.alpha_bar)

    def ancestral(self, x_t: Tensor, x0: Tensor, v: Tensor | None, noise: Tensor) -> Tensor:
        """A sample of p(x_{t-1} | x_t) (Ho et al. 2020, equations 6 and 7), before any measurement."""
        from_x0 = self.previous**0.5 * self.beta / (1 - self.alpha_bar)
        from_x_t = (1 - self.beta) ** 0.5 * (1 - self.previous) / (1 - self.alpha_bar)
        mean = from_x0 * x0 + from_x_t * x_t
        if self.previous == 1:  # the last step adds no noise
            return mean
        if v is None:
            return mean + self.posterior_variance**0.5 * noise
        share = (v + 1) / 2  # Nichol and Dhariwal 2021, equation 15
        upper, lower = torch.tensor([self.beta, self.posterior_variance]).log().tolist()
        return mean + torch.exp(0.5 * (share * upper + (1 - share) * lower)) * noise

    def estimate(self, denoise: Denoiser, x_t: Tensor) -> Tensor:
        """The prior's x_0 in [0, 1] for a state of the variance-preserving diffusion of what lies in [-1, 1]."""
        sigma = ((1 - self.alpha_bar) / self.alpha_bar) ** 0.5 / 2
        return denoise((x_t / self.alpha_bar**0.5 + 1) / 2, sigma)


def levels(steps: int, alpha_bar: Tensor | None = None) -> list[Level]:
    """A schedule (T,), by default the linear one, thinned to `steps` evenly spaced timesteps, noisiest first."""
    table = linear_alpha_bar() if alpha_bar is None else alpha_bar
    last = len(table) - 1
    chosen = torch.linspace(0, last, steps).round().long().tolist() if steps > 1 else [last]
    values = [1.0] + [float(table[t]) for t in chosen]
    return [
        Level(t, now, before, 1 - now / before) for t, before, now in zip(chosen, values, values[1:], strict=False)
    ][::-1]
