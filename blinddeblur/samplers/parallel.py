"""Parallel reverse diffusions of all unknowns of a measurement, coupled by what they explain together.

The scheme of BlindDPS (Chung et al., CVPR 2023, arXiv 2211.10656) for any differentiable objective of any number of
unknowns. At each step every prior estimates its x_0 by Tweedie's formula and draws the ancestral sample of x_{t-1};
then all move down the gradient of the objective of the estimates, taken through the priors:

    x_{t-1} <- sample of p(x_{t-1} | x_t) - step size * grad_{x_t} objective(x_0(x_t), k_0(k_t), ...)

The states are the paper's: variance-preserving diffusions of what lies in [-1, 1].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blinddeblur.errors import EstimationError
from blinddeblur.samplers.schedule import Diffusion, Level, levels

STEP_SIZE = 0.3  # alpha of the paper
STEPS = 1000  # as long as the schedule: no respacing

Estimates = dict[str, Tensor]


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


class _Look:
    """An unknown as its prior sees it at one level, x_0 and v; without a prior x_0 is the state itself."""

    def __init__(self, unknown: Unknown, x_t: Tensor, level: Level) -> None:
        self.unknown, self.level, self.x_t = unknown, level, x_t.requires_grad_()
        self.x0, self.v = (x_t, None) if unknown.prior is None else unknown.prior(x_t, level.t, level.alpha_bar)

    def moved(self, gradient: Tensor, noise: Tensor | None) -> Tensor:
        """x_{t-1}: the ancestral sample less the move down the gradient; without a prior the move alone, in range.

        Args:
            gradient: of the objective with respect to x_0; it goes on through the prior.
            noise: standard normal, where there is a prior.
        """
        (through,) = torch.autograd.grad(self.x0, self.x_t, gradient)
        move = self.unknown.step_size * through
        with torch.no_grad():
            if noise is None:
                return (self.x_t - move).clamp(-1, 1)
            return self.level.ancestral(self.x_t, self.x0, self.v, noise) - move


def clipped(prior: Diffusion) -> Diffusion:
    """The prior with its x_0 brought into [-1, 1], as DDPM samplers do, where the paper is silent."""

    def predict(x_t: Tensor, t: int, alpha_bar: float, /) -> tuple[Tensor, Tensor | None]:
        x0, v = prior(x_t, t, alpha_bar)
        return x0.clamp(-1, 1), v

    return predict


def sample(
    unknowns: Mapping[str, Unknown],
    objective: Callable[[Estimates], Tensor],
    steps: int = STEPS,
    alpha_bar: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    callback: Callable[[int, Estimates], None] = lambda index, estimates: None,
    noise: Callable[[str, int], Tensor] | None = None,
    parts: Sequence[str] = (),
) -> Estimates:
    """Draw all unknowns from their joint posterior.

    Args:
        unknowns: by the names that the objective calls them.
        objective: the estimates x_0 on [-1, 1], by name -> a number, differentiable: how badly they explain the
            measurement, such as ||y - A(x_0)||_2 (Gaussian noise; the norm, not its square).
        steps: of the reverse diffusion; fewer than T by respacing.
        alpha_bar: (T,), the schedule that all priors were trained on; by default the linear one.
        generator: of all randomness, on the CPU.
        device: where the priors compute.
        callback: told of every step: its index from 0, and the estimates x_0 there.
        noise: standard normal numbers for an unknown by its name, on the device, for the start (0) and for each step
            (from 1); by default of the generator.
        parts: names of unknowns that are parts of one, such as the tiles of an image. They take turns, in the memory of
            one: the objective is called with each of them and all that is no part, and the part moves before the next
            is looked at; what is no part moves after all, down the mean gradient.

    Returns the unknowns, on [-1, 1] but for the last move down the gradient. Raises EstimationError where something
    became not a number on the way.
    """

    def drawn(name: str, index: int) -> Tensor:
        return torch.randn(unknowns[name].shape, generator=generator).to(device)

    noise = noise or drawn
    states = {n: torch.zeros(u.shape, device=device) if u.prior is None else noise(n, 0) for n, u in unknowns.items()}

    def move(name: str, look: _Look, gradient: Tensor, index: int) -> None:
        states[name] = look.moved(gradient, None if look.unknown.prior is None else noise(name, index + 1))
        if not torch.isfinite(states[name]).all():
            raise EstimationError(
                f"The diffusion of the {name} diverged at step {index + 1}: values are no longer numbers. "
                "Use more steps."
            )

    for index, level in enumerate(levels(steps, alpha_bar)):
        shared = {n: _Look(u, states[n], level) for n, u in unknowns.items() if n not in parts}
        pulls = {n: torch.zeros_like(look.x0) for n, look in shared.items()}
        estimates = {n: look.x0.detach() for n, look in shared.items()}
        for part in parts or ("",):
            looks = {n: _Look(unknowns[n], states[n], level) for n in unknowns if n == part} | shared
            leaves = {n: look.x0.detach().requires_grad_() for n, look in looks.items()}
            gradients = dict(zip(leaves, torch.autograd.grad(objective(leaves), list(leaves.values())), strict=True))
            for n in shared:
                pulls[n] += gradients[n] / max(1, len(parts))
            if part:
                estimates[part] = looks[part].x0.detach()
                move(part, looks[part], gradients[part], index)
        for n, look in shared.items():
            move(n, look, pulls[n], index)
        callback(index, estimates)
    return states
