"""The noise level against synthetic truth."""

import numpy as np
import pytest
import torch

from blinddeblur.physics.convolution import blur
from blinddeblur.physics.noise import QUANTISATION, estimate_sigma
from blinddeblur.training.kernels import gaussian


def scene(height: int = 200, width: int = 240, soft: float = 1.5) -> torch.Tensor:
    """A smooth scene with edges, softened as by a lens: (1, 3, height, width)."""
    rng = np.random.default_rng(0)
    image = np.full((height + 30, width + 30, 3), 0.4, np.float32)
    for _ in range(60):
        top, left = rng.integers(0, height), rng.integers(0, width)
        image[top : top + rng.integers(5, 60), left : left + rng.integers(5, 60)] = rng.uniform(0.15, 0.85, 3)
    x = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    return blur(x, torch.from_numpy(gaussian(31, soft)))[..., :height, :width]


@pytest.mark.parametrize("sigma", [2 / 255, 5 / 255, 10 / 255, 25 / 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_gaussian_noise(sigma: float, channels: int) -> None:
    clean = scene()[:, :channels]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    assert estimate_sigma(clean + sigma * noise) == pytest.approx(sigma, rel=0.15)


def test_never_below_the_rounding_of_the_file() -> None:
    assert estimate_sigma(scene()) == QUANTISATION


def test_clipped_pixels_do_not_count() -> None:
    clean = scene() * 3 - 1  # most of it below black or above white
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    assert estimate_sigma((clean + 0.02 * noise).clamp(0, 1)) == pytest.approx(0.02, rel=0.3)


def test_a_photo_that_is_all_clipped_has_no_noise_to_measure() -> None:
    assert estimate_sigma(torch.ones(1, 3, 64, 64)) == QUANTISATION
