"""The restoration for a kernel that is known: which image the prior sees at which level."""

import pytest
import torch
from torch import Tensor

from blinddeblur.physics.convolution import Blur
from blinddeblur.physics.measurement import Measurement
from blinddeblur.samplers import restoration
from blinddeblur.samplers.deblurring import Deblurring


class Seen:
    """A denoiser that believes all it sees, and remembers it."""

    def __init__(self) -> None:
        self.looks: list[tuple[tuple[int, int], float]] = []

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self.looks.append(((x.shape[-2], x.shape[-1]), float(sigma)))
        return x


def given(seen: Seen, steps: int | None = None) -> Deblurring:
    rows, columns = torch.meshgrid(torch.linspace(0.2, 0.6, 33), torch.linspace(0.1, 0.4, 40), indexing="ij")
    kernel = torch.full((3, 3), 1 / 9)
    return Deblurring(seen, Measurement.of((rows + columns)[None, None]), Blur.uniform(kernel), 0.01, steps)


def test_the_prior_sees_coarse_levels_at_half_the_size_and_the_others_whole() -> None:
    seen = Seen()
    restoration.restore(given(seen, 4), (0.4, 0.05))
    shapes, levels = zip(*seen.looks, strict=True)
    assert shapes == ((18, 21), (18, 21), (35, 42), (35, 42))  # 33x40 and a pixel on each side
    assert levels == pytest.approx((0.2, 0.1, 0.1, 0.05))  # at half the size there is half of the noise


def test_half_the_size_moves_nothing() -> None:
    sharp = restoration.restore(given(Seen(), 4), (0.4, 0.05))
    assert torch.allclose(sharp, given(Seen()).y.y, atol=0.01)  # a plane stays under an even blur


def test_a_brief_restoration_takes_its_own_steps() -> None:
    seen = Seen()
    restoration.brief(given(seen, 50))
    assert len(seen.looks) == restoration.BRIEF_STEPS
