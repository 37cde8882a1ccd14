"""What a restoration costs, as counts. A later change may raise a limit, saying in RESULTS.md what that bought."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from benchmarks import speed
from blinddeblur.samplers.restoration import STEPS

# Of a grey photo of 255x255 pixels; a twentieth more than was counted, since kernels differ between processors.
LIMITS = {
    "evaluations": 101,
    "pixels": 7_450_000,
    "products": 270_000_000_000,
    "transforms": 8_800,
    "points": 233_000_000,
    "launches": 78_200,
    "waits": 438,
    "allocated": 14_500_000_000,
}


@pytest.mark.whole_search
def test_a_photo_costs_no_more_than_it_did() -> None:
    stages = speed.counted(speed.photo("grey"))
    assert {"guesses", "hypotheses", "kernel", "judging", "restoration"} <= stages.keys()
    counted = asdict(speed.total(stages))
    assert {key: counted[key] for key, limit in LIMITS.items() if counted[key] > limit} == {}
    assert stages["restoration"].waits < 2 * STEPS  # some for each of two restorations, and none in a step


def test_what_is_counted_is_what_is_done() -> None:
    counter = speed.Counter()
    with counter.counting(), torch.inference_mode():
        counter.progress("one", 0, 1)
        x = torch.zeros(3, 8, 6)
        torch.fft.irfft2(torch.fft.rfft2(x), s=(8, 6))
        counter.progress("two", 0, 1)
        torch.nn.functional.conv2d(torch.zeros(1, 2, 9, 9), torch.zeros(4, 2, 3, 3))
        float(x.sum()), x.tolist(), x[x > 0], bool((x > 0).any())
    one, two = counter.stages["one"], counter.stages["two"]
    assert (one.transforms, one.points, one.waits, one.products) == (6, 2 * 3 * 8 * 6, 0, 0)
    assert (two.transforms, two.products, two.waits) == (0, 4 * 7 * 7 * 2 * 9, 4)
    assert one.allocated >= 4 * 3 * 8 * 6


@pytest.mark.parametrize("name", ["grey", "colour"])
def test_photos_are_of_the_size_they_say(name: str) -> None:
    height, width, channels = speed.CASES[name]
    pixels = speed.photo(name)
    assert pixels.shape == ((height, width) if channels == 1 else (height, width, channels))
    assert pixels.dtype == np.uint8
    assert pixels.std() > 20
