"""DDNM and DDNM+: Wang, Yu and Zhang, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model", ICLR
2023, arXiv 2212.00490, for a kernel that is known. Without the time travel of its Algorithm 2.

At each step the prior's image keeps its null-space part, and its range part becomes that of the measurement:
x_hat = A^+ y + (1 - A^+ A) x_0 = x_0 - A^+ (A x_0 - y). With noise (DDNM+) only as far as the sampler's own noise can
hide it: x_hat = x_0 - Sigma A^+ (A x_0 - y), and less fresh noise by as much.

A blur whose border is not seen has no singular values in closed form. So Sigma A^+ is Tikhonov's inverse
(A^T A + w)^-1 A^T, and for that both conditions of DDNM+ hold exactly, for every singular value s of A:

    the noise of the measurement comes through as a sigma s / (s^2 + w), at most a sigma / (2 sqrt(w)): no more than the
    sampler's sigma_t where w >= (a sigma / (2 sigma_t))^2, a being the share of x_hat in the mean of x_{t-1};
    what is missing to sigma_t^2 is, for equality, sigma_t^2 ((s^2 - w) / (s^2 + w))^2, the covariance of
    sigma_t (1 - 2 w (A^T A + w)^-1) n with n white; for larger w, white noise makes up the rest.

Only the solution of the linear system is approximate, by conjugate gradients, and clipped pixels, which are bounds. The
noise-free form is the limit of small w, here LEAST_WEIGHT: singular values below its root are left to the prior.
That w grows with the noise, see DETAILS, is ours and not the paper's.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from blinddeblur.physics.convolution import Blur, extend, mean_kernel
from blinddeblur.physics.measurement import Measurement
from blinddeblur.progress import Step
from blinddeblur.samplers.parallel import Level, levels
from blinddeblur.samplers.proximal import image_step
from blinddeblur.samplers.schedule import Denoiser, paper_estimate
from blinddeblur.samplers.white_noise import around

STEPS = 100
LEAST_WEIGHT = 1e-3
# The condition takes the noise that each step passes on as fresh, but it is always the same and adds up: at sigma .01
# with the least weight allowed, two training photos came to 18.9 and 20.8 dB. So w is at least (sigma / DETAILS)^2:
# 24.4 and 28.0 dB for w = .01, 26.3 and 31.0 for .04, 25.4 and 30.0 for .15.
DETAILS = 0.05


def restore(
    denoise: Denoiser,
    alpha_bar: Tensor,
    y: Measurement,
    kernel: Blur,
    sigma: float,
    steps: int = STEPS,
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
        sigma: standard deviation of the noise of y, in image units; 0 for the noise-free form.
        steps: of the reverse diffusion.
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
    nothing = Measurement(torch.zeros_like(y.y), torch.zeros_like(y.clipped), linear=False)
    x_t = around((*key, 0), place, radius, extend(y.y, radius))
    for index, level in enumerate(levels(alpha_bar, steps)):
        x0 = paper_estimate(denoise, x_t, level.alpha_bar)
        limit = least_weight(level, sigma)
        if limit is None:
            x_hat, noise = x0, x_t  # the last step, without noise of its own, can hide none
        else:
            weight = max(limit, LEAST_WEIGHT, (sigma / DETAILS) ** 2)
            x_hat = image_step(x0, y, kernel, weight, iterations)
            noise = (1 - limit / weight) ** 0.5 * around((*key, 2 * index + 1), place, radius, x_t)
            if limit > 0:
                fresh = around((*key, 2 * index + 2), place, radius, x_t)
                shaped = fresh - 2 * image_step(fresh, nothing, kernel, weight, iterations)
                noise = noise + (limit / weight) ** 0.5 * shaped
        x_t = level.ancestral(x_t, 2 * x_hat - 1, None, noise)
        callback(Step(index, steps, x_hat, mean))
    return (x_t[..., radius : radius + height, radius : radius + width] + 1) / 2


def least_weight(level: Level, sigma: float) -> float | None:
    """(a sigma / (2 sigma_t))^2 with sigma in image units, 2 sigma on [-1, 1]; None where none is large enough."""
    if level.posterior_variance == 0:
        return None if sigma > 0 else 0.0
    a = level.previous**0.5 * level.beta / (1 - level.alpha_bar)
    return (a * sigma) ** 2 / level.posterior_variance
