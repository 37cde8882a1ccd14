"""Simulated sequences: what their parts promise, and that they are made of these parts."""

import numpy as np
import pytest
import torch

from blinddeblur.errors import KernelError, UsageError
from blinddeblur.physics.atmosphere import short_exposure_kernel
from blinddeblur.physics.convolution import blur
from blinddeblur.physics.tilt import warp
from blinddeblur.priors.kolmogorov import KolmogorovTilt
from blinddeblur.training.simulator import kolmogorov_tilts, seen_through, simulate_turbulence

SCENE = np.random.default_rng(1).random((120, 130, 3), dtype=np.float32)


def test_frames_are_the_scene_tilted_and_then_blurred() -> None:
    rng = np.random.default_rng(2)
    seen = simulate_turbulence(rng, SCENE, 3, 60, 70, 1.5, sigma=0, depth=None, variation=0.3, size=9)
    assert seen.frames.shape == (3, 60, 70, 3)
    assert seen.tilts.shape == (3, 2, 60, 70)
    np.testing.assert_array_equal(seen.truth, SCENE[30:-30, 30:-30])
    x = torch.from_numpy(SCENE.transpose(2, 0, 1).copy())[None]
    whole = torch.from_numpy(seen.tilts)
    for frame, tilt, kernel in zip(seen.frames, whole, torch.from_numpy(seen.kernels), strict=True):
        y = blur(warp(x, tilt[None]), kernel)[0].permute(1, 2, 0)  # the tilt of the frame alone: 4 pixels less a side
        np.testing.assert_allclose(y, frame[4:-4, 4:-4], atol=1e-5)
    assert not np.allclose(seen.kernels[0], seen.kernels[1])


def test_noise_and_depth_are_those_asked_for() -> None:
    scene = np.full((150, 150), 0.5, np.float32)
    noisy = simulate_turbulence(np.random.default_rng(3), scene, 2, 80, 80, sigma=0.02, depth=None).frames
    assert np.std(noisy) == pytest.approx(0.02, rel=0.05)
    rounded = simulate_turbulence(np.random.default_rng(3), scene, 2, 80, 80, sigma=0.02, depth=8).frames
    np.testing.assert_allclose(255 * rounded, np.rint(255 * rounded), atol=1e-3)


def test_the_same_seed_draws_the_same_sequence() -> None:
    one, same, other = (simulate_turbulence(np.random.default_rng(s), SCENE, 2, 60, 60, 1.0).frames for s in (5, 5, 6))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_tilts_vary_and_go_together_as_the_prior_has_it() -> None:
    prior = KolmogorovTilt(2.0, 4.0, 20.0)
    fields = kolmogorov_tilts(np.random.default_rng(7), prior, 400, 24, 24, 0.6)
    covariance = prior.covariance(24, 24)[0]
    assert np.mean(fields**2) == pytest.approx(prior.variance, rel=0.1)
    lagged = np.mean(fields[:, 0, 6:] * fields[:, 0, :-6])  # row with row displacement, six rows apart
    assert lagged == pytest.approx(float(covariance[23 + 6, 23]), abs=0.1 * prior.variance)
    next_frame = np.mean(fields[1:] * fields[:-1]) / np.mean(fields**2)
    assert next_frame == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize("strength", [0.0, 1.0, 3.0])
def test_a_short_exposure_has_frieds_transfer_function(strength: float) -> None:
    kernel = short_exposure_kernel(strength, 255)
    assert kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    transfer = np.abs(np.fft.fft(kernel.sum(axis=0), 1024))  # along one frequency axis
    for index in (32, 128, 256, 400):
        nu = 2 * index / 1024
        air = np.exp(-3.44 * (strength * nu) ** (5 / 3) * (1 - nu ** (1 / 3)))
        aperture = 2 / np.pi * (np.arccos(nu) - nu * np.sqrt(1 - nu**2))
        assert transfer[index] == pytest.approx(air * aperture, abs=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frames": 0}, "0 frames"),
        ({"variation": -1.0}, "variation"),
        ({"frame_correlation": 1.0}, "correlation"),
        ({"sigma": -0.1}, "noise"),
        ({"depth": 12}, "12 bits"),
        ({"d_over_r0": -1.0}, "positive"),
        ({"height": 119}, "even margin"),
        ({"height": 100, "width": 100}, "margin of"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(options: dict[str, float], words: str) -> None:
    usual = {"frames": 2, "height": 60, "width": 60}
    with pytest.raises(UsageError, match=words):
        simulate_turbulence(np.random.default_rng(0), SCENE, **(usual | options))  # type: ignore[arg-type]


def test_kernels_and_fields_that_make_no_sense_are_refused_in_words() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(KernelError, match="odd size"):
        short_exposure_kernel(1.0, 10)
    with pytest.raises(UsageError, match="lambda / D"):
        short_exposure_kernel(1.0, 11, 0.0)
    with pytest.raises(UsageError, match="do not fit"):
        seen_through(rng, SCENE, np.zeros((1, 2, 60, 60), np.float32), np.ones((2, 3, 3), np.float32) / 9)
