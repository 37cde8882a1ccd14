"""Photos with the truth, and what came of every kernel that the search found: examples for the judge.

Making one takes as long as restoring a photo, so each is kept in a file of its own, with all that it took, and an
interrupted run loses none. What is learned from them is worked out anew each time it is read.
"""

import io
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blinddeblur.errors import EstimationError, WeightsError
from blinddeblur.estimation.candidates import Candidate, Spectra, features
from blinddeblur.estimation.hypotheses import guessed, hypotheses, refined, to_refine
from blinddeblur.estimation.judging import Judge, Trial
from blinddeblur.estimation.noise import estimate_sigma
from blinddeblur.files.together import write_bytes
from blinddeblur.physics.convolution import local_mean
from blinddeblur.physics.measurement import Measurement
from blinddeblur.priors.prior import Prior
from blinddeblur.samplers import fast
from blinddeblur.training.degraded import Degraded

RULED_OUT = 2  # kernels that the spectrum rules out and that are restored with all the same: wrong ones teach as well
RIM = 12  # pixels at the edge of a photo that do not count
REACH = 10  # pixels that a restoration may be shifted against the truth, as no photo tells
WINDOW = 15  # pixels over which means are taken away before the shift is looked for
WHITE = 65535  # of the truth in a file


@dataclass(frozen=True)
class Example:
    """A photo and what is known of each way to restore it.

    Attributes:
        features: (M, FEATURES), what the judgement goes by.
        alone: the same of those that are plain, without the others beside them.
        gains: (M,) in dB over the photo.
        likelihoods: (M,), L in nats a pixel.
        plain: (M,), which of them reckon with the error of a true kernel and encoded values.
        blurred: nats a pixel by which some kernel explains the spectrum better than no blur.
        kind: of the blur, a key of degraded.KINDS.
        held_out: whether the photo is one of those for validation.
        seconds: that making it took.
    """

    features: Tensor
    alone: Tensor
    gains: Tensor
    likelihoods: Tensor
    plain: Tensor
    blurred: float
    kind: str
    held_out: bool
    seconds: float


def make(
    path: Path, given: Degraded, judge: Judge, kernel_prior: Prior, held_out: bool, rng: np.random.Generator
) -> bool:
    """Look for the blur of a photo, restore it in every way, and keep that; returns whether anything came of it."""
    start = time.monotonic()
    y, sigma = _measured(given.photo)
    try:
        likely = partial(judge.likelihoods, y, sigma=sigma)
        guesses = guessed(kernel_prior, y.y, sigma, None)
        kernels = hypotheses(judge.denoise, y, guesses, sigma, None, fast.STEPS, 0, likely)
        kernels.append(refined(judge.denoise, y, to_refine(guesses, kernels, likely), sigma))
    except EstimationError:
        return False
    spectra = judge.look(y, kernels, sigma)
    tried = judge.tried(y, spectra, sigma)
    places = {id(kernel): index for index, kernel in enumerate(kernels)}
    unlikely = sorted(set(range(1, len(kernels))) - {places[id(candidate.kernel)] for candidate in tried})
    chosen = rng.choice(unlikely, min(RULED_OUT, len(unlikely)), replace=False)
    tried += judge.restored(y, spectra, [Trial(index) for index in chosen.tolist()], sigma)
    content = io.BytesIO()
    arrays = {f"k{index}": kernel.numpy() for index, kernel in enumerate(kernels)}
    arrays |= {
        "y": given.photo,
        "x": np.rint(WHITE * given.truth).astype(np.uint16),
        "sigma": np.array(sigma),
        "ls": spectra.likelihoods.numpy(),
        "es": spectra.departures.numpy(),
        "rec": np.array([(places[id(c.kernel)], c.caution, c.linear, c.residual, c.roughness) for c in tried]),
        "ims": np.stack([c.image[0, 0].half().numpy() for c in tried]),
        "kind": np.array(given.kind),
        "held_out": np.array(held_out),
        "seconds": np.array(time.monotonic() - start),
    }
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_bytes(content.getvalue(), path, overwrite=True)
    return True


def read(path: Path) -> Example:
    """An example that was kept. Raises WeightsError where the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            kept = dict(file)
        y, sigma = _measured(kept["y"])[0], float(kept["sigma"])
        spectra = Spectra(
            [torch.from_numpy(kept[f"k{index}"]) for index in range(len(kept["ls"]))],
            torch.from_numpy(kept["ls"]),
            torch.from_numpy(kept["es"]),
            y.y[0, 0].numel(),
        )
        tried = [_candidate(row, image, spectra) for row, image in zip(kept["rec"], kept["ims"], strict=True)]
        truth = torch.from_numpy(kept["x"].astype(np.float32) / np.float32(WHITE))
        before = psnr(y.y[0, 0], truth)
        return Example(
            features(y, spectra, tried, sigma),
            torch.cat([features(y, spectra, [candidate], sigma) for candidate in tried if _plain(candidate)]),
            torch.tensor([psnr(candidate.image[0, 0].clamp(0, 1), truth) - before for candidate in tried]),
            torch.tensor([candidate.likelihood(sigma) for candidate in tried]),
            torch.tensor([_plain(candidate) for candidate in tried]),
            spectra.blurred,
            str(kept["kind"]),
            bool(kept["held_out"]),
            float(kept["seconds"]),
        )
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise WeightsError(f"The example {path} is damaged. Delete it; another one will be made.") from error


def psnr(image: Tensor, truth: Tensor) -> float:
    """Of (H, W) against the truth after the best shift, in quarters of a pixel, in dB."""
    window = torch.outer(*(torch.hann_window(side) for side in truth.shape))
    spectra = [torch.fft.rfft2(_detail(x) * window) for x in (truth, image)]
    correlation = torch.fft.irfft2(spectra[0] * spectra[1].conj(), s=truth.shape)
    moves = torch.arange(-REACH, REACH + 1)
    row, column = divmod(int(correlation[moves][:, moves].argmax()), len(moves))
    best = min([(0.0, 0.0), (float(moves[row]), float(moves[column]))], key=lambda by: _error(image, truth, by))
    for step in (0.5, 0.25):
        near = [(best[0] + down, best[1] + across) for down in (-step, 0, step) for across in (-step, 0, step)]
        best = min(near, key=lambda by: _error(image, truth, by))
    return -10 * math.log10(max(_error(image, truth, best), 1e-8))


def _error(image: Tensor, truth: Tensor, by: tuple[float, float]) -> float:
    """Mean square of the difference from the truth, of an image (H, W) moved by (rows, columns)."""
    if by != (0.0, 0.0):
        down = torch.fft.fftfreq(image.shape[0])[:, None]
        across = torch.fft.rfftfreq(image.shape[1])
        turned = torch.fft.rfft2(image) * torch.exp(-2j * torch.pi * (down * by[0] + across * by[1]))
        image = torch.fft.irfft2(turned, s=image.shape)
    return float((image - truth)[RIM:-RIM, RIM:-RIM].square().mean())


def _detail(x: Tensor) -> Tensor:
    return x - local_mean(x[None, None], WINDOW)[0, 0]


def _measured(photo: NDArray[np.uint8]) -> tuple[Measurement, float]:
    """The grey measurement of a photo (H, W, 3), and the standard deviation of its noise."""
    pixels = torch.from_numpy(photo.astype(np.float32) / np.float32(255)).permute(2, 0, 1)[None]
    return Measurement.of(pixels).grey(), estimate_sigma(pixels.mean(dim=1, keepdim=True))


def _plain(candidate: Candidate) -> bool:
    return candidate.caution == 1 and not candidate.linear


def _candidate(row: NDArray[np.float64], image: NDArray[np.float16], spectra: Spectra) -> Candidate:
    index = int(row[0])
    return Candidate(
        spectra.kernels[index],
        float(row[1]),
        bool(row[2]),
        float(spectra.values[index]),
        float(spectra.departures[index]),
        torch.from_numpy(image.astype(np.float32))[None, None],
        float(row[3]),
        float(row[4]),
    )
