"""Samples of the posterior p(x | y, k): sharp images that all explain the measurement, and how far they differ.

Unlike restoration, whose answer lies near the mean of all of them, this follows the reverse diffusion with fresh noise
at every level (ancestral sampling, Ho et al. 2020; for restoration with closed-form data steps: DiffPIR, Zhu et al.
2023). The variance of the prior's image given the noisy one is that of PiGDM (Song et al., ICLR 2023): exact for a
Gaussian prior, for which the samples are then exact as well, up to the number of steps.
"""

import math
from itertools import pairwise

from torch import Tensor
from torch.nn import functional as F

from blinddeblur.physics.convolution import Blur, extend, mean_kernel
from blinddeblur.physics.measurement import Measurement
from blinddeblur.samplers.proximal import image_step
from blinddeblur.samplers.restoration import SIGMAS, model_error
from blinddeblur.samplers.schedule import Denoiser, log_spaced
from blinddeblur.samplers.white_noise import white_noise

STEPS = 16  # so few that the spread of a white Gaussian prior comes out 12 % too small; CALIBRATION holds that too
SIGMA_DATA = 0.25  # standard deviation of photographs in [0, 1], as the photo prior takes it
# Fitted to the errors on training photos under random kernels; see benchmarks/RESULTS.md.
CALIBRATION = 1.1  # of the spread
WINDOW = 7  # pixels, over which variances are averaged: those of few samples are noisy
FLOOR = 0.002  # standard deviation of the error where all samples agree
# Samples share what is wrong with an estimated kernel. On five training photos it made an error of a share of the local
# contrast, and a larger one where the kernel is trusted less than that.
SHARE = 0.15
TRUSTED = 0.8
CONTRAST_WINDOW = 15  # pixels


def sample(
    denoise: Denoiser,
    y: Measurement,
    kernel: Blur,
    sigma: float,
    key: tuple[int, ...] = (0,),
    place: tuple[int, int] = (0, 0),
    steps: int = STEPS,
) -> Tensor:
    """Draw one sharp image.

    Args:
        denoise: the image prior.
        y: the measurement, (1, C, H, W): a photo or a tile of one.
        kernel: (K, K), or a mixture for the pixels of y.
        sigma: standard deviation of the noise of y, in image units.
        key: numbers that choose the sample, zero or larger.
        place: row and column of the tile in its photo: the noise belongs to the place, so tiles do not show.
        steps: number of noise levels.

    Returns:
        (1, C, H, W): the part of the image within the frame of y, not clipped.
    """
    radius = mean_kernel(kernel).shape[-1] // 2
    height, width = y.y.shape[-2:]
    error = model_error(sigma)
    x = extend(y.y, radius)

    def noise(index: int) -> Tensor:
        top, left = place[0] - radius, place[1] - radius
        return white_noise((*key, index), top, left, (x.shape[1], x.shape[2], x.shape[3])).to(x)

    noisy = x + SIGMAS[0] * noise(0)
    for index, (level, following) in enumerate(pairwise([*log_spaced(*SIGMAS, steps), 0.0])):
        weight = (error / level) ** 2 + (error / SIGMA_DATA) ** 2  # 1 / variance = 1 / level^2 + 1 / SIGMA_DATA^2
        x = image_step(denoise(noisy, level), y, kernel, weight)
        kept = (following / level) ** 2
        noisy = x + kept * (noisy - x) + following * math.sqrt(1 - kept) * noise(index + 1)
    return x[..., radius : radius + height, radius : radius + width]


def uncertainty(spread: Tensor, image: Tensor, confidence: float | None = None) -> Tensor:
    """The standard deviation of the error that is expected of a restored image.

    Args:
        spread: (1, C, H, W), mean squared distance of the samples from the restored image, which holds their variance
            and, unlike that, how far the restored image lies from their mean.
        image: (1, C, H, W), the restored image.
        confidence: in the kernel, from 0 to 1; None for one that is given.
    """
    variance = CALIBRATION**2 * _smoothed(spread, WINDOW) + FLOOR**2
    if confidence is not None:
        share = SHARE + max(0.0, TRUSTED - confidence)
        contrast = _smoothed(image.square(), CONTRAST_WINDOW) - _smoothed(image, CONTRAST_WINDOW).square()
        variance = variance + share**2 * contrast.clamp_min(0)
    return variance.sqrt()


def _smoothed(x: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(x, window, stride=1, padding=window // 2, count_include_pad=False)
