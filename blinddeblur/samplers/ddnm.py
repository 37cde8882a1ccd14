"""DDNM and DDNM+: Wang, Yu and Zhang, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model", ICLR
2023, arXiv 2212.00490, for a kernel that is known. The time travel of its Algorithm 2 is left out.

At each step the prior's image keeps its null-space part, and its range part becomes that of the measurement:
x_hat = A^+ y + (1 - A^+ A) x_0 = x_0 - A^+ (A x_0 - y). With noise (DDNM+) it moves only as far as the sampler's
own noise can hide it: x_hat = x_0 - Sigma A^+ (A x_0 - y), and less fresh noise by as much.

A blur whose border is not seen has no singular values in closed form. So Sigma A^+ is Tikhonov's inverse
(A^T A + w)^-1 A^T, and for that both conditions of DDNM+ hold exactly, for every singular value s of A:

    the noise of the measurement comes through as a sigma s / (s^2 + w), at most a sigma / (2 sqrt(w)): no more than the
    sampler's sigma_t where w >= (a sigma / (2 sigma_t))^2, a being the share of x_hat in the mean of x_{t-1};
    what is missing to sigma_t^2 is, for equality, sigma_t^2 ((s^2 - w) / (s^2 + w))^2, the covariance of
    sigma_t (1 - 2 w (A^T A + w)^-1) n with n white; for larger w, white noise makes up the rest.

Only the solution of the linear system is approximate, by conjugate gradients, and clipped pixels, which are bounds. The
noise-free form is the limit of small w, here NOISE_FREE_WEIGHT: singular values below its root are left to the prior.
That w grows with the noise, see DETAILS, is ours and not the paper's.
"""

import torch
from torch import Tensor

from blinddeblur.physics.measurement import Measurement
from blinddeblur.samplers.deblurring import Deblurring
from blinddeblur.samplers.proximal import image_step
from blinddeblur.samplers.schedule import Level, levels

STEPS = 100
NOISE_FREE_WEIGHT = 1e-3
# The condition takes the noise that each step passes on as fresh, but it is always the same and adds up: at sigma .01
# with the least weight allowed, two training photos came to 18.9 and 20.8 dB. So w is at least (sigma / DETAILS)^2:
# 24.4 and 28.0 dB for w = .01, 26.3 and 31.0 for .04, 25.4 and 30.0 for .15.
DETAILS = 0.05


def restore(
    given: Deblurring,
    details: float = DETAILS,
    iterations: int | None = None,
    alpha_bar: Tensor | None = None,
) -> Tensor:
    """Draw the sharp image of a measurement whose blur is given: (1, C, H, W), within the frame of y, not clipped.

    Args:
        given: its sigma may be 0, for the noise-free form.
        details: standard deviation of the prior's image as far as noise is to be told from details, in image units.
        iterations: of conjugate gradients, at each step.
        alpha_bar: (T,), the schedule; by default the linear one.
    """
    x_t, steps = given.noise(0, given.start()), given.steps or STEPS
    nothing = Measurement(torch.zeros_like(given.y.y), torch.zeros_like(given.y.clipped), linear=False)
    for index, level in enumerate(levels(steps, alpha_bar)):
        x0 = level.estimate(given.denoise, x_t)
        limit = least_weight(level, given.sigma)
        if limit is None:
            x_hat, noise = x0, x_t  # the last step, without noise of its own, can hide none
        else:
            weight = max(limit, NOISE_FREE_WEIGHT, (given.sigma / details) ** 2)
            x_hat = image_step(x0, given.y, given.blur, weight, iterations)
            noise = (1 - limit / weight) ** 0.5 * given.noise(2 * index + 1, x_t)
            if limit > 0:
                fresh = given.noise(2 * index + 2, x_t)
                shaped = fresh - 2 * image_step(fresh, nothing, given.blur, weight, iterations)
                noise = noise + (limit / weight) ** 0.5 * shaped
        x_t = level.ancestral(x_t, 2 * x_hat - 1, None, noise)
        given.tell(index, steps, x_hat)
    return (given.within(x_t) + 1) / 2


def least_weight(level: Level, sigma: float) -> float | None:
    """The least w, (a sigma / (2 sigma_t))^2 with sigma in image units, twice that on [-1, 1]; None if none will do."""
    if level.posterior_variance == 0:
        return None if sigma > 0 else 0.0
    a = level.previous**0.5 * level.beta / (1 - level.alpha_bar)
    return (a * sigma) ** 2 / level.posterior_variance
