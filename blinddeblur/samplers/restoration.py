"""The sharp image for a kernel that is known, or taken as such: plug-and-play with falling noise levels.

Half-quadratic splitting as in DPIR (Zhang et al., TPAMI 2022): the prior denoises, the data step explains the
measurement, and no noise is injected. The answer is one image near the mean of the posterior, not a sample.
"""

from dataclasses import replace

from torch import Tensor

from blinddeblur.physics.convolution import Blur, extend
from blinddeblur.physics.measurement import WRONG_KERNEL, Measurement, model_error
from blinddeblur.priors import half_size
from blinddeblur.samplers.deblurring import Deblurring
from blinddeblur.samplers.proximal import LEAST_WEIGHT, image_step
from blinddeblur.samplers.schedule import Denoiser, log_spaced

STEPS = 10
SIGMAS = (0.3, 0.01)
# Noise levels above which the prior looks at the image at half its size. Restorations of 23 training photos in colour,
# true and slightly wrong kernels, ten steps instead of twelve at full size: .05 dB less and .17 more, a third faster.
COARSE = 0.1
# Of a restoration that is not kept, in few steps: lower levels, which reach less far, lose less then. In six steps
# training photos come to 31.5 dB with these levels and to 30.4 with the others, in twelve to 32.3 (RESULTS.md).
SHORT_SIGMAS = (0.1, 0.015)
# Of a restoration that a diffusion starts from: kernels found from eight are no likelier. And of one that another is
# blended with: 107 training photos come to as much (2.27 dB) as with one in all steps (RESULTS.md).
BRIEF_STEPS = 4
PRIOR_SHARE = 0.25  # weight of the prior's image, over the variance of the measurement against that of the noise level


def restore(given: Deblurring, sigmas: tuple[float, float] = SIGMAS) -> Tensor:
    """Restore a measurement whose blur is given: (1, C, H, W), within the frame of y, not clipped.

    Args:
        given: the measurement and its blur.
        sigmas: the first and the last noise level.
    """
    x, steps = given.start(), given.steps or STEPS
    for index, level in enumerate(log_spaced(*sigmas, steps)):
        weight = max(LEAST_WEIGHT, PRIOR_SHARE * (given.unexplained / level) ** 2)
        x0 = half_size.denoised(given.denoise, x, level) if level > COARSE else given.denoise(x, level)
        x = image_step(x0, given.y, given.blur, weight)
        given.tell(index, steps, x)
    return given.within(x)


def brief(given: Deblurring) -> Tensor:
    """The same in few steps, whatever their number is said to be: of a restoration that is not handed out alone."""
    return restore(replace(given, steps=BRIEF_STEPS), SHORT_SIGMAS)


def first_image(denoise: Denoiser, y: Measurement, blur: Blur, sigma: float) -> Tensor:
    """The image that a diffusion of image and kernel starts from: (B, C, H + K - 1, W + K - 1)."""
    # A first guess is worse than what is found on the way: on ten training photos the kernel came to an agreement of
    # .804 like this, and to .790 where the image to start from counted the plain error.
    error = model_error(model_error(sigma, WRONG_KERNEL))
    return extend(brief(Deblurring(denoise, y, blur, sigma, error=error)), blur.radius)
