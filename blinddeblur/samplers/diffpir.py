"""DiffPIR: Zhu, Zhang, Liang, Cao, Wen, Timofte and Van Gool, "Denoising Diffusion Models for Plug-and-Play Image
Restoration", CVPR workshops 2023, arXiv 2305.08995, Algorithm 1, for a kernel that is known.

What `restoration` does with few levels and no noise, as a diffusion from pure noise: the prior's image x_0 is fitted to
the measurement in closed form, x_hat = argmin |y - A x|^2 + rho |x - x_0|^2 with rho = lambda sigma^2 / (noise over
signal of x_t)^2; then x_{t-1} keeps a part of the noise that x_hat leaves of x_t, and the rest is fresh.
"""

from collections.abc import Callable

from torch import Tensor

from blinddeblur.physics.convolution import Blur, extend, mean_kernel
from blinddeblur.physics.measurement import Measurement
from blinddeblur.progress import Step
from blinddeblur.samplers.parallel import levels
from blinddeblur.samplers.proximal import image_step
from blinddeblur.samplers.restoration import LEAST_SHARE
from blinddeblur.samplers.schedule import Denoiser, paper_estimate
from blinddeblur.samplers.white_noise import around

STEPS = 100
STRENGTH = 7.0  # lambda
FRESH = 1.0  # zeta, the share of the noise's variance that is drawn anew; 0.3 costs 1.3 dB on eight training photos


def restore(
    denoise: Denoiser,
    alpha_bar: Tensor,
    y: Measurement,
    kernel: Blur,
    sigma: float,
    steps: int = STEPS,
    strength: float = STRENGTH,
    fresh: float = FRESH,
    key: tuple[int, ...] = (0,),
    place: tuple[int, int] = (0, 0),
    callback: Callable[[Step], None] = lambda step: None,
    iterations: int | None = None,
) -> Tensor:
    """Draw the sharp image of a measurement whose kernel is given.

    Args:
        denoise: the image prior.
        alpha_bar: (T,), the schedule of Ho et al. 2020.
        y: the measurement, (1, C, H, W): a photo or a tile of one.
        kernel: (K, K), or a mixture for the pixels of y.
        sigma: standard deviation of the noise of y, in image units.
        steps: of the reverse diffusion.
        strength: lambda: how much the prior counts.
        fresh: zeta: 0 for none of the noise, 1 for all.
        key: numbers that choose the noise, zero or larger.
        place: row and column of the tile in its photo: the noise belongs to the place, so tiles do not show.
        callback: told of every step.
        iterations: of conjugate gradients, at each step; None for those of `image_step`.

    Returns:
        (1, C, H, W): the part of the image within the frame of y, not clipped.
    """
    mean = mean_kernel(kernel)
    radius = mean.shape[-1] // 2
    height, width = y.y.shape[-2:]
    x_t = around((*key, 0), place, radius, extend(y.y, radius))
    for index, level in enumerate(levels(alpha_bar, steps)):
        x0 = paper_estimate(denoise, x_t, level.alpha_bar)
        ratio = (1 - level.alpha_bar) / (4 * level.alpha_bar)  # a variance in [0, 1]
        # Less reaches so far that tiles would differ; while noise hides the image it makes no difference.
        x_hat = image_step(x0, y, kernel, max(LEAST_SHARE, strength * sigma**2 / ratio), iterations)
        left = (x_t - level.alpha_bar**0.5 * (2 * x_hat - 1)) / (1 - level.alpha_bar) ** 0.5
        noise = (1 - fresh) ** 0.5 * left + fresh**0.5 * around((*key, index + 1), place, radius, x_t)
        x_t = level.previous**0.5 * (2 * x_hat - 1) + (1 - level.previous) ** 0.5 * noise
        callback(Step(index, steps, x_hat, mean))
    return (x_t[..., radius : radius + height, radius : radius + width] + 1) / 2
