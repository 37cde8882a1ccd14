"""Samples of the posterior p(x | y, k): sharp images that all explain the measurement, and how far they differ.

Unlike restoration, whose answer lies near the mean of all of them, this follows the reverse diffusion with fresh noise
at every level (ancestral sampling, Ho et al. 2020; for restoration with closed-form data steps: DiffPIR, Zhu et al.
2023). The variance of the prior's image given the noisy one is that of PiGDM (Song et al., ICLR 2023): exact for a
Gaussian prior, for which the samples are then exact as well, up to the number of steps.
"""

import math
from itertools import pairwise

from torch import Tensor

from blinddeblur.physics.convolution import local_mean, local_variance
from blinddeblur.samplers.deblurring import Deblurring
from blinddeblur.samplers.proximal import image_step
from blinddeblur.samplers.restoration import SIGMAS
from blinddeblur.samplers.schedule import log_spaced

STEPS = 16  # so few that the spread of a white Gaussian prior comes out 12 % too small; CALIBRATION holds that too
SIGMA_DATA = 0.25  # standard deviation of photographs in [0, 1], as the photo prior takes it
CALIBRATION = 1.1  # of the spread; fitted to errors on training photos under random kernels (benchmarks/RESULTS.md)
WINDOW = 7  # pixels, over which variances are averaged: those of few samples are noisy
FLOOR = 0.002  # standard deviation of the error where all samples agree
SHARE = 0.15  # of the local contrast: error that samples share, as they share the kernel's; on five training photos
TRUSTED = 0.8  # confidence below which that share grows, by as much as is missing; on the same photos
CONTRAST_WINDOW = 15  # pixels


def sample(given: Deblurring, sigmas: tuple[float, float] = SIGMAS) -> Tensor:
    """Draw one sharp image of a measurement whose blur is given: (1, C, H, W), within the frame of y, not clipped.

    Args:
        given: its key chooses the sample.
        sigmas: the first and the last noise level, in image units.
    """
    x, error = given.start(), given.unexplained
    noisy = x + sigmas[0] * given.noise(0, x)
    for index, (level, following) in enumerate(pairwise([*log_spaced(*sigmas, given.steps or STEPS), 0.0])):
        weight = (error / level) ** 2 + (error / SIGMA_DATA) ** 2  # 1 / variance = 1 / level^2 + 1 / SIGMA_DATA^2
        x = image_step(given.denoise(noisy, level), given.y, given.blur, weight)
        kept = (following / level) ** 2
        noisy = x + kept * (noisy - x) + following * math.sqrt(1 - kept) * given.noise(index + 1, x)
    return given.within(x)


def uncertainty(spread: Tensor, image: Tensor, confidence: float | None = None) -> Tensor:
    """The standard deviation of the error that is expected of a restored image.

    Args:
        spread: (1, C, H, W), mean squared distance of the samples from the restored image, which holds their variance
            and, unlike that, how far the restored image lies from their mean.
        image: (1, C, H, W), the restored image.
        confidence: in the kernel, from 0 to 1; None for one that is given.
    """
    variance = CALIBRATION**2 * local_mean(spread, WINDOW) + FLOOR**2
    if confidence is not None:
        share = SHARE + max(0.0, TRUSTED - confidence)
        variance = variance + share**2 * local_variance(image, CONTRAST_WINDOW)
    return variance.sqrt()
