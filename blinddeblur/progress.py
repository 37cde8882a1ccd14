"""What those who wait are told: how far the work is, and what it has come to."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


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
