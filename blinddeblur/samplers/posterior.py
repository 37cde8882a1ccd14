"""Samples of the posterior p(x | y, k): sharp images that all explain the measurement, and how far they differ.

Unlike restoration, whose answer lies near the mean of all of them, this follows the reverse diffusion with fresh noise
at every level (ancestral sampling, Ho et al. 2020; for restoration with closed-form data steps: DiffPIR, Zhu et al.
2023). The variance of the prior's image given the noisy one is that of PiGDM (Song et al., ICLR 2023): exact for a
Gaussian prior, for which the samples are then exact as well, up to the number of steps.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.physics.convolution import extend
from blinddeblur.physics.measurement import Measurement
from blinddeblur.samplers.proximal import image_step
from blinddeblur.samplers.restoration import SIGMAS, model_error
from blinddeblur.samplers.schedule import Denoiser, Step, log_spaced
from blinddeblur.tiles import Tile, blend

STEPS = 16  # so few that the spread of a white Gaussian prior comes out 12 % too small; CALIBRATION holds that too
SIGMA_DATA = 0.25  # standard deviation of photographs in [0, 1], as the photo prior takes it
# Fitted to the errors on training photos under random kernels; see benchmarks/RESULTS.md.
CALIBRATION = 1.1  # of the spread
WINDOW = 7  # pixels, over which variances are averaged: those of few samples are noisy
FLOOR = 0.002  # standard deviation of the error where all samples agree


def sample(
    denoise: Denoiser,
    y: Measurement,
    kernel: Tensor,
    sigma: float,
    tiles: list[Tile],
    generator: torch.Generator,
    steps: int,
    callback: Callable[[Step], None] = lambda step: None,
) -> Tensor:
    """Draw one sharp image.

    Args:
        denoise: the image prior.
        y: the measurement, (1, C, H, W).
        kernel: (K, K).
        sigma: standard deviation of the noise of y, in image units.
        tiles: of y, that are worked on one after the other at each noise level; neighbours overlap by more than 2 K.
        generator: of all noise, on the CPU. It is drawn for the whole frame, so tiles do not show.
        steps: number of noise levels.
        callback: told of every step.

    Returns:
        (1, C, H, W): the part of the image within the frame of y, not clipped.
    """
    margin = kernel.shape[-1] - 1
    radius = margin // 2
    height, width = y.y.shape[-2:]
    wide = [Tile(tile.top, tile.left, tile.height + margin, tile.width + margin) for tile in tiles]
    error = model_error(sigma)
    x = extend(y.y, radius)

    def noise() -> Tensor:
        return torch.randn(x.shape, generator=generator).to(x)

    noisy = x + SIGMAS[0] * noise()
    for index, (level, following) in enumerate(pairwise([*log_spaced(*SIGMAS, steps), 0.0])):
        weight = (error / level) ** 2 + (error / SIGMA_DATA) ** 2  # 1 / variance = 1 / level^2 + 1 / SIGMA_DATA^2
        pieces = (
            (outer, image_step(denoise(outer.of(noisy), level), y.map(inner.of), kernel, weight))
            for outer, inner in zip(wide, tiles, strict=True)
        )
        x = blend(pieces, height + margin, width + margin, rim=margin)
        kept = (following / level) ** 2
        noisy = x + kept * (noisy - x) + following * math.sqrt(1 - kept) * noise()
        callback(Step(index, steps, x, kernel))
    return x[..., radius : radius + height, radius : radius + width]


def uncertainty(spread: Tensor) -> Tensor:
    """The standard deviation of the error that is expected of a restored image.

    Args:
        spread: (1, C, H, W), mean squared distance of the samples from the restored image, which holds their variance
            and, unlike that, how far the restored image lies from their mean.
    """
    smooth = F.avg_pool2d(spread, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)
    return (CALIBRATION**2 * smooth + FLOOR**2).sqrt()
