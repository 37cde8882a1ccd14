"""The kernel of a photo that nobody knows: two kinds of first guess, the more evident one refined by diffusion."""

from collections.abc import Iterator
from contextlib import suppress
from operator import attrgetter, itemgetter

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.errors import EstimationError
from blinddeblur.estimation.first_kernel import SIZES, classical_guess
from blinddeblur.estimation.judging import Estimate, judge
from blinddeblur.physics import kernels
from blinddeblur.physics.measurement import Measurement
from blinddeblur.priors.prior import Prior
from blinddeblur.progress import Callback, Step, unseen
from blinddeblur.samplers import fast
from blinddeblur.samplers.schedule import Denoiser

MARGIN = 4  # empty pixels around a guess: room for what the refinement adds
MOST_ROUNDS = 4  # of refinement
LEAST_GAIN = 0.15  # log probability for a pixel that a round has to gain for another to follow
LEAD = 1.25  # log probability for a pixel that a learned guess needs over the classical one, which gains more later
JUDGED_SIDE = 256  # pixels of the part of the photo by which kernels are judged
KNOWS_NOTHING = 3.0  # noise, of a kernel's maximum, under which nothing of it is left


def estimate(
    denoise: Denoiser,
    kernel_prior: Prior,
    y: Measurement,
    sigma: float,
    size: int | None = None,
    steps: int = fast.STEPS,
    generator: torch.Generator | None = None,
    callback: Callback = unseen,
) -> Estimate:
    """The kernel of a grey photo, (K, K), and what speaks for it.

    Args:
        kernel_prior: conditioned, p(k | y).
        y: (1, 1, H, W), the measurement.
        sigma: standard deviation of its noise, in image units.
        size: K, odd; None to find it.
        steps: of the diffusion.
        generator: of the injected noise, on the CPU.
        callback: told of every step, beginning with the first guess.

    Raises EstimationError where nothing is left of any guess, as in a photo without any texture.
    """
    height, width = y.y.shape[-2:]
    rows, columns = ((side - min(side, JUDGED_SIDE)) // 2 for side in (height, width))
    part = y.map(lambda pixels: pixels[..., rows : height - rows, columns : width - columns])

    def judged(kernel: Tensor) -> Estimate:
        return judge(denoise, part, kernels.trimmed(kernel, MARGIN) if size is None else kernel, sigma)

    firsts: list[tuple[float, Estimate]] = []
    for guesses, lead in ((_classical(y.y, size), 0.0), (learned_guesses(kernel_prior, y.y, sigma, size), LEAD)):
        with suppress(EstimationError):  # nothing came of this kind of guess; the other may do
            for guess in guesses:
                first = judged(guess)
                firsts.append((first.evidence - lead, first))
    if not firsts:
        raise EstimationError("Nothing in the photo tells of its blur. Give --kernel-size, or a --kernel of your own.")
    found = [max(firsts, key=itemgetter(0))[1]]
    callback(Step(-1, steps, y.y, found[0].kernel))
    while len(found) <= MOST_ROUNDS and (len(found) == 1 or found[-1].evidence > found[-2].evidence + LEAST_GAIN):
        found.append(judged(fast.estimate(denoise, y, found[-1].kernel, sigma, steps, generator, callback)))
    return max(found, key=attrgetter("evidence"))


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
