"""Ways to restore a photo: what speaks for each, what it looks like in numbers, and what came of judging them all.

The plainest of the numbers is light that no blur takes away: with a wrong kernel, restorations are brighter or darker
than the photo is anywhere. By that alone those that are worse than the photo are told from better ones in 86 of 100
pairs, where L tells 80.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import gradients
from blinddeblur.physics.measurement import Measurement, model_error

EXPONENT = 0.5  # a, of the density of gradients, exp(-|g / b|^a); 0.5 to 0.8 fits photos (Krishnan and Fergus 2009)
IMAGE_SHARE = 0.012  # of L_image in L; .007 to .02 choose as well within .1 dB on 32 crops (RESULTS.md)
LIT = 0.05  # of the maximum: more is part of the kernel
SOFTNESS = 0.9  # pixels of standard deviation along the longer axis: a kernel with less is none
EXTREMES = (0.001, 0.999)  # shares of the pixels of a photo that are darker than its darkest, and than its brightest
EDGES = (0.5, 0.99)  # shares of the gradients of an image that are flatter than the usual one, and than edges
NEAR = 6  # pixels around a pixel
LITTLE = 1e-3  # of a change, so that none has a logarithm
TINY = 1e-4  # image units, so that what has no texture has a logarithm
CLOSE = 3e-3  # nats a pixel of L by which the weight of a hypothesis falls to 1 / e
WAYS = 3  # to restore a photo that are told apart
ALIKE = 0.97  # agreement of kernels from which on they are the same way
# dB of expected gain by which a way is 1 / e as probable. Of 112 training photos the best way alone gained 2.30 dB, two
# blended by such shares 2.48 with 1, 2.53 with 1.5, 2.55 with 3, which is softer (RESULTS.md).
TEMPERATURE = 1.5
# dB of expected gain from which on a restoration is handed out: of 217 training photos 13 were made worse by .3 dB with
# 0, six with .75, five with 1, and the mean gain was 1.26, 1.25 and 1.21 dB (each photo left out in turn).
LEAST_GAIN = 0.75

Range = tuple[Tensor, Tensor]  # the darkest and the brightest light


@dataclass(frozen=True)
class Candidate:
    """A way to restore a photo, what speaks for it, and what is expected of it.

    Attributes:
        kernel: (K, K).
        caution: times the error of a true kernel that the restoration reckons with.
        linear: whether linear light was blurred.
        spectral: L_spectrum, nats a pixel.
        departure: e, how far the photo departs from one kernel.
        image: (1, 1, H, W), a short restoration.
        residual: root mean square that it leaves of the photo.
        roughness: ln mean |grad x|^a of it.
        gain: over the photo, that is expected, in dB.
        probability: that it is better than the photo.
    """

    kernel: Tensor
    caution: float
    linear: bool
    spectral: float
    departure: float
    image: Tensor
    residual: float
    roughness: float
    gain: float = 0.0
    probability: float = 0.0

    def likelihood(self, sigma: float) -> float:
        """L, nats a pixel, for a photo with noise sigma."""
        return self.spectral + IMAGE_SHARE * image_term(self.residual, self.roughness, sigma)


@dataclass(frozen=True)
class Spectra:
    """What the power spectrum of a photo says of kernels.

    Attributes:
        kernels: the first is no blur.
        likelihoods: log-likelihood of the spectrum under each, nats a pixel.
        departures: e of each.
        pixels: that the photo has.
    """

    kernels: Sequence[Tensor]
    likelihoods: Tensor
    departures: Tensor
    pixels: int

    @cached_property
    def values(self) -> Tensor:
        """L_spectrum of each, nats a pixel: the likelihood less what as many free pixels of a kernel fit to noise.

        That is a nat each (Akaike 1974). Without it, kernels that were made to fit a sharp photo explained its spectrum
        better than no blur did, by 5 to 27 thousandths, where no line and no Gaussian was better by more than 8.
        """
        free = self.likelihoods.new_tensor([_lit(kernel) for kernel in self.kernels])
        return self.likelihoods - free / self.pixels

    @property
    def blurred(self) -> float:
        """Nats a pixel by which some kernel explains the spectrum better than next to none: minus infinity without any.

        A little softness is no blur: every lens, and every enlargement, has that much.
        """
        wide = self.values[~self._narrow]
        return float(wide.max()) - self.narrowest if len(wide) else -math.inf

    @cached_property
    def narrowest(self) -> float:
        """L_spectrum of the likeliest kernel that is next to none."""
        return float(self.values[self._narrow].max())

    @cached_property
    def _narrow(self) -> Tensor:
        return torch.tensor([_extents(kernel)[0] < SOFTNESS for kernel in self.kernels], device=self.values.device)


@dataclass(frozen=True)
class Verdict:
    """What was found of a photo's blur.

    Attributes:
        ranked: ways to restore the photo, the best first.
        blurred: nats a pixel by which some kernel explains the photo's spectrum better than next to none.
    """

    ranked: tuple[Candidate, ...]
    blurred: float

    @property
    def best(self) -> Candidate:
        """The way with the largest expected gain."""
        return self.ranked[0]

    @property
    def probable(self) -> tuple[tuple[Candidate, float], ...]:
        """The best ways whose kernels differ, with how probable each is against the others; the best way first.

        Their kernels lie where that of the best way lies, since no photo tells of a shift.
        """
        chosen = [self.best]
        for candidate in self.ranked[1:]:
            if len(chosen) < WAYS and all(kernels.likeness(candidate.kernel, c.kernel) < ALIKE for c in chosen):
                chosen.append(candidate)
        shares = torch.softmax(torch.tensor([c.gain for c in chosen]) / TEMPERATURE, dim=0)
        aligned = [replace(c, kernel=_aligned(c.kernel, self.best.kernel)) for c in chosen[1:]]
        return tuple(zip([self.best, *aligned], shares.tolist(), strict=True))

    @property
    def better(self) -> bool:
        """Whether that is expected to be enough better than the photo to be worth the risk."""
        return self.best.gain > LEAST_GAIN


def _aligned(kernel: Tensor, reference: Tensor) -> Tensor:
    size = max(kernel.shape[-1], reference.shape[-1])
    return kernels.trimmed(kernels.aligned(kernels.fitted(kernel, size), kernels.fitted(reference, size)), 0)


def image_term(rest: float, roughness: float, sigma: float) -> float:
    """L_image, nats a pixel: log p(y, x | k) up to a constant, x a restoration with the residual and the roughness.

    The residual is Gaussian. Gradients follow exp(-|g / b|^a) / (c b), whose scale b, which differs from photo to
    photo, is the likeliest one: then (1 / a) ln mean |g|^a is all that remains of it.
    """
    return -0.5 * (rest / model_error(sigma)) ** 2 - 2 / EXPONENT * roughness


def weights(tried: Sequence[Candidate], sigma: float) -> Tensor:
    """(M,): how probable each of several candidates is against the others, by L; they sum to 1."""
    likelihoods = torch.tensor([candidate.likelihood(sigma) for candidate in tried])
    return torch.softmax(likelihoods / CLOSE, dim=0)


def features(y: Measurement, spectra: Spectra, tried: Sequence[Candidate], sigma: float) -> Tensor:
    """What the judgement goes by, (M, FEATURES), a row for each candidate.

    Args:
        y: the measurement, (1, 1, H, W).
        spectra: of all hypotheses, no blur first.
        tried: the candidates.
        sigma: standard deviation of the noise of y.
    """
    likeliest, slopes = float(spectra.values.max()), gradients(y.y)
    darkest, brightest = torch.quantile(y.y.flatten(), y.y.new_tensor(EXTREMES))
    anywhere, near = (darkest, brightest), _near(y.y)
    of_photo = [
        math.log(sigma),
        float((brightest - darkest + TINY).log()),
        float(((slopes.abs().mean() + TINY) / (slopes.square().mean().sqrt() + TINY)).log()),
    ]
    return torch.tensor(
        [
            [
                math.asinh(1000 * (candidate.spectral - likeliest) / 3),
                math.asinh(spectra.pixels * (candidate.spectral - spectra.narrowest) / 10),
                math.log(max(candidate.residual, TINY) / model_error(sigma)),
                math.log(_extents(candidate.kernel)[1] + 0.3),
                float(candidate.kernel.max().log()),
                support,
                *_seen(y.y, candidate.image, sigma, near, anywhere),
                *of_photo,
            ]
            for candidate, support in zip(tried, _supports(tried, sigma), strict=True)
        ]
    )


def _supports(tried: Sequence[Candidate], sigma: float) -> list[float]:
    """How far the kernels of all candidates, by how probable they are, agree with that of each."""
    side = max(candidate.kernel.shape[-1] for candidate in tried)
    shapes = torch.stack([kernels.fitted(candidate.kernel, side) for candidate in tried])
    share = weights(tried, sigma).to(shapes)
    return [float(kernels.agreement(shape.expand_as(shapes), shapes) @ share) for shape in shapes]


def _seen(y: Tensor, x: Tensor, sigma: float, near: Range, anywhere: Range) -> list[float]:
    """Logarithms of how far an image x is from the photo y, (1, 1, H, W) both; and of how much of that is light that
    the photo has nowhere near, and nowhere at all, in the mean and in the root of the mean square; and that is darker
    than black or brighter than white; and of how much steeper the edges of x are than the rest of it.

    The ink of a sharp page is darker than anything in a blurred one, but not than black.
    """
    change = (x - y).abs().mean() + TINY
    square = (x - y).square().mean() + TINY**2
    nowhere = _outside(x, *anywhere)
    usual, steep = torch.quantile(gradients(x).abs().flatten(), y.new_tensor(EDGES))
    return [
        float(square.sqrt().log()) - math.log(sigma),
        float((_outside(x, *near).mean() / change + LITTLE).log()),
        float((nowhere.mean() / change + LITTLE).log()),
        float((nowhere.square().mean() / square + LITTLE**2).log()) / 2,
        float((_outside(x, y.new_tensor(0), y.new_tensor(1)).mean() / change + LITTLE).log()),
        float((steep + TINY).log() - (usual + TINY).log()),
    ]


def _near(y: Tensor) -> Range:
    """The darkest and the brightest light of a photo (1, 1, H, W) around each pixel."""
    window = 2 * NEAR + 1
    brightest = F.max_pool2d(y, window, stride=1, padding=NEAR)
    return -F.max_pool2d(-y, window, stride=1, padding=NEAR), brightest


def _outside(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far pixels are below the one or above the other."""
    return F.relu(x - high) + F.relu(low - x)


def _lit(kernel: Tensor) -> int:
    """How many pixels belong to a kernel (K, K)."""
    return int((kernel > LIT * kernel.max()).sum())


def _extents(kernel: Tensor) -> tuple[float, float]:
    """Standard deviations of a kernel (K, K) along its longer and its shorter axis, in pixels."""
    places = torch.arange(kernel.shape[-1], device=kernel.device, dtype=kernel.dtype) - kernel.shape[-1] // 2
    down, across = kernel.sum(dim=1), kernel.sum(dim=0)
    row, column = float((down * places).sum()), float((across * places).sum())
    rows = float((down * places.square()).sum()) - row**2
    columns = float((across * places.square()).sum()) - column**2
    both = float(places @ kernel @ places) - row * column
    root = math.hypot((rows - columns) / 2, both)
    return math.sqrt(max(0.0, (rows + columns) / 2 + root)), math.sqrt(max(0.0, (rows + columns) / 2 - root))
