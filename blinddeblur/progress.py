"""What those who wait are told: how far the work is, and what it has come to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Progress(Protocol):
    """Whatever is told how far the work is: the name of the stage, steps done, and steps in all where that is known."""

    def __call__(self, stage: str, done: int, total: int | None, /) -> None: ...


@dataclass(frozen=True)
class Step:
    """The state of a sampler after one step; the engine also tells of the start and of the result.

    Attributes:
        index: of the step, from 0; -1 is the start, `total` the result.
        total: number of steps.
        image: the current estimate (B, C, H, W), in [0, 1].
        kernel: the current estimate (K, K); zeros where there is none at the start.
    """

    index: int
    total: int
    image: "Tensor"
    kernel: "Tensor"


Callback = Callable[[Step], None]  # is told of every step


def unheard(stage: str, done: int, total: int | None) -> None:
    """The Progress of those who do not wait."""


def unseen(step: Step) -> None:
    """The callback of those who do not watch."""


def both(stage: str, progress: Progress, callback: Callback) -> Callback:
    """A callback that also tells how far this stage is."""

    def report(step: Step) -> None:
        progress(stage, step.index + 1, step.total)
        callback(step)

    return report
