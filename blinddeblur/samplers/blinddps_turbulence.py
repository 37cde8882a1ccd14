"""Imaging through turbulence: Algorithm 2 of BlindDPS (Chung et al., CVPR 2023, arXiv 2211.10656), for one frame.

Image, kernel and tilt are diffused in parallel, coupled by ||y - k * T_phi(x)||_2: first the air displaces, then it
blurs. As in `blinddps`, the residual is taken on [-1, 1]; there is no sparsity term.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import blur
from blinddeblur.physics.tilt import warp
from blinddeblur.progress import Callback, Step, unseen
from blinddeblur.samplers.inverse_problem import sample_posterior
from blinddeblur.samplers.parallel import STEP_SIZE, STEPS, Estimates
from blinddeblur.samplers.schedule import Diffusion
from blinddeblur.tiles import Tile


def sample(
    image_prior: Diffusion,
    kernel_prior: Diffusion,
    tilt_prior: Diffusion,
    y: Tensor,
    kernel_size: int,
    unit: float,
    steps: int = STEPS,
    step_size: float = STEP_SIZE,
    image_side: int | None = None,
    tilt_side: int | None = None,
    generator: torch.Generator | None = None,
    callback: Callback = unseen,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw image, kernel and tilt from their joint posterior.

    Args:
        image_prior, kernel_prior, tilt_prior: the three diffusions, the second on (1, 1, 64, 64), the third of fields
            with two channels.
        y: (1, C, H, W) in [0, 1], the measurement.
        kernel_size: K, odd, at most 63: the support of the kernel within its 64x64 array.
        unit: the displacement, in pixels, that is 1 on the scale of the tilt prior.
        steps: of the reverse diffusion.
        step_size: alpha of the algorithm, of all three.
        image_side, tilt_side: of the only images and fields that a network of fixed size takes: at least
            `sides(height, width, kernel_size, unit)`, for the tilt at least the frame and K - 1.
        generator: of all randomness, on the CPU.

    Returns the image (1, C, H, W) in [0, 1], not clipped; the kernel (K, K), centred; and the tilt (1, 2, H, W), row
    and column displacement in pixels. Raises EstimationError where something became not a number on the way.
    """
    height, width = y.shape[-2:]
    radius = kernel_size // 2
    seen = (height + 2 * radius, width + 2 * radius)  # light from beyond the frame falls into it by the blur,
    needed = sides(height, width, kernel_size, unit)  # and by the tilt
    margin = (needed[0] - height) // 2
    image_shape = (image_side, image_side) if image_side else needed
    tilt_shape = (tilt_side, tilt_side) if tilt_side else seen

    def kernel_of(k0: Tensor) -> Tensor:
        return kernels.from_prior((k0 + 1) / 2, kernel_size)[0, 0]  # P_C of Algorithm 1: onto k >= 0, sum k = 1

    def operator(image: Tensor, kernel: Tensor, tilt: Tensor) -> Tensor:
        displaced = warp(image[..., : needed[0], : needed[1]], unit * tilt[..., : seen[0], : seen[1]])
        return blur(displaced, kernel_of(kernel))

    def framed(x0: Tensor, beyond: int, moved: Sequence[int] = (0, 0)) -> Tensor:
        return Tile(beyond + moved[0], beyond + moved[1], height, width).of(x0)

    def report(index: int, estimates: Estimates) -> None:
        image = (framed(estimates["image"], margin) + 1) / 2
        callback(Step(index, steps, image, kernel_of(estimates["kernel"])))

    found = sample_posterior(
        2 * y - 1,
        operator,
        priors={"image": image_prior, "kernel": kernel_prior, "tilt": tilt_prior},
        shapes={
            "image": (1, y.shape[1], *image_shape),
            "kernel": (1, 1, kernels.PRIOR_SIZE, kernels.PRIOR_SIZE),
            "tilt": (1, 2, *tilt_shape),
        },
        steps=steps,
        step_size=step_size,
        generator=generator,
        callback=report,
    )
    # A kernel that lies off its middle is one at the middle, with image and tilt shifted the other way.
    kernel, moved = kernels.centre(kernel_of(found["kernel"]))
    image, tilt = (
        framed(found[name], beyond, moved.tolist()) for name, beyond in (("image", margin), ("tilt", radius))
    )
    return (image + 1) / 2, kernel, unit * tilt


def sides(height: int, width: int, kernel_size: int, unit: float) -> tuple[int, int]:
    """The sides of the image that falls into a frame: the kernel's reach and half a unit of tilt lie around it.

    Half a unit is two standard deviations. What a larger tilt fetches from further out continues the edge.
    """
    beyond = kernel_size - 1 + 2 * math.ceil(unit / 2)
    return height + beyond, width + beyond
