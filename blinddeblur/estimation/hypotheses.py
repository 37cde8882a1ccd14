"""Kernels that a photo's blur could be: none, soft ones, lines, two kinds of guess, and what refinement makes of them.

No start wins everywhere: of 32 crops the best of eleven kernels came from ten different ways (RESULTS.md). So all are
tried, and judged together (judging.py). Refinement is of image and kernel together, at full size, or from coarse to
fine: a blur of thirty pixels is one of seven at a quarter of the size, where few kernels are possible and a step costs
a sixteenth. There the image goes from level to level with the kernel, so that no level starts anew: with a restoration
at the start of each, and twelve steps instead of eight, the kernels of five training photos agreed with the truth as
well (.86 and .87 in the mean), in more than twice the time; with six, restorations gain as much as with eight.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.errors import EstimationError
from blinddeblur.estimation.first_kernel import SIZES, classical_guess
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import Blur, extend, inner
from blinddeblur.physics.measurement import Measurement
from blinddeblur.priors.prior import Prior
from blinddeblur.progress import Callback, unseen
from blinddeblur.samplers import fast
from blinddeblur.samplers.deblurring import WRONG_KERNEL, model_error
from blinddeblur.samplers.restoration import first_image
from blinddeblur.samplers.schedule import Denoiser

SOFT = (0.5, 0.8, 1.2, 2.0)  # standard deviations in pixels of Gaussians: lenses, resampling, slight defocus
LINES = (9, 17, 33, 65)  # lengths in pixels, in each of so many
DIRECTIONS = 4
MARGIN = 4  # empty pixels around a guess: room for what the refinement adds
FACTORS = (4.0, 2.83, 2.0, 1.41, 1.0)  # by which the levels are smaller
LEVEL_STEPS = 6  # at each level
LEAST_SIDE = 40  # pixels of the shorter side of a level; smaller ones hold no edges
WIDTH = 1.0  # standard deviation, in pixels of the coarsest level, of the kernel to begin with where there is no guess
LEAST_NOISE = 2.0  # by which averaging lowers the noise at most: below lies what compression left

KNOWS_NOTHING = 3.0  # noise, of a kernel's maximum, under which nothing of it is left


def hypotheses(
    denoise: Denoiser,
    kernel_prior: Prior,
    y: Measurement,
    sigma: float,
    size: int | None,
    steps: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Tensor]:
    """The kernels, each (K, K) with a K of its own; the first is no blur.

    Args:
        denoise: the image prior.
        kernel_prior: conditioned, p(k | y).
        y: (1, 1, H, W), the measurement.
        sigma: standard deviation of its noise, in image units.
        size: K, odd; None to find it.
        steps: of a refinement at full size, and at most at each level of a pyramid.
        seed: of the injected noise.
        progress: told of ways tried and in all.
    """
    found = simple(y.y.device)
    guesses: list[Tensor] = []
    for kind in (_classical(y.y, size), learned_guesses(kernel_prior, y.y, sigma, size)):
        with suppress(EstimationError):  # nothing came of this kind of guess; the other may do
            guesses += list(kind)

    def climbed(guess: Tensor | None) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return from_coarse_to_fine(denoise, y, guess, sigma, min(steps, LEVEL_STEPS), generator)

    ways: list[Callable[[], Tensor]] = [
        *(partial(refined, denoise, y, guess, sigma, size, steps, seed) for guess in guesses),
        *(partial(climbed, guess) for guess in (None, *guesses)),
    ]
    found += guesses
    for index, way in enumerate(ways):
        progress(index, len(ways))
        with suppress(EstimationError):  # nothing was left of it: the others will tell
            found.append(kernels.trimmed(way(), MARGIN))
    progress(len(ways), len(ways))
    return found if size is None else [k if k.shape[-1] <= size else kernels.fitted(k, size) for k in found]


def simple(device: torch.device) -> list[Tensor]:
    """What needs no photo: no blur, Gaussians, and lines. The spectrum tells at once how likely they are."""
    angles = [math.pi * index / DIRECTIONS for index in range(DIRECTIONS)]
    lines = [kernels.line(length, angle, device) for length in LINES for angle in angles]
    return [kernels.gaussian(width, device) for width in (0.0, *SOFT)] + lines


def from_coarse_to_fine(
    denoise: Denoiser,
    y: Measurement,
    guess: Tensor | None,
    sigma: float,
    steps: int = LEVEL_STEPS,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The kernel (K, K) of a measurement.

    Args:
        y: the measurement, (1, 1, H, W).
        guess: (K, K), where to begin; None for a Gaussian as wide as a pixel of the coarsest level.
        sigma: standard deviation of the noise of y, in image units.
        steps: at each level.
        generator: of the injected noise, on the CPU.

    Raises EstimationError where nothing is left of the kernel.
    """
    factors = [f for f in FACTORS if min(y.y.shape[-2:]) >= f * LEAST_SIDE] or [1.0]
    kernel = kernels.gaussian(WIDTH * factors[0], y.y.device) if guess is None else guess
    image, before = None, 1.0
    for factor in factors:
        small = y.map(lambda pixels, factor=factor: _shrunk(pixels, factor))  # type: ignore[misc]
        kernel = _scaled(kernel, before / factor, kernels.largest(small.y.shape))
        noise, blur = sigma / min(factor, LEAST_NOISE), Blur.uniform(kernel)
        if image is None:
            image = first_image(denoise, small, blur, noise)
        else:
            enlarged = F.interpolate(image, size=small.y.shape[-2:], mode="bicubic", align_corners=False)
            error = model_error(noise, WRONG_KERNEL)
            image = fast.explaining(extend(enlarged, blur.radius), small, blur, error, fast.SIGMAS[0])
        kernel, image = fast.refined(denoise, small, kernel, image, noise, steps, generator)
        image, before = inner(image, kernel.shape[-1] // 2, small.y), factor
    return kernel


def _scaled(kernel: Tensor, scale: float, largest: int) -> Tensor:
    """A kernel (K, K) at another level, with room to grow."""
    size = 2 * math.ceil(kernel.shape[-1] * scale / 2) + 1
    trimmed = kernels.trimmed(kernels.clean(kernels.resized(kernel, size, scale)), MARGIN)
    return trimmed if trimmed.shape[-1] <= largest else kernels.fitted(trimmed, largest)


def _shrunk(pixels: Tensor, factor: float) -> Tensor:
    """Pixels, or whether they are clipped, (1, 1, H, W), at a level: averages, clipped where any part was."""
    if factor == 1:
        return pixels
    size = [round(side / factor) for side in pixels.shape[-2:]]
    if pixels.dtype == torch.bool:
        return F.adaptive_max_pool2d(pixels.float(), size) > 0
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)


def refined(
    denoise: Denoiser,
    y: Measurement,
    kernel: Tensor,
    sigma: float,
    size: int | None = None,
    steps: int = fast.STEPS,
    seed: int = 0,
    callback: Callback = unseen,
) -> Tensor:
    """A kernel (K, K) refined at full size, with room to grow unless its size is given.

    For the arguments and the error see `hypotheses` and `from_coarse_to_fine`.
    """
    roomy = kernels.fitted(kernel, size or min(kernel.shape[-1] + 2 * MARGIN, kernels.largest(y.y.shape)))
    image = first_image(denoise, y, Blur.uniform(roomy), sigma)
    generator = torch.Generator().manual_seed(seed)
    better, _ = fast.refined(denoise, y, roomy, image, sigma, steps, generator, callback)
    return kernels.trimmed(better, MARGIN) if size is None else better


def _classical(y: Tensor, size: int | None) -> Iterator[Tensor]:
    """One guess, made when it is asked for, since it may fail."""
    yield classical_guess(y, size)


def learned_guesses(kernel_prior: Prior, y: Tensor, sigma: float, size: int | None) -> Iterator[Tensor]:
    """The guesses of the conditioned prior, of up to 63 pixels, and of up to 125 at half the photo's size."""
    limit, known = min(size or SIZES[-1], kernels.largest(y.shape)), kernels.PRIOR_SIZE - 1
    for scale in (1, 2):
        small = F.avg_pool2d(y, scale)
        if min(small.shape[-2:]) < kernels.PRIOR_SIZE or (scale > 1 and limit <= known):
            break  # the prior takes no smaller photo
        given = kernel_prior.given(small, sigma / scale)
        guess = learned_kernel(given, y.device, min(known, kernels.largest(small.shape)))
        if scale > 1:
            guess = kernels.resized(guess, scale * guess.shape[-1] - 1, scale)
            if kernels.trimmed(guess, 0).shape[-1] <= known:
                break  # the other one sees it better
        yield kernels.fitted(guess, size or min(guess.shape[-1], limit))


def learned_kernel(given: Prior, device: torch.device, size: int) -> Tensor:
    """The kernel (K, K) that a conditioned prior expects which has seen the photo: the mean of p(k | y), centred.

    What the classical guess is to shake and edges, this one is to defocus, to soft blur and to noise: neither is better
    everywhere, and the evidence decides between them. Raises EstimationError where nothing is left of it.

    Args:
        given: the prior, on (1, 1, 64, 64), a kernel over its maximum.
        device: that it is on.
        size: K, odd, at most 63: side of the array the kernel has to fit into.
    """
    nothing = torch.zeros(1, 1, kernels.PRIOR_SIZE, kernels.PRIOR_SIZE, device=device)
    u = given.denoise(nothing, KNOWS_NOTHING)
    return kernels.centre(kernels.clean(kernels.from_prior(u.clamp_min(0), size)[0, 0]))[0]
