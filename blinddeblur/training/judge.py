"""How the judge of kernels is trained: photos are blurred and restored in every way, and small networks learn what each
was worth.

The making takes nearly all of the time, so what is made is kept, and the networks are trained anew on all of it.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.devices import find_device
from blinddeblur.errors import PhotoError, UsageError
from blinddeblur.estimation.candidates import LEAST_GAIN
from blinddeblur.estimation.judging import Judge
from blinddeblur.priors.judgement import LARGEST_GAIN, MEMBERS, Judgement
from blinddeblur.priors.loading import load_prior, load_spectra
from blinddeblur.training import judged_crops
from blinddeblur.training.data import Warn, without_held_out
from blinddeblur.training.degraded import SIDES, degraded
from blinddeblur.training.judged_crops import Example
from blinddeblur.training.options import Options
from blinddeblur.training.prior_folder import PriorFolder

EXAMPLES = "examples"  # the folder they are kept in
VALIDATED = 8  # of so many examples one is of a photo that is held out
STEPS = 90  # of the training of the networks, whose width is 8: with more of either, photos were learned by heart
SHARE = 0.1  # of the squared error of the gain, in dB^2, beside the entropy of the probability
RATE = 1e-2  # of it, falling to zero
DECAY = 1.0  # of the weights
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
        judge = Judge(load_prior(device=device, kind="image").denoise, load_spectra(device=device), Judgement())
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
            sharp = (held_out if held else kept).photo(rng)
            given = None if sharp is None else degraded(sharp, rng)
            if given is not None and judged_crops.make(path, given, judge, kernel_prior, held, rng):
                examples.append(judged_crops.read(path))
                failed = 0
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
        judgement = fitted(learned, options.seed)
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


def fitted(examples: Sequence[Example], seed: int = 0) -> Judgement:
    """A judgement of examples, each photo counting the same; each member has seen other photos more often."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judgement = Judgement()
    seen = torch.cat([torch.cat([e.features, e.alone]) for e in examples])
    gains = torch.cat([e.gains.repeat(2) for e in examples])
    photo = torch.cat([torch.full((2 * len(e.gains),), i) for i, e in enumerate(examples)])
    judgement.mean, judgement.scale = seen.mean(dim=0), seen.std(dim=0) + 1e-3
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.poisson(torch.ones(MEMBERS, len(examples)), generator=generator)
    sizes = torch.tensor([float(len(e.gains)) for e in examples])
    shares = (drawn / sizes)[:, photo]
    shares = shares / shares.sum(dim=1, keepdim=True)
    limited, better = gains.clamp(-LARGEST_GAIN, LARGEST_GAIN), (gains > 0).float()
    optimiser = torch.optim.AdamW(judgement.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        expected, odds = judgement.of_each(seen)
        wrong = SHARE * (expected - limited).square()  # absolute errors would make light of rare disasters
        unsure = F.binary_cross_entropy_with_logits(odds, better.expand_as(odds), reduction="none")
        loss = (shares * (wrong + unsure)).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return judgement.requires_grad_(False).eval()


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
