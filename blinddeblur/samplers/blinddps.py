"""BlindDPS: Chung, Kim, Kim and Ye, "Parallel Diffusion Models of Operator and Image for Blind Inverse Problems",
CVPR 2023, arXiv 2211.10656, Algorithm 1. Not the default: it needs priors that know the scene, and 1000 steps.

It is `parallel.sample` of image and kernel, and draws the same where one tile is the whole photo. What this adds are
tiles that share the kernel, in the memory of one: each tile moves before the next is looked at, the kernel after all.

The state is the paper's: x_t and k_t of the variance-preserving diffusion of 2 x - 1 and of 2 k / max(k) - 1, and
the residual is taken on [-1, 1], because the step size of the paper belongs to that scale.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.errors import EstimationError
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import blur
from blinddeblur.progress import Step
from blinddeblur.samplers.parallel import STEP_SIZE, STEPS, Diffusion, Unknown, clipped, levels
from blinddeblur.tiles import Tile, blend

# The paper says 1.0, of a term that has no gradient in its published form. With one, 1.0 crushes the kernel before the
# measurement can shape it (agreement with the true kernel .21 instead of .72, benchmarks/RESULTS.md).
SPARSITY_WEIGHT = 0.01
L0_WIDTH = 0.1  # of the smooth l0, of the kernel's maximum: smaller entries count in part


@dataclass(frozen=True)
class Settings:
    """What the paper leaves to choose.

    Attributes:
        steps: of the reverse diffusion; fewer than 1000 by respacing.
        step_size: alpha of Algorithm 1.
        schedule: "constant" as in the paper, or "sqrt-alpha-bar": the step size times sqrt(alpha_bar_t).
        sparsity: "l1" or "l0" of the kernel in [0, 1] before it is made to sum to 1, or "none".
        sparsity_weight: lambda of Algorithm 1.
        clip: bring x_0 into [-1, 1], as DDPM samplers do, where Algorithm 1 is silent.
    """

    steps: int = STEPS
    step_size: float = STEP_SIZE
    schedule: Literal["constant", "sqrt-alpha-bar"] = "constant"
    sparsity: Literal["l1", "l0", "none"] = "l1"
    sparsity_weight: float = SPARSITY_WEIGHT
    clip: bool = True


def objective(y: Tensor, x0: Tensor, kernel: Tensor) -> Tensor:
    """||y - k0 * x0||_2, the norm itself and not its square; x0 may reach further than the frame of y needs."""
    return torch.linalg.vector_norm(y - blur(x0, kernel)[..., : y.shape[-2], : y.shape[-1]])


def sparsity(u0: Tensor, kind: str) -> Tensor:
    """R(k0) of the kernel in [0, 1], before it is normalised: after that the l1 norm is 1 and has no gradient."""
    positive = u0.clamp_min(0)
    if kind == "l1":
        return positive.sum()
    return (1 - torch.exp(-((positive / L0_WIDTH) ** 2) / 2)).sum()  # smoothed l0, Mohimani et al. 2009


def sample(
    image_prior: Diffusion,
    kernel_prior: Diffusion | None,
    alpha_bar: Tensor,
    y: Tensor,
    kernel_size: int = kernels.PRIOR_SIZE - 1,
    settings: Settings = Settings(),
    tiles: Sequence[Tile] | None = None,
    tile_shape: tuple[int, int] | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[Step], None] = lambda step: None,
) -> tuple[Tensor, Tensor]:
    """Draw image and kernel from their joint posterior.

    Args:
        image_prior, kernel_prior: the two diffusions, the second on (1, 1, 64, 64); None is the uniform prior of the
            paper's ablation: the kernel starts flat and moves down the gradient alone.
        alpha_bar: (T,), the schedule both were trained on.
        y: (1, C, H, W) in [0, 1], the measurement.
        kernel_size: K, odd, at most 63: the support of the kernel within its 64x64 array.
        settings: of the algorithm.
        tiles: rectangles of y, each with a diffusion of its own, that share the kernel; by default one, all of y.
        tile_shape: sides of the images the network takes, for one of fixed size; at least a tile and the border.
        generator: of all randomness, on the CPU.
        callback: told of every step.

    Returns:
        the image (1, C, H, W) in [0, 1], not clipped, and the kernel (K, K), centred.

    Raises:
        EstimationError: something became not a number on the way.
    """
    height, width = y.shape[-2:]
    tiles = tiles or [Tile(0, 0, height, width)]
    if settings.clip:
        image_prior, kernel_prior = clipped(image_prior), kernel_prior and clipped(kernel_prior)
    edge = kernel_size - 1
    shape = tile_shape or (tiles[0].height + edge, tiles[0].width + edge)
    beyond = (shape[0] - tiles[0].height, shape[1] - tiles[0].width)
    frame = (1, y.shape[1], height + beyond[0], width + beyond[1])

    def noise() -> list[Tensor]:  # drawn over the whole frame, so that overlapping tiles see the same
        whole = torch.randn(frame, generator=generator)
        return [whole[..., t.top : t.top + shape[0], t.left : t.left + shape[1]].to(y) for t in tiles]

    measurements = [2 * tile.of(y) - 1 for tile in tiles]
    states = noise()
    unknown = Unknown((1, 1, kernels.PRIOR_SIZE, kernels.PRIOR_SIZE), kernel_prior)
    k_t = torch.randn(unknown.shape, generator=generator).to(y)
    if unknown.prior is None:
        k_t.zero_()
    schedule = levels(alpha_bar, settings.steps)
    kernel = k_t
    for index, level in enumerate(schedule):
        step_size = settings.step_size * (level.alpha_bar**0.5 if settings.schedule == "sqrt-alpha-bar" else 1)

        k_t = k_t.detach().requires_grad_()
        k_mean, k_v = unknown.predict(k_t, level)
        u0 = (k_mean + 1) / 2
        k0 = kernels.from_prior(u0, kernel_size)  # P_C of Algorithm 1: onto k >= 0, sum k = 1
        kernel = k0.detach()[0, 0].requires_grad_()

        kernel_gradient = torch.zeros_like(kernel)
        estimates = []
        for i, (y_i, noise_i) in enumerate(zip(measurements, noise(), strict=True)):
            x_t = states[i].detach().requires_grad_()
            x0, v = image_prior(x_t, level.t, level.alpha_bar)
            to_image, to_kernel = torch.autograd.grad(objective(y_i, x0, kernel), (x_t, kernel))
            kernel_gradient += to_kernel / len(tiles)
            estimates.append(x0.detach())
            with torch.no_grad():
                states[i] = level.ancestral(x_t, x0, v, noise_i) - step_size * to_image

        # The chain rule in two parts: the residual's gradient at k0, gathered from all tiles, then through the network.
        coupling = (k0[0, 0] * kernel_gradient).sum()
        if settings.sparsity != "none":
            coupling = coupling + settings.sparsity_weight * sparsity(u0, settings.sparsity)
        (gradient,) = torch.autograd.grad(coupling, k_t)
        with torch.no_grad():
            k_noise = torch.randn(k_t.shape, generator=generator).to(y)  # drawn in any case: the image sees the same
            k_t = unknown.moved(k_t, k_mean, k_v, k_noise, level, step_size * gradient)
        if not (torch.isfinite(k_t).all() and all(torch.isfinite(x).all() for x in states)):
            raise EstimationError(
                f"blinddps diverged at step {index + 1}: values are no longer numbers. Use more steps."
            )
        whole = _within_frame(estimates, tiles, edge // 2, (0, 0), height, width)
        callback(Step(index, len(schedule), (whole + 1) / 2, kernel.detach()))

    kernel, moved = kernels.centre(kernels.from_prior((k_t.detach() + 1) / 2, kernel_size)[0, 0])
    image = _within_frame(states, tiles, edge // 2, moved, height, width)
    return (image + 1) / 2, kernel


def _within_frame(
    states: Sequence[Tensor], tiles: Sequence[Tile], radius: int, moved: tuple[int, int], height: int, width: int
) -> Tensor:
    """The tiles without their border, shifted against the kernel's move, as one image."""
    pieces = []
    for tile, state in zip(tiles, states, strict=True):
        padded = F.pad(state, (radius, radius, radius, radius), mode="replicate")
        inner = Tile(2 * radius + moved[0], 2 * radius + moved[1], tile.height, tile.width)
        pieces.append((tile, inner.of(padded)))
    return blend(pieces, height, width)
