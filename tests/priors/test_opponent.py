"""Colour through a prior of grey images."""

import pytest
import torch
from scenes import psnr, sharp
from torch import Tensor

from blinddeblur import load_prior
from blinddeblur.priors import opponent


def colourful() -> Tensor:
    return torch.from_numpy(sharp(97, 120, 3, seed=4).transpose(2, 0, 1).copy())[None].float()


def test_the_axes_are_orthogonal_and_white_is_white() -> None:
    axes = torch.tensor(opponent.AXES)
    products = axes @ axes.T
    assert torch.allclose(products, products.diag().diag(), atol=1e-7)
    assert torch.allclose(axes @ torch.ones(3), torch.tensor([1.0, 0, 0]), atol=1e-7)


def test_what_is_told_of_the_noise_is_what_there_is() -> None:
    told: list[Tensor] = []

    def watching(x: Tensor, sigma: Tensor) -> Tensor:
        told.extend(x.std(dim=(1, 2, 3)) / sigma)
        return x

    noise = 0.1 * torch.randn(2, 3, 400, 400, generator=torch.Generator().manual_seed(0))
    opponent.denoised(watching, 0.5 + noise * torch.tensor([1.0, 2.0])[:, None, None, None], torch.tensor([0.1, 0.2]))
    assert torch.stack(told).tolist() == pytest.approx([1.0] * 6, abs=0.02)


def test_a_prior_that_changes_nothing_changes_no_brightness_and_smooths_colour() -> None:
    x = colourful()
    same = opponent.denoised(lambda y, sigma: y, x, torch.tensor([0.1]))
    assert same.shape == x.shape
    assert torch.allclose(same.mean(dim=1), x.mean(dim=1), atol=1e-6)
    assert 0 < (same - x).abs().mean() < 0.02


def test_colour_is_denoised_and_grey_stays_grey() -> None:
    prior, x = load_prior("photo-grey"), colourful()
    noisy = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    grey = noisy.mean(dim=1, keepdim=True)
    with torch.inference_mode():
        clean, plain = prior.denoise(noisy, 0.1), prior.denoise(grey, 0.1 / 3**0.5)
        as_colour = prior.denoise(grey.expand(-1, 3, -1, -1), torch.tensor([0.1]))
    assert psnr(clean[0].permute(1, 2, 0).numpy(), x[0].permute(1, 2, 0).numpy()) > 28  # the noisy one has 20
    assert torch.allclose(as_colour[:, :1], plain, atol=0.01)
    assert (as_colour - as_colour.mean(dim=1, keepdim=True)).abs().max() < 0.02
