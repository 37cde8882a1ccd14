"""One photo of several restorations, and what is said of its errors."""

import numpy as np
import pytest
import torch
from scenes import sharp

from blinddeblur.engine import blending
from blinddeblur.engine.pixels import Pixels

CPU = torch.device("cpu")


def pixels(values: np.ndarray) -> Pixels:
    return Pixels(values.astype(np.float32), CPU)


TRUTH = sharp(90, 100, 3, seed=4)
PHOTO = np.full_like(TRUTH, 0.5)


def test_what_all_agree_on_stays() -> None:
    result = blending.blended(pixels(PHOTO), [(pixels(TRUTH), 0.7), (pixels(TRUTH), 0.3)])
    np.testing.assert_allclose(result.array, TRUTH, atol=1e-4)
    alone = blending.blended(pixels(PHOTO), [(pixels(TRUTH), 1.0)])
    np.testing.assert_allclose(alone.array, TRUTH, atol=1e-4)


def test_what_they_disagree_on_goes_back_towards_the_photo_and_only_there() -> None:
    other = TRUTH.copy()
    other[:, 50:] = 1 - TRUTH[:, 50:]
    result = blending.blended(pixels(PHOTO), [(pixels(TRUTH), 0.5), (pixels(other), 0.5)]).array
    np.testing.assert_allclose(result[:, :40], TRUTH[:, :40], atol=1e-3)
    assert np.abs(result[:, 60:] - 0.5).mean() < 0.02


def test_bands_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    ways = [(pixels(rng.random(TRUTH.shape)), 0.6), (pixels(rng.random(TRUTH.shape)), 0.4)]
    whole = blending.blended(pixels(PHOTO), ways).array
    map_of_whole = blending.uncertainty(pixels(PHOTO), pixels(TRUTH), ways, 1.0)
    monkeypatch.setattr(blending, "BAND", 17)
    np.testing.assert_allclose(blending.blended(pixels(PHOTO), ways).array, whole, atol=1e-5)
    np.testing.assert_allclose(blending.uncertainty(pixels(PHOTO), pixels(TRUTH), ways, 1.0), map_of_whole, atol=1e-5)


def test_errors_are_expected_where_ways_differ() -> None:
    other = TRUTH.copy()
    other[:, 50:] = 0.9 - 0.8 * TRUTH[:, 50:]
    found = blending.uncertainty(pixels(PHOTO), pixels(TRUTH), [(pixels(TRUTH), 0.5), (pixels(other), 0.5)], 1.0)
    assert found.shape == TRUTH.shape
    agreed = blending.uncertainty(pixels(PHOTO), pixels(TRUTH), [(pixels(TRUTH), 1.0)], 1.0)
    np.testing.assert_allclose(found[:, :40], agreed[:, :40], atol=1e-5)
    assert (found[:, 60:] > agreed[:, 60:]).mean() > 0.5
    trusted = blending.uncertainty(pixels(PHOTO), pixels(TRUTH), [(pixels(TRUTH), 1.0)], 0.0)
    assert (trusted <= agreed).all()
    assert trusted.mean() < 0.8 * agreed.mean()
    grey = Pixels(PHOTO[..., 0], CPU)
    assert blending.uncertainty(grey, grey, [], 1.0).shape == (90, 100)
