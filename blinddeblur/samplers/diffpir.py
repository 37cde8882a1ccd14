"""DiffPIR: Zhu, Zhang, Liang, Cao, Wen, Timofte and Van Gool, "Denoising Diffusion Models for Plug-and-Play Image
Restoration", CVPR workshops 2023, arXiv 2305.08995, Algorithm 1, for a kernel that is known.

What `restoration` does with few levels and no noise, as a diffusion from pure noise: the prior's image x_0 is fitted to
the measurement in closed form, x_hat = argmin |y - A x|^2 + rho |x - x_0|^2 with rho = lambda sigma^2 / (noise over
signal of x_t)^2; then x_{t-1} keeps a part of the noise that x_hat leaves of x_t, and the rest is fresh.
"""

from torch import Tensor

from blinddeblur.samplers.deblurring import Deblurring
from blinddeblur.samplers.proximal import LEAST_WEIGHT, image_step
from blinddeblur.samplers.schedule import levels

STEPS = 100
STRENGTH = 7.0  # lambda
FRESH = 1.0  # zeta, the share of the noise's variance that is drawn anew; 0.3 costs 1.3 dB on eight training photos


def restore(
    given: Deblurring,
    strength: float = STRENGTH,
    fresh: float = FRESH,
    iterations: int | None = None,
    alpha_bar: Tensor | None = None,
) -> Tensor:
    """Draw the sharp image of a measurement whose blur is given: (1, C, H, W), within the frame of y, not clipped.

    Args:
        given: what all methods are given.
        strength: lambda: how much the prior counts.
        fresh: zeta: 0 for none of the noise, 1 for all.
        iterations: of conjugate gradients, at each step.
        alpha_bar: (T,), the schedule; by default the linear one.
    """
    x_t, steps = given.noise(0, given.start()), given.steps or STEPS
    for index, level in enumerate(levels(steps, alpha_bar)):
        x0 = level.estimate(given.denoise, x_t)
        ratio = (1 - level.alpha_bar) / (4 * level.alpha_bar)  # a variance in [0, 1]
        weight = max(LEAST_WEIGHT, strength * given.sigma**2 / ratio)
        x_hat = image_step(x0, given.y, given.blur, weight, iterations)
        left = (x_t - level.alpha_bar**0.5 * (2 * x_hat - 1)) / (1 - level.alpha_bar) ** 0.5
        noise = (1 - fresh) ** 0.5 * left + fresh**0.5 * given.noise(index + 1, x_t)
        x_t = level.previous**0.5 * (2 * x_hat - 1) + (1 - level.previous) ** 0.5 * noise
        given.tell(index, steps, x_hat)
    return (given.within(x_t) + 1) / 2
