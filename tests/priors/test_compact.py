"""The compact network: any size, locality, preconditioning; and the wrapper that makes it a prior."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import blinddeblur
from blinddeblur.errors import UsageError, WeightsError
from blinddeblur.priors.compact import CompactUNet
from blinddeblur.priors.ddpm import linear_alpha_bar
from blinddeblur.priors.loading import build, load_prior
from blinddeblur.priors.prior import Prior
from blinddeblur.weights.manifest import find


def small(channels: int = 3) -> CompactUNet:
    torch.manual_seed(0)
    network = CompactUNet(channels, widths=(8, 16), blocks=1)
    for parameter in network.parameters():  # the zeros it starts from would hide everything
        nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


def as_prior(network: CompactUNet) -> Prior:
    return Prior("small", "image", None, network, network.channels, None)


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (5, 64), (1, 1)])
def test_any_size(shape: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *shape)
    assert small()(x, torch.tensor([0.1, 0.5])).shape == x.shape


def test_untrained_it_is_the_best_linear_guess() -> None:
    network = CompactUNet(3)  # starts with F = 0, so that only the preconditioning speaks
    x, sigma = torch.rand(1, 3, 32, 32), 0.3
    shrink = 0.25**2 / (0.25**2 + sigma**2)
    torch.testing.assert_close(network(x, torch.tensor([sigma])), 0.5 + shrink * (x - 0.5))


def test_each_image_has_its_own_sigma() -> None:
    network, x = small(), torch.rand(2, 3, 32, 32)
    both = network(x, torch.tensor([0.05, 2.0]))
    for i, sigma in enumerate((0.05, 2.0)):
        torch.testing.assert_close(both[i : i + 1], network(x[i : i + 1], torch.tensor([sigma])), atol=1e-5, rtol=1e-4)


def test_what_is_far_away_does_not_matter() -> None:
    network, x = small(), torch.rand(1, 3, 128, 128)
    changed = x.clone()
    changed[..., 100:, :] = 0
    difference = (network(x, torch.tensor([0.1])) - network(changed, torch.tensor([0.1]))).abs()
    assert difference[..., :60, :].max() == 0
    assert difference[..., 100:, :].max() > 0


def test_prior_takes_grey_images_and_numbers() -> None:
    prior, x = as_prior(small()), torch.rand(2, 1, 20, 20)
    grey = prior.denoise(x, 0.1)
    assert grey.shape == x.shape
    torch.testing.assert_close(grey, prior.denoise(x.expand(-1, 3, -1, -1), torch.tensor([0.1, 0.1])).mean(1, True))


def test_a_prior_of_details_is_helped_by_one_of_grey_images() -> None:
    grey, alone, x = as_prior(small(1)), as_prior(small()), torch.rand(2, 3, 20, 20)
    prior = replace(alone, grey=grey, above=0.05)
    assert torch.equal(prior.denoise(x, 0.06), grey.denoise(x, 0.06))
    assert torch.equal(prior.denoise(x[:, :1], 0.01), grey.denoise(x[:, :1], 0.01))
    fine = prior.denoise(x, 0.05)
    brightness, own = (image.mean(dim=1, keepdim=True) for image in (fine, alone.denoise(x, 0.05)))
    torch.testing.assert_close(brightness, grey.denoise(x.mean(dim=1, keepdim=True), 0.05 / 3**0.5))
    torch.testing.assert_close(fine - brightness, alone.denoise(x, 0.05) - own)
    each = prior.denoise(x, torch.tensor([0.06, 0.02]))
    torch.testing.assert_close(each[:1], prior.denoise(x[:1], 0.06))
    torch.testing.assert_close(each[1:], prior.denoise(x[1:], 0.02))


def test_the_shipped_prior_of_details_knows_all_noise() -> None:
    fine, grey = load_prior("photo-fine"), load_prior("photo-grey")
    x = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(fine.denoise(x, 0.2), grey.denoise(x, 0.2))
        assert not torch.equal(fine.denoise(x, 0.01), grey.denoise(x, 0.01))


@pytest.mark.parametrize("shape", [(3, 20, 20), (1, 2, 20, 20), (1, 4, 20, 20)])
def test_prior_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"takes \(B, 3, H, W\)"):
        as_prior(small()).denoise(torch.rand(shape), 0.1)


def test_both_scales_tell_the_same() -> None:
    prior = as_prior(small())
    for t in (0, 300, 999):
        alpha_bar = float(linear_alpha_bar()[t])
        sigma = ((1 - alpha_bar) / alpha_bar) ** 0.5 / 2
        x = 0.5 + sigma * torch.randn(1, 3, 16, 16)
        x0, v = prior.predict((2 * x - 1) * alpha_bar**0.5, t, alpha_bar)
        assert v is None
        torch.testing.assert_close((x0 + 1) / 2, prior.denoise(x, sigma), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["photo", "kernel"])
def test_shipped_priors_denoise(name: str) -> None:
    prior = blinddeblur.load_prior(name)
    assert prior.checksum == find(name).sha256
    clean = torch.zeros(1, prior.channels, 64, 64)
    clean[..., 20:40, 30:34] = 0.8
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    error = (prior.denoise(noisy, 0.2) - clean).square().mean() / (noisy - clean).square().mean()
    assert error < 0.15


def test_an_entry_that_describes_no_network() -> None:
    entry = find("photo")
    broken = type(entry)(**{**vars(entry), "parameters": {"channels": 3, "depth": 7}})
    with pytest.raises(WeightsError, match="describes no network"):
        build(broken)
