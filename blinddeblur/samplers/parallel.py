"""Parallel reverse diffusions of all unknowns of a measurement, coupled by what they explain together.

The scheme of BlindDPS (Chung et al., CVPR 2023, arXiv 2211.10656) for any differentiable objective of any number of
unknowns. At each step every prior estimates its x_0 by Tweedie's formula and draws the ancestral sample of x_{t-1};
then all move down the gradient of the objective of the estimates, taken through the priors:

    x_{t-1} <- sample of p(x_{t-1} | x_t) - step size * grad_{x_t} objective(x_0(x_t), k_0(k_t), ...)

The states are the paper's: variance-preserving diffusions of what lies in [-1, 1].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from blinddeblur.errors import EstimationError

STEP_SIZE = 0.3  # alpha of the paper
STEPS = 1000

Estimates = dict[str, Tensor]


class Diffusion(Protocol):
    """A prior on the scale of the paper: (x_t, t, alpha_bar_t) -> x_0 by Tweedie's formula, and v or None."""

    def __call__(self, x_t: Tensor, t: int, alpha_bar: float, /) -> tuple[Tensor, Tensor | None]: ...


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


@dataclass(frozen=True)
class Unknown:
    """One of the things to be found.

    Attributes:
        shape: of its state.
        prior: learned or analytic; None for a uniform one on [-1, 1]. Then nothing is diffused: the unknown starts
            from the middle and moves down the gradient alone, within its range.
        step_size: of the moves down the gradient.
    """

    shape: tuple[int, ...]
    prior: Diffusion | None
    step_size: float = STEP_SIZE

    def predict(self, x_t: Tensor, level: Level) -> tuple[Tensor, Tensor | None]:
        """Its x_0 on [-1, 1], and v or None; without a prior the state itself."""
        return (x_t, None) if self.prior is None else self.prior(x_t, level.t, level.alpha_bar)

    def moved(
        self, x_t: Tensor, x0: Tensor, v: Tensor | None, noise: Tensor | None, level: Level, move: Tensor
    ) -> Tensor:
        """x_{t-1}: the ancestral sample less the move down the gradient; without a prior the move alone, in range."""
        if self.prior is None or noise is None:
            return (x_t - move).clamp(-1, 1)
        return level.ancestral(x_t, x0, v, noise) - move


def levels(alpha_bar: Tensor, steps: int) -> list[Level]:
    """The schedule (T,) thinned to `steps` evenly spaced timesteps, noisiest first."""
    chosen = torch.linspace(0, len(alpha_bar) - 1, steps).round().long().tolist() if steps > 1 else [len(alpha_bar) - 1]
    values = [1.0] + [float(alpha_bar[t]) for t in chosen]
    return [
        Level(t, now, before, 1 - now / before) for t, before, now in zip(chosen, values, values[1:], strict=False)
    ][::-1]


def clipped(prior: Diffusion) -> Diffusion:
    """The prior with its x_0 brought into [-1, 1], as DDPM samplers do, where the paper is silent."""

    def predict(x_t: Tensor, t: int, alpha_bar: float, /) -> tuple[Tensor, Tensor | None]:
        x0, v = prior(x_t, t, alpha_bar)
        return x0.clamp(-1, 1), v

    return predict


def sample(
    unknowns: Mapping[str, Unknown],
    objective: Callable[[Estimates], Tensor],
    alpha_bar: Tensor,
    steps: int = STEPS,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    callback: Callable[[int, Estimates], None] = lambda index, estimates: None,
    noise: Callable[[str, int], Tensor] | None = None,
) -> Estimates:
    """Draw all unknowns from their joint posterior.

    Args:
        unknowns: by the names that the objective calls them.
        objective: the estimates x_0 on [-1, 1], not clipped, by name -> a number, differentiable: how badly they
            explain the measurement, such as ||y - A(x_0)||_2 (Gaussian noise; the norm, not its square).
        alpha_bar: (T,), the schedule that all priors were trained on.
        steps: of the reverse diffusion; fewer than T by respacing.
        generator: of all randomness, on the CPU.
        device: where the priors compute.
        callback: told of every step: its index from 0, and the estimates x_0 there.
        noise: standard normal numbers for an unknown by its name, on the device, for the start (0) and for each step
            (from 1); by default of the generator.

    Returns:
        the unknowns, on [-1, 1] but for the last move down the gradient.

    Raises:
        EstimationError: something became not a number on the way.
    """

    def drawn(name: str, index: int) -> Tensor:
        return torch.randn(unknowns[name].shape, generator=generator).to(device)

    noise = noise or drawn
    states = {n: torch.zeros(u.shape, device=device) if u.prior is None else noise(n, 0) for n, u in unknowns.items()}
    for index, level in enumerate(levels(alpha_bar, steps)):
        estimates, variances = {}, {}
        for name, unknown in unknowns.items():
            x_t = states[name].requires_grad_()
            estimates[name], variances[name] = unknown.predict(x_t, level)
        gradients = torch.autograd.grad(objective(estimates), list(states.values()))
        estimates = {name: x0.detach() for name, x0 in estimates.items()}
        with torch.no_grad():
            for (name, unknown), gradient in zip(unknowns.items(), gradients, strict=True):
                z = None if unknown.prior is None else noise(name, index + 1)
                move = unknown.step_size * gradient
                states[name] = unknown.moved(states[name], estimates[name], variances[name], z, level, move)
                if not torch.isfinite(states[name]).all():
                    raise EstimationError(
                        f"The diffusion of the {name} diverged at step {index + 1}: values are no longer numbers. "
                        "Use more steps."
                    )
        callback(index, estimates)
    return states
