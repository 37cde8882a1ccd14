"""How the prior over the spectra of sharp photos is made: a spectrum is fitted to each of many crops."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blinddeblur.errors import PhotoError
from blinddeblur.estimation import spectral
from blinddeblur.physics.convolution import blur
from blinddeblur.physics.kernels import gaussian
from blinddeblur.priors.photo_spectra import KNOTS, SIZE, PhotoSpectra
from blinddeblur.training.data import Draw, Warn, without_held_out
from blinddeblur.training.options import Options
from blinddeblur.training.prior_folder import PriorFolder
from blinddeblur.training.random_kernels import random_kernel

CROPS = 700
SIDE = 224  # pixels of a crop
SCALES = (0.6, 1.0)  # of a photo
NOISE = (0.7 / 255) ** 2 / 12  # variance: what rounding to 8 bits leaves after the mean over three channels
LOOSE = 0.03  # precision of the coefficients of a single crop
STEPS = 40  # of Fisher scoring
FEWEST = 2 * SIZE  # crops, fewer of which make no covariance
VALIDATED = 40  # crops that are held out
TRIES = 2  # photos that are drawn at most, for each crop
EXTENT, KERNEL, SIGMA = (4, 20), 31, 0.01  # of the blur of these, in pixels, and of their noise
SOFT = 1.0  # pixels: a Gaussian that a sharp photo is not to be taken for


@torch.inference_mode()
def train_spectra(
    photos: Path, options: Options, progress: Callable[[str, float, float, str], None], warn: Warn
) -> tuple[dict[str, Any], list[Path]]:
    """Fit the prior to the photos of a folder; returns the figures of validation.json, and every file.

    Raises:
        UsageError: options that do not fit the folder.
        PhotoError: there are no photos, or too few that are large enough.
        OutputError: the folder cannot be written, or holds other things.
    """
    folder = PriorFolder(options.output)
    with folder.held():
        folder.require_no_training()
        kept, held_out = without_held_out(photos, options, warn)
        rng = np.random.default_rng(options.seed)
        rows = []
        for crop in _crops(kept, CROPS, rng):
            rows.append(_coefficients(crop))
            progress("crops", len(rows), CROPS, "")
        if len(rows) < FEWEST:
            raise PhotoError(
                f"{photos} has {len(rows)} crops of {SIDE}x{SIDE} pixels with something in them; {FEWEST} are needed. "
                "Give more photos, or larger ones."
            )
        prior = PhotoSpectra.of(torch.stack(rows))
        figures = _validated(prior, list(_crops(held_out, VALIDATED, rng)), rng)
        entry = {
            "kind": "spectra",
            "architecture": "spectra",
            "parameters": {},
            "licence": options.licence,
            "trained_on": f"{len(rows)} crops of {SIDE}x{SIDE} of {kept.number:,} photographs of "
            f"{photos.resolve().name}",
        }
        tensors = {"mean": prior.mean, "precision": prior.precision}
        return figures, folder.publish(tensors, entry, options.effective_name, figures)


def _crops(photos: Draw, number: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Grey crops (1, 1, SIDE, SIDE) in [0, 1] of random photos, at most so many; small photos are passed over."""
    made = passed_over = 0
    for _ in range(TRIES * number):
        if made == number:
            break
        pixels: NDArray[Any] | None = photos.photo(rng)
        if pixels is None:
            continue
        scale = float(rng.choice(SCALES))
        if scale < 1:
            pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        grey = pixels.mean(axis=2, dtype=np.float32) / 255
        if min(grey.shape) < SIDE or grey.std() == 0:
            passed_over += 1
            continue
        top, left = (int(rng.integers(extent - SIDE + 1)) for extent in grey.shape)
        made += 1
        yield torch.from_numpy(np.ascontiguousarray(grey[top : top + SIDE, left : left + SIDE]))[None, None]
    if made < number and passed_over:
        photos.warn(
            f"Photos with fewer than {SIDE} pixels in a direction, or without contrast, tell no spectrum: "
            f"{passed_over} were passed over."
        )


def _coefficients(crop: Tensor) -> Tensor:
    """(SIZE,): the spectrum of a crop, hardly held by anything."""
    seen = spectral.periodogram(crop)
    start = torch.zeros(SIZE)
    start[:KNOTS] = float((seen.power.clamp_min(1e-12).log() - seen.law).median()) + 0.5
    prior = PhotoSpectra(start, LOOSE * torch.eye(SIZE))
    return spectral.fitted(seen, torch.ones(1, len(seen.power)), NOISE, prior, start[None], STEPS)[1][0]


def _validated(prior: PhotoSpectra, crops: Sequence[Tensor], rng: np.random.Generator) -> dict[str, Any]:
    """Shares of held-out crops of which the truth is told: that they are not blurred, and, blurred, that they are."""
    none, soft = (gaussian(width, torch.device("cpu")) for width in (0.0, SOFT))
    sharp = blurred = 0
    for crop in crops:
        sharp += _likelier(crop, none, soft, (NOISE + (0.002) ** 2) ** 0.5, prior)
        kernel = torch.from_numpy(random_kernel(rng, KERNEL, float(rng.uniform(*EXTENT))))
        y = blur(crop, kernel)
        y = y + SIGMA * torch.from_numpy(rng.standard_normal(y.shape, dtype=np.float32))
        blurred += _likelier(y, kernel, none, SIGMA, prior)
    return {"crops": len(crops), "sharp_told": sharp / len(crops), "blur_told": blurred / len(crops)}


def _likelier(y: Tensor, kernel: Tensor, other: Tensor, sigma: float, prior: PhotoSpectra) -> bool:
    values, _ = spectral.log_likelihood(spectral.periodogram(y), [kernel, other], sigma, prior)
    return bool(values[0] > values[1])
