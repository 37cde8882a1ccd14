"""The sharp image for a kernel that is known, or taken as such: plug-and-play with falling noise levels.

Half-quadratic splitting as in DPIR (Zhang et al., TPAMI 2022): the prior denoises, the data step explains the
measurement, and no noise is injected. The answer is one image near the mean of the posterior, not a sample.
"""

from torch import Tensor

from blinddeblur.samplers.deblurring import Deblurring
from blinddeblur.samplers.proximal import LEAST_WEIGHT, image_step
from blinddeblur.samplers.schedule import log_spaced

STEPS = 8
SIGMAS = (0.3, 0.01)
PRIOR_SHARE = 0.25  # weight of the prior's image, over the variance of the measurement against that of the noise level


def restore(given: Deblurring) -> Tensor:
    """Restore a measurement whose blur is given: (1, C, H, W), within the frame of y, not clipped."""
    x, steps = given.start(), given.steps or STEPS
    for index, level in enumerate(log_spaced(*SIGMAS, steps)):
        weight = max(LEAST_WEIGHT, PRIOR_SHARE * (given.unexplained / level) ** 2)
        x = image_step(given.denoise(x, level), given.y, given.blur, weight)
        given.tell(index, steps, x)
    return given.within(x)
