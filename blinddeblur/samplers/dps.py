"""DPS: Chung, Kim, McCann, Klasky and Ye, "Diffusion Posterior Sampling for General Noisy Inverse Problems", ICLR 2023,
arXiv 2209.14687, for a kernel that is known. Gaussian noise is Algorithm 1, Poisson noise Algorithm 2.

It is `parallel.sample` with one unknown: the ancestral sample of x_{t-1}, then a move down

    zeta / |y - A x_0(x_t)| * grad |y - A x_0(x_t)|^2 = 2 zeta grad |y - A x_0(x_t)|,

in the Euclidean norm for Gaussian noise, for Poisson noise in |r|^2 = r^T Lambda r with
Lambda_jj = 1 / (2 y_j), y in photons. Both norms are taken on [-1, 1], as in the paper.
"""

import torch
from torch import Tensor

from blinddeblur.physics.convolution import local_mean
from blinddeblur.samplers.deblurring import Deblurring
from blinddeblur.samplers.parallel import STEPS, Estimates, Unknown, clipped, sample

# The gradient of a norm is as long whatever the noise: in proportion to 1 / sigma it is that of the likelihood. The
# paper takes 0.3 to 1 for sigma .05 on [-1, 1] and a prior of faces. With the photo prior, eight training photos,
# sigma .01 and 1000 steps came to 26.0, 28.6 and 30.6 dB for 0.5, 1.5 and 4, three of them to 27.2 and 27.9 for 4 and
# 8. With 100 steps moves as long are best as well: 20.5, 22.3, 23.8 and 23.1 dB for 2, 5, 10 and 20. At sigma .1 it
# is 1.
ZETA = 0.08  # times 1 / sigma
LEAST_SIGMA = 0.005  # of white; longer moves would add more noise than they take away
PAPER_SIZE = 3 * 256**2  # values of an image: a norm grows with the root of their number, and so must the move
FEWEST_PHOTONS = 1.0  # of a pixel: one without any would weigh without end
# Pixels on a side over which photons are counted for the weights. In the paper it is the pixel alone, and those that
# have lost some by chance count for more: on four training photos with 50 photons for white 22.4 dB instead of 23.0.
WINDOW = 5


def restore(given: Deblurring, zeta: float | None = None, alpha_bar: Tensor | None = None) -> Tensor:
    """Draw the sharp image of a measurement whose blur is given: (1, C, H, W), within the frame of y, not clipped.

    Args:
        given: with a prior; a network of fixed size sees images of that size, at least those of y and K - 1 more.
        zeta: step size, for images of PAPER_SIZE values; None for one that goes with the noise.
        alpha_bar: (T,), the schedule; by default the linear one.

    Raises EstimationError where something became not a number on the way.
    """
    prior, sigma, radius, steps = given.prior, given.sigma, given.blur.radius, given.steps or STEPS
    if prior is None:
        raise ValueError("dps takes gradients through a prior, and none is given")
    y = given.y.y.expand(-1, prior.channels, -1, -1)
    height, width = (side + 2 * radius for side in y.shape[-2:])
    weight, level = precision(y, photons_of(given.y.y, sigma)) if given.poisson else (1.0, sigma)
    zeta = ZETA / max(level, LEAST_SIGMA) if zeta is None else zeta

    def misfit(estimates: Estimates) -> Tensor:
        explained = given.blur.of(estimates["image"][..., :height, :width])
        return torch.linalg.vector_norm(weight**0.5 * (2 * y - 1 - explained))

    state = y.new_empty(1, prior.channels, prior.image_size or height, prior.image_size or width)
    step_size = 2 * zeta * (y.numel() / PAPER_SIZE) ** 0.5
    found = sample(
        {"image": Unknown(tuple(state.shape), clipped(prior.predict), step_size)},
        misfit,
        steps,
        alpha_bar,
        device=y.device,
        callback=lambda index, estimates: given.tell(index, steps, (given.within(estimates["image"]) + 1) / 2),
        noise=lambda name, index: given.noise(index, state),
    )
    x = (given.within(found["image"]) + 1) / 2
    return x if given.y.y.shape[1] == prior.channels else x.mean(dim=1, keepdim=True)


def precision(y: Tensor, photons: float) -> tuple[Tensor, float]:
    """Lambda for pixels y in [0, 1], over its mean, so that the move is as long as under Gaussian noise of the level.

    Returns (1, C, H, W), and the standard deviation of the noise that it has made even, in image units.
    """
    counted = photons * local_mean(y, WINDOW)
    weight = 1 / (2 * counted.clamp_min(FEWEST_PHOTONS))
    weight = weight / weight.mean()
    return weight, float((weight * counted / photons**2).mean() ** 0.5)


def photons_of(y: Tensor, sigma: float) -> float:
    """How many make white, where Poisson noise has the standard deviation sigma over all pixels of y."""
    return max(FEWEST_PHOTONS, float(y.mean()) / sigma**2) if sigma > 0 else float("inf")
