"""The sharp image for a kernel that is known, or taken as such: plug-and-play with falling noise levels.

Half-quadratic splitting as in DPIR (Zhang et al., TPAMI 2022): the prior denoises, the data step explains the
measurement, and no noise is injected. The answer is one image near the mean of the posterior, not a sample.
"""

import math
from collections.abc import Callable

from torch import Tensor

from blinddeblur.physics.convolution import Blur, extend, mean_kernel
from blinddeblur.physics.measurement import Measurement
from blinddeblur.progress import Step
from blinddeblur.samplers.proximal import image_step
from blinddeblur.samplers.schedule import Denoiser, log_spaced

STEPS = 8
SIGMAS = (0.3, 0.01)
MODEL_ERROR = 1.5  # the remaining error of the kernel counts as noise: this many times the measured sigma,
MODEL_FLOOR = 0.006  # and at least this, since compression and resampling hide the noise but not the misfit
PRIOR_SHARE = 0.25  # weight of the prior's image relative to variances of sigma^2,
LEAST_SHARE = 0.003  # and at least this: less reaches so far that tiles would differ


def restore(
    denoise: Denoiser,
    y: Measurement,
    kernel: Blur,
    sigma: float,
    steps: int = STEPS,
    callback: Callable[[Step], None] = lambda step: None,
) -> Tensor:
    """Restore a measurement whose kernel is given.

    Args:
        denoise: the image prior.
        y: the measurement, (1, C, H, W).
        kernel: (K, K), or a mixture for the pixels of y.
        sigma: standard deviation of the noise of y, in image units.
        steps: number of noise levels.
        callback: told of every step.

    Returns:
        (1, C, H, W): the part of the image within the frame of y.
    """
    mean = mean_kernel(kernel)
    radius = mean.shape[-1] // 2
    height, width = y.y.shape[-2:]
    x = extend(y.y, radius)
    model_sigma = model_error(sigma)
    for index, level in enumerate(log_spaced(*SIGMAS, steps)):
        x = image_step(denoise(x, level), y, kernel, max(LEAST_SHARE, PRIOR_SHARE * (model_sigma / level) ** 2))
        callback(Step(index, steps, x, mean))
    return x[..., radius : radius + height, radius : radius + width]


def model_error(sigma: float) -> float:
    """Standard deviation of what the best restoration leaves of a photo with noise sigma, in image units."""
    return math.hypot(MODEL_ERROR * sigma, MODEL_FLOOR)
