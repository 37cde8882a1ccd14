"""What can be chosen about a training, and within which limits."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blinddeblur.errors import UsageError
from blinddeblur.training.loop import LEARNING_RATE, SAVE_EVERY
from blinddeblur.training.photo_crops import MEMORY
from blinddeblur.training.prior_folder import checked_name


@dataclass(frozen=True)
class Options:
    """What can be chosen about a training.

    Attributes:
        output: folder for everything that comes out; a training that was begun there goes on.
        minutes: budget of the whole training, earlier runs included.
        widths: features of the network at each resolution; None for those of the checkpoint, of `start`, or our own. A
            conditioned kernel prior consists of two networks, which both get them.
        crop: side in pixels of the crops that an image prior learns from.
        batch: examples in a step; None for 16, or 8 blurred photos.
        shares: weights of the subfolders among the crops; by default each photo counts the same.
        start: name or folder of a prior to start from.
        name: of the prior; by default that of the folder.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        workers: processes that make examples; None for as many as the device needs.
        learning_rate: the largest.
        save_every: seconds between two saves.
        seed: of everything random.
        licence: of the weights.
        memory: bytes of photos to hold at once.

    Raises:
        UsageError: a value out of its range.
    """

    output: Path
    minutes: float = 60
    widths: Sequence[int] | None = None
    crop: int = 64
    batch: int | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    start: str | None = None
    name: str | None = None
    device: str = "auto"
    workers: int | None = None
    learning_rate: float = LEARNING_RATE
    save_every: float = SAVE_EVERY
    seed: int = 0
    licence: str = "none stated"
    memory: float = MEMORY

    def __post_init__(self) -> None:
        rules = {
            "The --minutes must be a number above 0.": 0 < self.minutes < math.inf,
            "The --widths must be one to six whole numbers from 1 to 2048, such as 32,64,128,192.": self.widths is None
            or (1 <= len(self.widths) <= 6 and all(1 <= width <= 2048 for width in self.widths)),
            "The --crop must lie between 16 and 1024 pixels.": 16 <= self.crop <= 1024,
            "The --batch must lie between 1 and 4096.": self.batch is None or 1 <= self.batch <= 4096,
            "A weight of --share must be a number above 0.": all(0 < s < math.inf for s in self.shares.values()),
            "The --workers must lie between 0 and 256.": 0 <= (self.workers or 0) <= 256,
            "The --learning-rate must lie above 0 and below 1.": 0 < self.learning_rate < 1,
            "The --save-every must be a number of seconds above 0.": self.save_every > 0,
            "The --seed must be a whole number, zero or larger.": 0 <= self.seed < 2**63,
            "The --licence must be one line of text.": self.licence.isprintable() and self.licence != "",
        }
        for sentence, kept in rules.items():
            if not kept:
                raise UsageError(sentence)
        if self.name is not None:
            checked_name(self.name)
