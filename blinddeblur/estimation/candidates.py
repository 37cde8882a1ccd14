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
# dB of expected gain from which on a restoration is handed out: of 452 training photos 18 were made worse by .3 dB with
# .25, 17 with .5, 16 with .75, 14 with 1, and the mean gain was 1.25, 1.24, 1.19 and 1.16 dB (each photo left out in
# turn).
LEAST_GAIN = 0.5

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
        lit = self._shapes > LIT * self._shapes.amax(dim=(1, 2), keepdim=True)
        return self.likelihoods - lit.sum(dim=(1, 2)) / self.pixels

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
        return _extents(self._shapes)[:, 0] < SOFTNESS

    @cached_property
    def _shapes(self) -> Tensor:
        return kernels.stacked(self.kernels)


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
    return kernels.trimmed(kernels.aligned(*kernels.stacked([kernel, reference])), 0)


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
    images, shapes = torch.cat([candidate.image for candidate in tried]), kernels.stacked([c.kernel for c in tried])
    spectral, residual = y.y.new_tensor([[c.spectral, c.residual] for c in tried]).T
    slopes = gradients(y.y)
    darkest, brightest = torch.quantile(y.y.flatten(), y.y.new_tensor(EXTREMES))
    of_photo = [
        y.y.new_tensor(sigma).log(),
        (brightest - darkest + TINY).log(),
        ((slopes.abs().mean() + TINY) / (slopes.square().mean().sqrt() + TINY)).log(),
    ]
    columns = [
        torch.asinh(1000 * (spectral - spectra.values.max()) / 3),
        torch.asinh(spectra.pixels * (spectral - spectra.narrowest) / 10),
        (residual.clamp_min(TINY) / model_error(sigma)).log(),
        (_extents(shapes)[:, 1] + 0.3).log(),
        shapes.amax(dim=(1, 2)).log(),
        _supports(shapes, weights(tried, sigma)),
        *_seen(y.y, images, sigma, _near(y.y), (darkest, brightest)),
        *(value.expand(len(tried)) for value in of_photo),
    ]
    return torch.stack(columns, dim=1)


def _supports(shapes: Tensor, shares: Tensor) -> Tensor:
    """How far kernels (M, K, K) that are so probable agree with each of them: (M,)."""
    return kernels.agreement(shapes[:, None], shapes[None]) @ shares.to(shapes)


def _seen(y: Tensor, x: Tensor, sigma: float, near: Range, anywhere: Range) -> list[Tensor]:
    """Logarithms of how far images x (M, 1, H, W) are from the photo y; and of how much of that is light that the photo
    has nowhere near, and nowhere at all, in the mean and in the root of the mean square; and that is darker than black
    or brighter than white; and of how much steeper the edges of x are than the rest of it: each (M,).

    The ink of a sharp page is darker than anything in a blurred one, but not than black.
    """

    def mean(values: Tensor) -> Tensor:
        return values.flatten(1).mean(dim=1)

    change, square = mean((x - y).abs()) + TINY, mean((x - y).square()) + TINY**2
    nowhere = _outside(x, *anywhere)
    steepness = gradients(x).abs().flatten(1)
    usual, steep = torch.quantile(steepness, y.new_tensor(EDGES), dim=1)
    return [
        square.sqrt().log() - math.log(sigma),
        (mean(_outside(x, *near)) / change + LITTLE).log(),
        (mean(nowhere) / change + LITTLE).log(),
        (mean(nowhere.square()) / square + LITTLE**2).log() / 2,
        (mean(_outside(x, y.new_tensor(0), y.new_tensor(1))) / change + LITTLE).log(),
        (steep + TINY).log() - (usual + TINY).log(),
    ]


def _near(y: Tensor) -> Range:
    """The darkest and the brightest light of a photo (1, 1, H, W) around each pixel."""
    window = 2 * NEAR + 1
    brightest = F.max_pool2d(y, window, stride=1, padding=NEAR)
    return -F.max_pool2d(-y, window, stride=1, padding=NEAR), brightest


def _outside(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far pixels are below the one or above the other."""
    return F.relu(x - high) + F.relu(low - x)


def _extents(shapes: Tensor) -> Tensor:
    """Standard deviations of kernels (M, K, K) along their longer and their shorter axes, in pixels: (M, 2)."""
    places = torch.arange(shapes.shape[-1], device=shapes.device, dtype=shapes.dtype) - shapes.shape[-1] // 2
    down, across = shapes.sum(dim=2), shapes.sum(dim=1)
    row, column = down @ places, across @ places
    rows, columns = down @ places.square() - row**2, across @ places.square() - column**2
    both = places @ (shapes @ places).T - row * column
    root = torch.hypot((rows - columns) / 2, both)
    middle = (rows + columns) / 2
    return torch.stack([middle + root, middle - root], dim=1).clamp_min(0).sqrt()
