"""What can be chosen about a training, and within which limits."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blinddeblur.errors import UsageError


@dataclass(frozen=True)
class Options:
    """What can be chosen about a training. Raises UsageError for a value out of its range.

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
    learning_rate: float = 1.5e-3  # of Muon and AdamW alike
    save_every: float = 120
    seed: int = 0
    licence: str = "none stated"

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
            _checked_name(self.name)

    @property
    def effective_name(self) -> str:
        """The name as given, or made from that of the folder. Raises UsageError where nothing of it can be used."""
        return self.name or _checked_name(re.sub("[^a-z0-9]+", "-", self.output.resolve().name.lower()).strip("-"))


def _checked_name(name: str) -> str:
    """The name, if it can be that of an entry and of a file. Raises UsageError."""
    if not re.fullmatch("[a-z0-9][a-z0-9-]{0,63}", name):
        raise UsageError(f"A prior cannot be named {name!r}: give a --name of a-z, 0-9 and -, up to 64 of them.")
    return name
