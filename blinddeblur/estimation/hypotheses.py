"""Kernels that a photo's blur could be: none, soft ones, lines, two kinds of guess, and what refinement makes of them.

No start wins everywhere: of 32 crops the best of eleven kernels came from ten different ways (RESULTS.md). So all are
tried, and judged together (judging.py). Refinement is of image and kernel together, at full size, or from coarse to
fine: a blur of thirty pixels is one of seven at a quarter of the size, where few kernels are possible and a step costs
a sixteenth. There the image goes from level to level with the kernel, so that no level starts anew: with a restoration
at the start of each, and twelve steps instead of eight, the kernels of five training photos agreed with the truth as
well (.86 and .87 in the mean), in more than twice the time; with six, restorations gain as much as with eight.

Half way up most starts have come to the same. On eight training photos the two that are likeliest there, and the
likeliest guess refined at full size, came to kernels as good as all of them (agreement with the truth .88 by
L_spectrum, .915 the best; .87 and .916) with half of the evaluations of the network.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.devices import threads_for
from blinddeblur.errors import EstimationError
from blinddeblur.estimation.first_kernel import SIZES, classical_guess
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import Blur, extend, inner
from blinddeblur.physics.measurement import WRONG_KERNEL, Measurement, model_error
from blinddeblur.priors.prior import Prior
from blinddeblur.progress import Callback, unseen
from blinddeblur.samplers import fast
from blinddeblur.samplers.restoration import first_image
from blinddeblur.samplers.schedule import Denoiser

SOFT = (0.5, 0.8, 1.2, 2.0)  # standard deviations in pixels of Gaussians: lenses, resampling, slight defocus
LINES = (9, 17, 33, 65)  # lengths in pixels, in each of so many
DIRECTIONS = 4
MARGIN = 4  # empty pixels around a guess: room for what the refinement adds
FACTORS = (4.0, 2.83, 2.0, 1.41, 1.0)  # by which the levels are smaller
LEVEL_STEPS = 6  # at each level
HALF, KEPT = 2.0, 2  # of FACTORS, and how many kernels go on from there: the likeliest
LEAST_SIDE = 40  # pixels of the shorter side of a level; smaller ones hold no edges
WIDTH = 1.0  # standard deviation, in pixels of the coarsest level, of the kernel to begin with where there is no guess
LEAST_NOISE = 2.0  # by which averaging lowers the noise at most: below lies what compression left

KNOWS_NOTHING = 3.0  # noise, of a kernel's maximum, under which nothing of it is left


def hypotheses(
    denoise: Denoiser,
    y: Measurement,
    guesses: Sequence[Tensor],
    sigma: float,
    size: int | None,
    steps: int,
    seed: int,
    likely: Callable[[Sequence[Tensor]], Tensor],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Tensor]:
    """The kernels, each (K, K) with a K of its own; the first is no blur.

    Args:
        denoise: the image prior.
        y: (1, 1, H, W), the measurement.
        guesses: kernels to begin with.
        sigma: standard deviation of its noise, in image units.
        size: K, odd; None to find it.
        steps: at most at each level of the pyramid.
        seed: of the injected noise.
        likely: how likely each of several kernels is by what costs nothing, (M,).
        progress: told of levels done and in all.
    """
    found = [*simple(y.y.device), *guesses]
    climbed = from_coarse_to_fine(denoise, y, [None, *guesses], sigma, likely, min(steps, LEVEL_STEPS), seed, progress)
    found += [kernels.trimmed(kernel, MARGIN) for kernel in climbed]
    return found if size is None else [k if k.shape[-1] <= size else kernels.fitted(k, size) for k in found]


def to_refine(
    guesses: Sequence[Tensor], found: Sequence[Tensor], likely: Callable[[Sequence[Tensor]], Tensor]
) -> Tensor:
    """Where the refinement at full size begins: the likeliest guess, or without any the likeliest of all."""
    starts = guesses or found
    return starts[int(likely(starts).argmax())]


def simple(device: torch.device) -> list[Tensor]:
    """What needs no photo: no blur, Gaussians, and lines. The spectrum tells at once how likely they are."""
    angles = [math.pi * index / DIRECTIONS for index in range(DIRECTIONS)]
    lines = [kernels.line(length, angle, device) for length in LINES for angle in angles]
    return [kernels.gaussian(width, device) for width in (0.0, *SOFT)] + lines


@dataclass(frozen=True)
class _Climbs:
    """Kernels (K, K) on their way up, with the images that go with them once there are any, (N, 1, H, W) of a level."""

    kernels: list[Tensor]
    images: Tensor | None = None

    def to(
        self, denoise: Denoiser, y: Measurement, sigma: float, scale: float, steps: int, generator: torch.Generator
    ) -> "_Climbs":
        """The same at the next level, whose measurement is y: `scale` times as large."""
        found = kernels.stacked([_scaled(kernel, scale, kernels.largest(y.y.shape)) for kernel in self.kernels])
        blur = Blur.uniform(found)
        if self.images is None:
            x = first_image(denoise, y, blur, sigma)
        else:
            enlarged = F.interpolate(self.images, size=y.y.shape[-2:], mode="bicubic", align_corners=False)
            error = model_error(sigma, WRONG_KERNEL)
            x = fast.explaining(extend(enlarged, blur.radius), y, blur, error, fast.SIGMAS[0])
        found, x = fast.refined(denoise, y, found, x, sigma, steps, generator)
        return _Climbs(list(found), inner(x, blur.radius, y.y))

    def only(self, chosen: Tensor) -> "_Climbs":
        """Those of the indices."""
        images = None if self.images is None else self.images[chosen]
        return _Climbs([self.kernels[index] for index in chosen.tolist()], images)


def from_coarse_to_fine(
    denoise: Denoiser,
    y: Measurement,
    guesses: Sequence[Tensor | None],
    sigma: float,
    likely: Callable[[Sequence[Tensor]], Tensor],
    steps: int = LEVEL_STEPS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Tensor]:
    """Kernels (K, K) of a measurement, the likeliest of those that came half way up.

    Args:
        y: the measurement, (1, 1, H, W).
        guesses: (K, K), where to begin; None for a Gaussian as wide as a pixel of the coarsest level.
        sigma: standard deviation of the noise of y, in image units.
        likely: how likely each of several kernels is, (M,).
        steps: at each level.
        seed: of the injected noise.
        progress: told of levels done and in all.

    Returns none where nothing is left of any kernel.
    """
    largest, before = kernels.largest(y.y.shape), 1.0
    factors = [f for f in FACTORS if min(y.y.shape[-2:]) >= f * LEAST_SIDE] or [1.0]
    starts = [kernels.gaussian(WIDTH * factors[0], y.y.device) if guess is None else guess for guess in guesses]
    climbs, generator = _Climbs(starts), torch.Generator().manual_seed(seed)
    for level, factor in enumerate(factors):
        progress(level, len(factors))
        if before == HALF and len(climbs.kernels) > KEPT:
            best = likely([_scaled(kernel, HALF, largest) for kernel in climbs.kernels]).argsort(descending=True)
            climbs = climbs.only(best[:KEPT])
        small = y.map(lambda pixels, factor=factor: _shrunk(pixels, factor))  # type: ignore[misc]
        with threads_for(len(climbs.kernels) * small.y.numel()):
            noise = sigma / min(factor, LEAST_NOISE)
            climbs = climbs.to(denoise, small, noise, before / factor, steps, generator)
        remaining = kernels.remains(torch.stack(climbs.kernels)).nonzero()[:, 0]
        if not len(remaining):
            return []
        climbs, before = climbs.only(remaining), factor  # where nothing was left of others, these will tell
    progress(len(factors), len(factors))
    return climbs.kernels


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

    For the arguments see `hypotheses` and `from_coarse_to_fine`. Raises EstimationError where nothing is left of it.
    """
    roomy = kernels.fitted(kernel, size or min(kernel.shape[-1] + 2 * MARGIN, kernels.largest(y.y.shape)))
    image = first_image(denoise, y, Blur.uniform(roomy), sigma)
    generator = torch.Generator().manual_seed(seed)
    (better,), _ = fast.refined(denoise, y, roomy[None], image, sigma, steps, generator, callback)
    kernels.required(better)
    return kernels.trimmed(better, MARGIN) if size is None else better


def guessed(kernel_prior: Prior, y: Tensor, sigma: float, size: int | None) -> list[Tensor]:
    """Guesses of either kind, (K, K): the more of a photo they see, the better they are.

    Args:
        kernel_prior: conditioned, p(k | y).
        y: (1, 1, H, W), the photo.
        sigma: standard deviation of its noise, in image units.
        size: K, odd; None to find it.
    """
    guesses: list[Tensor] = []
    for kind in (_classical(y, size), learned_guesses(kernel_prior, y, sigma, size)):
        with suppress(EstimationError):  # nothing came of this kind of guess; the other may do
            guesses += list(kind)
    return guesses


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
        yield kernels.required(kernels.fitted(guess, size or min(guess.shape[-1], limit)))


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
    return kernels.centre(kernels.required(kernels.clean(kernels.from_prior(u.clamp_min(0), size)[0, 0])))[0]
