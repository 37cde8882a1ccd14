"""The default method: parallel diffusion of image and kernel from a middle noise level.

The idea is the paper's (BlindDPS, Chung et al., CVPR 2023): both unknowns are refined together while the noise
level falls, coupled by the measurement. Three things differ. It starts from a first guess of the kernel and at a
noise level where coarse structure is already decided, since under a prior of sharp photos alone a blurred photo
with no blur kernel is the likeliest answer. The data steps are solved in closed form. And fresh noise of the
current level goes into the image at every step: it is what lets the kernel leave a wrong first guess.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import extend
from blinddeblur.physics.measurement import Measurement
from blinddeblur.progress import Step
from blinddeblur.samplers.proximal import image_step, kernel_step
from blinddeblur.samplers.restoration import restore
from blinddeblur.samplers.schedule import Denoiser, log_spaced

STEPS = 12
# Measured on Levin's photos and on Kodak's under random kernels; see benchmarks/RESULTS.md.
SIGMAS = (0.15, 0.05)  # above, edges are lost that the first kernel had found; below, ringing is fitted
MODEL_ERROR = 3.0  # the error of the kernel counts as noise: this many times the measured sigma,
MODEL_FLOOR = 0.01  # and at least this, since compression and resampling hide the noise but not the misfit
PRIOR_SHARE = 0.5  # weight of the prior's image relative to variances of sigma^2


def sample(
    denoise: Denoiser,
    y: Measurement,
    kernel: Tensor,
    sigma: float,
    steps: int = STEPS,
    generator: torch.Generator | None = None,
    callback: Callable[[Step], None] = lambda step: None,
) -> tuple[Tensor, Tensor]:
    """Refine image and kernel together.

    Args:
        denoise: the image prior.
        y: the measurement, (1, C, H, W).
        kernel: (K, K), the first guess.
        sigma: standard deviation of the noise of y, in image units.
        steps: number of noise levels.
        generator: of the injected noise, on the CPU.
        callback: told of every step.

    Returns:
        the image (1, C, H + K - 1, W + K - 1), which reaches beyond y by the kernel's radius, and the kernel (K, K).
    """
    model_sigma = math.hypot(MODEL_ERROR * sigma, MODEL_FLOOR)
    x = extend(restore(denoise, y, kernel, model_sigma), kernel.shape[-1] // 2)
    for index, level in enumerate(log_spaced(*SIGMAS, steps)):
        noise = torch.randn(x.shape, generator=generator).to(x)
        x0 = denoise(x + level * noise, level)
        kernel, moved = kernels.centre(kernels.clean(kernel_step(x0, y, kernel)))
        x0 = torch.roll(x0, (-moved[0], -moved[1]), dims=(-2, -1))  # the image goes the other way
        x = image_step(x0, y, kernel, PRIOR_SHARE * (model_sigma / level) ** 2)
        callback(Step(index, steps, x, kernel))
    return x, kernel
