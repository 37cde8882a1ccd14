"""The kernel of a photo that nobody knows: two kinds of first guess, the more evident one refined by diffusion."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from operator import attrgetter, itemgetter

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.errors import EstimationError
from blinddeblur.estimation.first_kernel import SIZES, classical_guess
from blinddeblur.estimation.judging import Estimate, judge
from blinddeblur.estimation.learned_kernel import SMALLEST_PHOTO, learned_kernel
from blinddeblur.physics import kernels
from blinddeblur.physics.measurement import Measurement
from blinddeblur.progress import Step, unseen
from blinddeblur.samplers import fast
from blinddeblur.samplers.schedule import Denoiser

MARGIN = 4  # empty pixels around a guess: room for what the refinement adds
MOST_ROUNDS = 4  # of refinement
LEAST_GAIN = 0.15  # of evidence, for a pixel, for which there is another round
LEAD = 1.25  # of evidence that a learned guess needs over the classical one, which gains more by refinement
JUDGED_SIDE = 256  # pixels of the part of the photo by which kernels are judged


def estimate(
    denoise: Denoiser,
    given: Callable[[Tensor, float], Denoiser],
    y: Measurement,
    sigma: float,
    size: int | None = None,
    steps: int = fast.STEPS,
    generator: torch.Generator | None = None,
    callback: Callable[[Step], None] = unseen,
) -> Estimate:
    """Estimate the kernel of a grey photo.

    Args:
        denoise: the image prior.
        given: makes the prior p(k | y) of a photo and the standard deviation of its noise.
        y: (1, 1, H, W), the measurement.
        sigma: standard deviation of its noise, in image units.
        size: K, odd; None to find it.
        steps: of the diffusion.
        generator: of the injected noise, on the CPU.
        callback: told of every step, beginning with the first guess.

    Raises:
        EstimationError: nothing is left of any guess, as in a photo without any texture.
    """
    height, width = y.y.shape[-2:]
    rows, columns = ((side - min(side, JUDGED_SIDE)) // 2 for side in (height, width))
    part = y.map(lambda pixels: pixels[..., rows : height - rows, columns : width - columns])

    def judged(kernel: Tensor) -> Estimate:
        return judge(denoise, part, kernel, sigma)

    firsts: list[tuple[float, Estimate]] = []

    def consider(guesses: Iterable[Tensor], lead: float) -> None:
        with suppress(EstimationError):  # nothing came of this kind of guess; the other may do
            for guess in guesses:
                first = judged(kernels.trimmed(guess, MARGIN) if size is None else guess)
                firsts.append((first.evidence - lead, first))

    consider((classical_guess(y.y, side) for side in [size]), lead=0)
    consider(learned_guesses(given, y.y, sigma, size), lead=LEAD)
    if not firsts:
        raise EstimationError("Nothing in the photo tells of its blur. Give --kernel-size, or a --kernel of your own.")
    found = [max(firsts, key=itemgetter(0))[1]]
    callback(Step(-1, steps, y.y, found[0].kernel))
    while len(found) <= MOST_ROUNDS and (len(found) == 1 or found[-1].evidence > found[-2].evidence + LEAST_GAIN):
        refined = fast.estimate(denoise, y, found[-1].kernel, sigma, steps, generator, callback)
        found.append(judged(kernels.trimmed(refined, MARGIN) if size is None else refined))
    return max(found, key=attrgetter("evidence"))


def learned_guesses(
    given: Callable[[Tensor, float], Denoiser], y: Tensor, sigma: float, size: int | None
) -> Iterator[Tensor]:
    """The guesses of the conditioned prior, of up to 63 pixels, and of up to 125 at half the photo's size."""
    limit, known = min(size or SIZES[-1], kernels.largest(y.shape)), kernels.PRIOR_SIZE - 1
    for scale in (1, 2):
        small = F.avg_pool2d(y, scale)
        if min(small.shape[-2:]) < SMALLEST_PHOTO or (scale > 1 and limit <= known):
            break
        guess = learned_kernel(given(small, sigma / scale), y.device, min(known, kernels.largest(small.shape)))
        if scale > 1:
            guess = kernels.resized(guess, scale * guess.shape[-1] - 1, scale)
            if kernels.trimmed(guess, 0).shape[-1] <= known:
                break  # the other one sees it better
        yield kernels.fitted(guess, size or min(guess.shape[-1], limit))
