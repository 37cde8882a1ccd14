"""The sharp image for a kernel that is known, or taken as such: plug-and-play with falling noise levels.

Half-quadratic splitting as in DPIR (Zhang et al., TPAMI 2022): the prior denoises, the data step explains the
measurement, and no noise is injected. The answer is one image near the mean of the posterior, not a sample.
"""

from torch import Tensor

from blinddeblur.physics.convolution import Blur, extend
from blinddeblur.physics.measurement import WRONG_KERNEL, Measurement, model_error
from blinddeblur.samplers.deblurring import Deblurring
from blinddeblur.samplers.proximal import LEAST_WEIGHT, image_step
from blinddeblur.samplers.schedule import Denoiser, log_spaced

STEPS = 12
SIGMAS = (0.3, 0.01)
# Of a restoration that is not kept, in few steps: lower levels, which reach less far, lose less then. In six steps
# training photos come to 31.5 dB with these levels and to 30.4 with the others, in twelve to 32.3 (RESULTS.md).
SHORT_SIGMAS = (0.1, 0.015)
FIRST_STEPS = 4  # of a restoration that a diffusion starts from: kernels found from eight are no likelier (RESULTS.md)
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
        x = image_step(given.denoise(x, level), given.y, given.blur, weight)
        given.tell(index, steps, x)
    return given.within(x)


def first_image(denoise: Denoiser, y: Measurement, blur: Blur, sigma: float) -> Tensor:
    """The image that a diffusion of image and kernel starts from: (B, C, H + K - 1, W + K - 1)."""
    # A first guess is worse than what is found on the way: on ten training photos the kernel came to an agreement of
    # .804 like this, and to .790 where the image to start from counted the plain error.
    error = model_error(model_error(sigma, WRONG_KERNEL))
    return extend(restore(Deblurring(denoise, y, blur, sigma, FIRST_STEPS, error=error), SHORT_SIGMAS), blur.radius)
