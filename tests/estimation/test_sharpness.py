"""Sharp photos are told from blurred ones, with noise and without."""

import numpy as np
import pytest
import torch
from scenes import sharp
from torch import Tensor

from blinddeblur import random_kernel
from blinddeblur.estimation.noise import estimate_sigma
from blinddeblur.estimation.sharpness import is_sharp
from blinddeblur.physics.convolution import blur

PHOTO = torch.from_numpy(sharp(200, 240, 3, seed=3).transpose(2, 0, 1).copy())[None]


def noisy(y: Tensor, sigma: float) -> Tensor:
    return y + sigma * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sigma", [0, 0.01, 0.03])
def test_a_sharp_photo_is_sharp(sigma: float) -> None:
    y = noisy(PHOTO, sigma)
    assert is_sharp(y, estimate_sigma(y))
    assert is_sharp(y.mean(dim=1, keepdim=True), estimate_sigma(y.mean(dim=1, keepdim=True)))


def test_the_order_of_the_colours_does_not_matter() -> None:
    """Flat colours without noise are not taken for those of a JPEG file."""
    y = (255 * PHOTO[..., :120, :140].flip(1)).round() / 255
    assert estimate_sigma(y) < 0.5 / 255
    assert is_sharp(y, estimate_sigma(y))


@pytest.mark.parametrize("sigma", [0, 0.01, 0.03])
@pytest.mark.parametrize(("kind", "extent"), [("line", 5), ("defocus", 5), ("gaussian", 8), ("shake", 12)])
def test_a_blurred_photo_is_not(kind: str, extent: float, sigma: float) -> None:
    kernel = torch.from_numpy(random_kernel(np.random.default_rng(1), 31, extent, kind))
    y = noisy(blur(PHOTO, kernel), sigma)
    assert not is_sharp(y, estimate_sigma(y))


@pytest.mark.parametrize("y", [torch.full((1, 3, 40, 40), 0.5), torch.zeros(1, 1, 16, 16), noisy(PHOTO * 0 + 0.5, 0.1)])
def test_where_there_is_nothing_there_is_nothing_sharp(y: Tensor) -> None:
    assert not is_sharp(y, estimate_sigma(y))
