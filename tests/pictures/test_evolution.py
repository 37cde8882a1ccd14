"""The animation of a restoration: which steps it keeps, and how it shows what does not fit."""

import numpy as np
import pytest
import torch
from scenes import blurred, decoded, streak

from blinddeblur.engine.pipeline import Engine
from blinddeblur.pictures.evolution import Recording
from blinddeblur.progress import Step
from blinddeblur.settings import Settings


@pytest.mark.parametrize(("steps", "kept"), [(3, 3), (101, 100), (1000, 100)])
def test_steps_are_thinned_evenly(steps: int, kept: int) -> None:
    recording = Recording()
    bits = 2 ** torch.arange(11)
    for index in range(-1, steps + 1):
        recording(Step(index, steps, ((index + 1) & bits > 0).float()[None, None, None], torch.zeros(3, 3)))
    film, durations = decoded(recording.gif())
    assert durations == [1000, *[100] * kept, 2000]
    shown = ((film[:, 240, 24:474:43, 0] > 128) @ bits.numpy()).tolist()  # 11 pixels in a row, each 43x43
    assert (shown[0], shown[-2], shown[-1]) == (0, steps, steps + 1)
    assert set(np.diff(shown[1:-1])) <= {steps // kept, -(-steps // kept)}


def test_the_border_that_samplers_add_is_cut_off() -> None:
    recording = Recording()
    recording(Step(-1, 1, torch.zeros(1, 1, 40, 60), torch.ones(5, 5)))
    wider = torch.ones(1, 1, 44, 64)
    wider[..., 2:-2, 2:-2] = 0.5
    recording(Step(0, 1, wider, torch.ones(5, 5)))
    film, _ = decoded(recording.gif())
    inside = film[1, 80:400, :480]  # 60x40 pixels, each 8x8
    assert (inside == 128).all()
    assert (film[1, :80, :480] == 255).all()


@pytest.mark.parametrize(("height", "width"), [(4000, 32), (32, 4000), (600, 800)])
def test_large_pictures_and_kernels_are_shrunk(height: int, width: int) -> None:
    recording = Recording()
    for index in (-1, 0):
        recording(Step(index, 1, torch.full((1, 3, height, width), index + 1.0), torch.ones(501, 501)))
    film, _ = decoded(recording.gif())
    assert film.shape == (2, 480, 960, 3)
    dark = (film[0, :, :480] == 0).all(axis=-1)
    assert dark.any(axis=1).sum() == pytest.approx(480 * min(1, height / width), abs=1)
    assert dark.any(axis=0).sum() == pytest.approx(480 * min(1, width / height), abs=1)
    assert (film[:, :, 480:] == 255).all()


def test_a_large_photo_is_shown_where_its_kernel_was_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blinddeblur.engine.pipeline.ESTIMATION_SIDE", 64)
    _, y = blurred(96, 150, 3, streak(9, 5))
    seen: list[Step] = []
    result = Engine(Settings(steps=2, kernel_size=9, device="cpu")).restore(y, callback=seen.append)
    assert [(step.index, step.total) for step in seen] == [(-1, 2), (0, 2), (1, 2), (2, 2)]
    start, end = (seen[i].image[0].permute(1, 2, 0).numpy() for i in (0, -1))
    assert start.shape == end.shape == (64, 64, 3)
    windows = np.lib.stride_tricks.sliding_window_view(y, (64, 64, 3))[:, :, 0]
    (top,), (left,) = np.nonzero((windows == start).all(axis=(2, 3, 4)))
    assert np.abs(end.clip(0, 1) - result.image[top : top + 64, left : left + 64]).max() < 1e-6
    assert np.array_equal(seen[-1].kernel.numpy(), result.kernel)


def test_blinddps_shows_the_whole_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blinddeblur.engine.pipeline.BLINDDPS_SIDE", 40)
    _, y = blurred(40, 70, 1, streak(9, 5))
    seen: list[Step] = []
    Engine(Settings(method="blinddps", steps=2, kernel_size=9, device="cpu")).restore(y, callback=seen.append)
    assert [step.image.shape[-2:] for step in seen] == [(40, 70)] * 4
    assert seen[0].kernel.sum() == 0  # none is known at the start
