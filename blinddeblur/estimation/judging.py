"""Which of several kernels a photo's blur is, told without the truth; what a restoration with it is worth; and whether
it is worth anything.

Two terms see different things. How likely a kernel makes the power spectrum (spectral.py) is nearly free, knows blur
when it sees it, and is blind to phase. What a short restoration leaves of the photo, and how natural its edges are,
sees phase, and likes blur:

    L(k) = L_spectrum(k) + 0.012 L_image(k),    L_image = -|y - k * x|^2 / (2 s^2) - (2 / a) ln mean |grad x|^a,

in nats a pixel.

The first says which kernels are worth a restoration, and both how far hypotheses count that agree with each other. The
choice is made by the gain in dB that is expected of each (priors/judgement.py), by the spectrum and by what else can be
seen (candidates.py): light that the photo has nowhere, the residual, how the hypotheses agree.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blinddeblur.estimation import spectral
from blinddeblur.estimation.candidates import ALIKE, EXPONENT, TINY, Candidate, Spectra, Verdict, features
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import Blur, gradients
from blinddeblur.physics.measurement import Measurement, model_error
from blinddeblur.priors.judgement import Judgement
from blinddeblur.priors.photo_spectra import PhotoSpectra
from blinddeblur.samplers.deblurring import Deblurring, residual
from blinddeblur.samplers.restoration import SHORT_SIGMAS, restore
from blinddeblur.samplers.schedule import Denoiser

STEPS = 6  # of the restoration; more tells no more
# What the spectrum is told of the noise: so many times the estimate, and the model's own error, in image units.
NOISE = (1.05, 0.003)
# Kernels that are restored with, at most: the likeliest by their spectra that differ from each other, less likely than
# the first by so many nats a pixel. On 39 training photos the best of all that were found is among six but for .03 dB,
# and up to half of these six were alike.
RESTORED, RULED_OUT = 5, 0.015
CAUTIOUS = 3.0  # times the error of a true kernel


@dataclass(frozen=True)
class Trial:
    """A way to restore a photo: with which kernel, with how much caution, and whether linear light was blurred."""

    index: int
    caution: float = 1.0
    linear: bool = False


@dataclass(frozen=True)
class Judge:
    """Judges the kernels of one photo after the other.

    Attributes:
        denoise: the image prior.
        spectra: the prior over spectra.
        judgement: what is expected of a candidate.
        linear: whether linear light was blurred; None where that is for the judge to find out.
    """

    denoise: Denoiser
    spectra: PhotoSpectra
    judgement: Judgement
    linear: bool | None = None

    def look(self, y: Measurement, hypotheses: Sequence[Tensor], sigma: float) -> Spectra:
        """What the power spectrum of y (1, 1, H, W) with noise sigma says of each kernel (K, K)."""
        told = math.hypot(NOISE[0] * sigma, NOISE[1])
        values, departures = spectral.log_likelihood(spectral.periodogram(y.y), hypotheses, told, self.spectra)
        return Spectra(hypotheses, values, departures, y.y[0, 0].numel())

    def likelihoods(self, y: Measurement, hypotheses: Sequence[Tensor], sigma: float) -> Tensor:
        """L_spectrum of each kernel (K, K), nats a pixel: (M,)."""
        return self.look(y, hypotheses, sigma).values

    def judge(self, y: Measurement, hypotheses: Sequence[Tensor], sigma: float) -> Verdict:
        """Ways to restore a photo, the best by the expected gain first; none where no blur is by far the likeliest.

        Args:
            y: the measurement, (1, 1, H, W).
            hypotheses: kernels (K, K); the first is no blur, with which nothing is restored.
            sigma: standard deviation of the noise of y.
        """
        spectra = self.look(y, hypotheses, sigma)
        tried = self.tried(y, spectra, sigma)
        if not tried:
            return Verdict((), spectra.blurred)
        judged = self._judged(y, spectra, tried, sigma)
        return Verdict(tuple(sorted(judged, key=lambda candidate: -candidate.gain)), spectra.blurred)

    def assess(self, y: Measurement, kernel: Tensor, sigma: float) -> Candidate:
        """What is to be expected of a single kernel (K, K), whatever others there may be."""
        spectra = self.look(y, [kernels.gaussian(0, y.y.device), kernel], sigma)
        (judged,) = self._judged(y, spectra, self.restored(y, spectra, [Trial(1)], sigma), sigma)
        return judged

    def tried(self, y: Measurement, spectra: Spectra, sigma: float) -> list[Candidate]:
        """Restorations with the kernels that are not ruled out, and in other ways with the one that promises most."""
        possible = _possible(spectra)
        if not possible:
            return []
        plain = self.restored(y, spectra, [Trial(index) for index in possible], sigma)
        gains = [candidate.gain for candidate in self._judged(y, spectra, plain, sigma)]
        best = possible[gains.index(max(gains))]
        others = [Trial(best, CAUTIOUS)] + ([Trial(best, linear=True)] if self.linear is None else [])
        return plain + self.restored(y, spectra, others, sigma)

    def _judged(self, y: Measurement, spectra: Spectra, tried: Sequence[Candidate], sigma: float) -> list[Candidate]:
        """The same candidates, with what is to be expected of each beside the others."""
        judged = torch.stack(self.judgement(features(y, spectra, tried, sigma).cpu()), dim=1).tolist()
        return [
            replace(candidate, gain=gain, probability=probability)
            for candidate, (gain, probability) in zip(tried, judged, strict=True)
        ]

    def restored(self, y: Measurement, spectra: Spectra, chosen: Sequence[Trial], sigma: float) -> list[Candidate]:
        """What kernels come to whose spectra were looked at."""
        trials = [replace(trial, linear=bool(self.linear) or trial.linear) for trial in chosen]
        images, seen = [], []
        for trial in trials:
            kernel, asked = spectra.kernels[trial.index], replace(y, linear=trial.linear)
            image, rest, rough = short_restoration(self.denoise, asked, kernel, sigma, trial.caution)
            images.append(image)
            seen.append(torch.stack([spectra.values[trial.index], spectra.departures[trial.index], rest, rough]))
        return [
            Candidate(spectra.kernels[trial.index], trial.caution, trial.linear, value, e, image, rest, rough)
            for trial, image, (value, e, rest, rough) in zip(trials, images, torch.stack(seen).tolist(), strict=True)
        ]


def _possible(spectra: Spectra) -> list[int]:
    """Which kernels are not ruled out by the spectrum, the likeliest of those that are alike, not counting no blur."""
    possible: list[int] = []
    likely = spectra.values >= spectra.values.max() - RULED_OUT
    for index in spectra.values.argsort(descending=True)[: int(likely.sum())].tolist():
        kernel = spectra.kernels[index]
        if index > 0 and all(kernels.likeness(kernel, spectra.kernels[other]) < ALIKE for other in possible):
            possible.append(index)
    return possible[:RESTORED]


def short_restoration(
    denoise: Denoiser, y: Measurement, kernel: Tensor, sigma: float, caution: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The image (1, 1, H, W) that a kernel makes of a photo, and its residual and roughness as in Candidate."""
    blur = Blur.uniform(kernel)
    given = Deblurring(denoise, y, blur, sigma, STEPS, error=caution * model_error(sigma))
    image = restore(given, SHORT_SIGMAS)
    return image, residual(image, y, blur), gradients(image).abs().pow(EXPONENT).mean().clamp_min(TINY).log()
