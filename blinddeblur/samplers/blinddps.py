"""BlindDPS: Chung, Kim, Kim and Ye, "Parallel Diffusion Models of Operator and Image for Blind Inverse Problems",
CVPR 2023, arXiv 2211.10656, Algorithm 1. Not the default: it needs priors that know the scene, and 1000 steps.

It is `parallel.sample` of image and kernel. A large photo comes in tiles with diffusions of their own, which share the
kernel.

The state is the paper's: x_t and k_t of the variance-preserving diffusion of 2 x - 1 and of 2 k / max(k) - 1, and
the residual is taken on [-1, 1], because the step size of the paper belongs to that scale.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import blur, extend, inner
from blinddeblur.progress import Callback, Step, unseen
from blinddeblur.samplers import parallel
from blinddeblur.samplers.parallel import STEP_SIZE, STEPS, Estimates, Unknown, clipped
from blinddeblur.samplers.schedule import Diffusion
from blinddeblur.tiles import Tile, blend

# The paper says 1.0, of a term that has no gradient in its published form. With one, 1.0 crushes the kernel before the
# measurement can shape it (agreement with the true kernel .21 instead of .72, benchmarks/RESULTS.md).
SPARSITY_WEIGHT = 0.01
L0_WIDTH = 0.1  # of the smooth l0, of the kernel's maximum: smaller entries count in part


def sparseness(u0: Tensor, kind: str) -> Tensor:
    """R(k0) of the kernel in [0, 1], before it is normalised: after that the l1 norm is 1 and has no gradient."""
    positive = u0.clamp_min(0)
    if kind == "none":
        return u0.new_zeros(())
    if kind == "l1":
        return positive.sum()
    return (1 - torch.exp(-((positive / L0_WIDTH) ** 2) / 2)).sum()  # smoothed l0, Mohimani et al. 2009


def sample(
    image_prior: Diffusion,
    kernel_prior: Diffusion | None,
    y: Tensor,
    kernel_size: int = kernels.PRIOR_SIZE - 1,
    steps: int = STEPS,
    step_size: float = STEP_SIZE,
    sparsity: str = "l1",
    sparsity_weight: float = SPARSITY_WEIGHT,
    tiles: Sequence[Tile] | None = None,
    tile_shape: tuple[int, int] | None = None,
    generator: torch.Generator | None = None,
    callback: Callback = unseen,
    alpha_bar: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw image and kernel from their joint posterior.

    Args:
        image_prior, kernel_prior: the two diffusions, the second on (1, 1, 64, 64); None is the uniform prior of the
            paper's ablation: the kernel starts flat and moves down the gradient alone.
        y: (1, C, H, W) in [0, 1], the measurement.
        kernel_size: K, odd, at most 63: the support of the kernel within its 64x64 array.
        steps: of the reverse diffusion; fewer than 1000 by respacing.
        step_size: alpha of Algorithm 1.
        sparsity: of the kernel: "l1" as for the paper's faces, "l0" as for its animals, or "none".
        sparsity_weight: lambda of Algorithm 1.
        tiles: rectangles of y, each with a diffusion of its own, that share the kernel; by default one, all of y.
        tile_shape: sides of the images the network takes, for one of fixed size; at least a tile and the border.
        generator: of all randomness, on the CPU.
        alpha_bar: (T,), the schedule both priors were trained on; by default the linear one.

    Returns the image (1, C, H, W) in [0, 1], not clipped, and the kernel (K, K), centred. Raises EstimationError where
    something became not a number on the way.
    """
    height, width = y.shape[-2:]
    tiles = tiles or [Tile(0, 0, height, width)]
    names = ["image"] if len(tiles) == 1 else [f"tile {i}" for i in range(len(tiles))]
    tile_of = dict(zip(names, tiles, strict=True))
    radius = kernel_size // 2
    shape = tile_shape or (tiles[0].height + 2 * radius, tiles[0].width + 2 * radius)
    frame = (1, y.shape[1], height + shape[0] - tiles[0].height, width + shape[1] - tiles[0].width)
    kernel_shape = (1, 1, kernels.PRIOR_SIZE, kernels.PRIOR_SIZE)

    # Tiles that overlap see the same noise, and the image sees the same whether or not the kernel has a prior.
    @lru_cache(maxsize=1)
    def drawn(index: int) -> list[Tensor]:
        return [torch.randn(shape, generator=generator) for shape in (frame, kernel_shape)]

    def noise(name: str, index: int) -> Tensor:
        whole, of_kernel = drawn(index)
        tile = tile_of.get(name)
        return (of_kernel if tile is None else Tile(tile.top, tile.left, *shape).of(whole)).to(y)

    def kernel_of(k0: Tensor) -> Tensor:
        return kernels.from_prior((k0 + 1) / 2, kernel_size)[0, 0]  # P_C of Algorithm 1: onto k >= 0, sum k = 1

    def objective(estimates: Estimates) -> Tensor:
        k0 = estimates["kernel"]
        (name,) = estimates.keys() - {"kernel"}
        measured = 2 * tile_of[name].of(y) - 1
        explained = inner(blur(estimates[name], kernel_of(k0)), 0, measured)
        misfit = torch.linalg.vector_norm(measured - explained)  # the norm itself and not its square
        return misfit + sparsity_weight * sparseness((k0 + 1) / 2, sparsity)

    def image_of(found: Estimates, moved: Sequence[int] = (0, 0)) -> Tensor:
        """The tiles without their border, shifted against the kernel's move, as one image in [0, 1]."""
        pieces = (
            (tile, Tile(2 * radius + moved[0], 2 * radius + moved[1], tile.height, tile.width).of(extend(x, radius)))
            for tile, x in ((tile_of[name], found[name]) for name in names)
        )
        return (blend(pieces, height, width) + 1) / 2

    unknowns = {name: Unknown((*frame[:2], *shape), clipped(image_prior), step_size) for name in names}
    unknowns["kernel"] = Unknown(kernel_shape, kernel_prior and clipped(kernel_prior), step_size)
    found = parallel.sample(
        unknowns,
        objective,
        steps,
        alpha_bar,
        device=y.device,
        callback=lambda index, x0: callback(Step(index, steps, image_of(x0), kernel_of(x0["kernel"]))),
        noise=noise,
        parts=names,
    )
    kernel, moved = kernels.centre(kernel_of(found["kernel"].detach()))
    return image_of({name: found[name].detach() for name in names}, moved.tolist()), kernel
