"""What a prior believes: images, kernels or tilts out of noise, without any measurement.

The reverse diffusion of Song et al. 2021 in the variance-exploding form, by Euler's method between noise levels
such as `schedule.curved`.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from blinddeblur.samplers.schedule import Denoiser


def sample(
    denoise: Denoiser,
    x: Tensor,
    sigmas: list[float],
    generator: torch.Generator | None = None,
    callback: Callable[[int, Tensor], None] = lambda index, x0: None,
) -> Tensor:
    """Follow the reverse diffusion from `x` to the end, by ancestral sampling: (B, C, H, W), not clipped.

    Args:
        denoise: the prior.
        x: (B, C, H, W), an image with noise of standard deviation sigmas[0]; pure noise where that is large.
        sigmas: falling noise levels, the last one 0.
        generator: of the noise that is injected, on the CPU.
        callback: told the index of each step and the denoised estimate there.
    """
    for index, (sigma, following) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        fresh = following**2 * (1 - (following / sigma) ** 2)  # the posterior variance given x0
        kept = (following**2 - fresh) ** 0.5
        x = x0 + kept / sigma * (x - x0)
        if fresh > 0:
            x = x + fresh**0.5 * torch.randn(x.shape, generator=generator).to(x)
        callback(index, x0)
    return x
