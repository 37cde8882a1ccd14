"""How the judge of kernels is trained: photos are blurred and restored in every way, and a Gaussian process learns what
each was worth.

The making takes nearly all of the time, so what is made is kept, and all of it is learned from anew.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blinddeblur.devices import find_device
from blinddeblur.errors import PhotoError, UsageError
from blinddeblur.estimation.candidates import LEAST_GAIN
from blinddeblur.estimation.judging import Judge
from blinddeblur.priors.judgement import LARGEST_GAIN, NOISE, Judgement, covariance
from blinddeblur.priors.loading import load_prior, load_spectra
from blinddeblur.settings import SEARCH_PRIOR
from blinddeblur.training import judged_crops
from blinddeblur.training.data import Warn, without_held_out
from blinddeblur.training.degraded import SIDES, degraded
from blinddeblur.training.judged_crops import Example
from blinddeblur.training.options import Options
from blinddeblur.training.pages import page
from blinddeblur.training.prior_folder import PriorFolder

EXAMPLES = "examples"  # the folder they are kept in
VALIDATED = 8  # of so many examples one is of a photo that is held out
PAGES, PAGE_SIDE = 0.12, 640  # share of examples that are of drawn text, and how large a page is, in pixels
NEWTON = 12  # steps of the fit of the probability
PATIENCE = 100  # photos in turn of which nothing came
FEW = 8  # photos, fewer of which teach nothing
BINS = 5  # of the probability, for validation
WORSE = -0.3  # dB from which on a restoration is worse than the photo


def train_judge(
    photos: Path, options: Options, progress: Callable[[str, float, float, str], None], warn: Warn
) -> tuple[dict[str, Any], list[Path]]:
    """Make examples of the photos of a folder until the minutes are spent, earlier runs included, and learn from all.

    Returns the figures of validation.json, and every file. Raises:
        UsageError: options that do not fit the folder, or too little time for a judgement.
        PhotoError: there is no photo to learn from, or none that is large enough.
        WeightsError: an example of an earlier run is damaged.
        OutputError: the folder cannot be written, or holds other things.
    """
    folder, device = PriorFolder(options.output), find_device(options.device)
    with folder.held():
        home = options.output / EXAMPLES
        if not home.exists():
            folder.require_no_training()
        kept, held_out = without_held_out(photos, options, warn)
        judge = Judge(load_prior(SEARCH_PRIOR, device).denoise, load_spectra(device=device), Judgement())
        kernel_prior = load_prior("photo-kernel", device, kind="kernel")
        home.mkdir(exist_ok=True)
        examples = [judged_crops.read(path) for path in sorted(home.glob("*.npz"))]
        failed = 0
        for index in itertools.count():
            minutes = sum(example.seconds for example in examples) / 60
            progress("minutes", round(minutes, 1), options.minutes, f"{len(examples)} photos")
            if minutes >= options.minutes:
                break
            path, rng = home / f"{index:06d}.npz", np.random.default_rng([options.seed, index])
            held = index % VALIDATED == 0
            if path.exists():
                continue
            # Not before there is a photo: where none can be used, that is to be told.
            drawn = len(examples) > 0 and rng.random() < PAGES
            sharp = page(rng, PAGE_SIDE) if drawn else (held_out if held else kept).photo(rng)
            given = None if sharp is None else degraded(sharp, rng)
            if given is not None and judged_crops.make(path, given, judge, kernel_prior, held, rng):
                examples.append(judged_crops.read(path))
                failed = failed if drawn else 0
            elif (failed := failed + 1) == PATIENCE:
                raise PhotoError(
                    f"Of the last {PATIENCE} photos that were drawn from {photos} none could be used. Give photos of "
                    f"{min(SIDES) * 2} pixels and more on each side."
                )
        learned = [example for example in examples if not example.held_out]
        if len(learned) < FEW:
            raise UsageError(
                f"In {options.minutes:g} minutes {len(learned)} photos were restored; {FEW} are the least to learn "
                "from. Give more --minutes to go on."
            )
        judgement = fitted(learned)
        figures = validated(judgement, [example for example in examples if example.held_out])
        entry = {
            "kind": "judge",
            "architecture": "judgement",
            "parameters": {},
            "licence": options.licence,
            "trained_on": f"{sum(len(e.gains) for e in learned):,} restorations of {len(learned):,} crops of the "
            f"{kept.number:,} photographs of {photos.resolve().name}, {minutes:.3g} minutes",
        }
        return figures, folder.publish(judgement.state_dict(), entry, options.effective_name, figures)


@torch.inference_mode()
def fitted(examples: Sequence[Example]) -> Judgement:
    """A judgement of examples; how probable it makes a gain is fitted to what it expects of photos that it left out."""
    rows = [torch.cat([e.features, e.alone]) for e in examples]
    gains = torch.cat([torch.cat([e.gains, e.gains[e.plain]]) for e in examples]).double()
    judgement = Judgement(len(gains))
    features = torch.cat(rows)
    judgement.mean, judgement.scale = features.mean(dim=0), features.std(dim=0) + 1e-3
    judgement.seen = judgement.standard(features)
    seen, limited = judgement.seen.double(), gains.clamp(-LARGEST_GAIN, LARGEST_GAIN)
    inverse = torch.linalg.inv(covariance(seen, seen) + NOISE * torch.eye(len(gains)))
    weights = inverse @ limited
    parts = torch.split(torch.arange(len(gains)), [len(row) for row in rows])
    errors = [torch.linalg.solve(inverse[part][:, part], weights[part]) for part in parts]
    judgement.weights, judgement.odds = weights.float(), _odds(limited - torch.cat(errors), gains > 0).float()
    return judgement


def _odds(expected: Tensor, came: Tensor) -> Tensor:
    """Logistic regression of what came true (M,) on what was expected (M,), by Newton's method: offset and slope."""
    odds, given = torch.zeros(2).double(), torch.stack([torch.ones_like(expected), expected], dim=1)
    for _ in range(NEWTON):
        probable = torch.sigmoid(given @ odds)
        curvature = given.T @ (given * (probable * (1 - probable))[:, None]) + torch.eye(2)  # and a prior of width 1
        odds = odds + torch.linalg.solve(curvature, given.T @ (came.double() - probable) - odds)
    return odds


@torch.inference_mode()
def validated(judgement: Judgement, examples: Sequence[Example]) -> dict[str, Any]:
    """How well a judgement foretells what examples came to, none of which it has seen.

    Returns, in dB or as shares: the loss of its choice against the best of the candidates, no change being one of them,
    in the mean; the same of the choice by L; what either made worse; the area under the curve of "worse than the
    photo"; and for five bins of the probability how many there were, what was foretold, and what came true.
    """
    losses, by_likelihood, worse, worse_by_likelihood = [], [], 0, 0
    expected, probable, came = [], [], []
    for example in examples:
        gains, probabilities = judgement(example.features)
        best = max(0.0, float(example.gains.max()))
        chosen = float(example.gains[gains.argmax()]) if gains.max() > LEAST_GAIN else 0.0
        likeliest = float(example.gains[(example.likelihoods - 1e9 * ~example.plain).argmax()])
        losses.append(best - chosen)
        by_likelihood.append(best - likeliest)
        worse += chosen < WORSE
        worse_by_likelihood += likeliest < WORSE
        expected.append(gains)
        probable.append(probabilities)
        came.append(example.gains)
    p, g, gain = torch.cat(probable), torch.cat(came), torch.cat(expected)
    bins = (p * BINS).long().clamp_max(BINS - 1)
    return {
        "photos": len(examples),
        "candidates": len(g),
        "loss_of_choice": float(np.mean(losses)),
        "loss_of_choice_by_likelihood": float(np.mean(by_likelihood)),
        "made_worse": worse,
        "made_worse_by_likelihood": worse_by_likelihood,
        "area_under_curve": _area(1 - p, g < 0),
        "calibration": [
            {
                "number": int((bins == index).sum()),
                "foretold": float(p[bins == index].mean()) if (bins == index).any() else None,
                "came_true": float((g[bins == index] > 0).float().mean()) if (bins == index).any() else None,
            }
            for index in range(BINS)
        ],
        "deciles": [
            {"expected": float(gain[part].mean()), "came": float(g[part].clamp(-LARGEST_GAIN, LARGEST_GAIN).mean())}
            for part in gain.argsort().tensor_split(10)
        ],
    }


def _area(score: Tensor, positive: Tensor) -> float:
    """Area under the curve of a score (M,) for what is positive (M,): the chance that it ranks two rightly."""
    ranks = score.argsort().argsort().float() + 1
    number = int(positive.sum())
    others = len(positive) - number
    if not number or not others:
        return math.nan
    return float((ranks[positive].sum() - number * (number + 1) / 2) / (number * others))
