"""The kernel prior that has seen the photo: what its features tell and ignore, and the examples it learns from."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scenes import agreement, blurred, sharp, streak
from torch import Tensor, nn

from blinddeblur import load_prior
from blinddeblur.errors import UsageError
from blinddeblur.physics.convolution import blur
from blinddeblur.physics.kernels import from_prior, to_prior
from blinddeblur.priors.conditioned import ConditionedKernelUNet
from blinddeblur.priors.prior import Prior
from blinddeblur.training import pairs
from blinddeblur.training.data import BlurredPhotos, find_photos, read_pixels
from blinddeblur.training.losses import conditioned_loss
from blinddeblur.training.photo_crops import PhotoCrops


@pytest.fixture
def network() -> ConditionedKernelUNet:
    torch.manual_seed(0)
    network = ConditionedKernelUNet(edge_widths=(8, 16), widths=(8, 16), blocks=1)
    for parameter in network.parameters():  # the zeros it starts from would hide everything
        nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


@pytest.fixture
def prior(network: ConditionedKernelUNet) -> Prior:
    return Prior("seeing", "kernel", None, network, network.channels, network.image_size)


def scene(height: int = 96, width: int = 112, seed: int = 0) -> Tensor:
    return torch.from_numpy(sharp(height, width, 1, seed).transpose(2, 0, 1))[None]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


# Features


@pytest.mark.parametrize("shape", [(64, 64), (65, 91)])
def test_any_photo_gives_features_of_one_size(network: ConditionedKernelUNet, shape: tuple[int, int]) -> None:
    features = network.features(scene(*shape), torch.tensor([0.01]))
    assert features.shape == (1, 3, 64, 64)
    close(features.amax(dim=(-2, -1)), torch.ones(1, 3))


def test_brightness_and_contrast_do_not_matter(network: ConditionedKernelUNet) -> None:
    y, sigma = scene(), torch.tensor([0.02])
    close(network.features(0.3 * y + 0.5, 0.3 * sigma), network.features(y, sigma))


def test_neither_does_the_place(network: ConditionedKernelUNet) -> None:
    for name, parameter in network.named_parameters():
        if (
            name.endswith("bias") or "modulation" in name
        ):  # with them even an empty photo has edges: where the zeros around it begin
            nn.init.zeros_(parameter)
    texture = torch.randn(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(1, 1, 160, 160)
    y[..., 60:100, 60:100] = texture - texture.mean()
    moved = torch.roll(y, (network.encoder.multiple, -2 * network.encoder.multiple), dims=(2, 3))
    close(network.features(moved, torch.tensor([0.02])), network.features(y, torch.tensor([0.02])))


def test_photos_of_a_batch_do_not_meet(network: ConditionedKernelUNet) -> None:
    y, sigma = torch.cat([scene(seed=1), 0.2 * scene(seed=2)]), torch.tensor([0.005, 0.05])
    both = network.features(y, sigma)
    for i in range(2):
        close(both[i : i + 1], network.features(y[i : i + 1], sigma[i : i + 1]))


class TrueEdges(nn.Module):
    """An encoder that knows the sharp photo."""

    multiple = 4

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        horizontal, vertical = torch.zeros_like(x), torch.zeros_like(x)
        horizontal[..., :-1] = x.diff(dim=3)
        vertical[..., :-1, :] = x.diff(dim=2)
        self.edges = torch.cat([horizontal, vertical] * 2, dim=1)

    def forward(self, y: Tensor, sigma: Tensor) -> Tensor:
        return self.edges


def test_true_edges_give_the_true_kernel(network: ConditionedKernelUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = torch.from_numpy(streak(15))
    noise = torch.randn(1, 1, 100, 120, generator=torch.Generator().manual_seed(0))
    x = nn.functional.pad(noise, (20, 20, 20, 20))  # nothing falls in or out at the border
    monkeypatch.setattr(network, "encoder", TrueEdges(x[..., 7:-7, 7:-7]))
    nn.init.constant_(network.log_ridge, -9.0)
    estimates = network.features(blur(x, kernel), torch.tensor([0.01]))[0, :2]
    cosine = nn.functional.cosine_similarity(estimates.flatten(1), to_prior(kernel).flatten(1))
    assert cosine.min() > 0.99


# The prior


def test_a_prior_that_was_given_a_photo_denoises(network: ConditionedKernelUNet, prior: Prior) -> None:
    y, kernels = torch.cat([scene(seed=seed) for seed in range(3)], dim=1), torch.rand(5, 1, 64, 64)
    given = prior.given(y, 0.01)
    features = network.features(y.mean(dim=1, keepdim=True), torch.tensor([0.01]))
    levels = torch.tensor([0.1, 0.2, 0.3, 0.4, 2.0])
    expected = network(kernels, levels, features.expand(5, -1, -1, -1))
    close(given.denoise(kernels, levels), expected)
    close(
        given.predict(2 * kernels - 1, 999, 1 / 1.16)[0], 2 * given.denoise(0.5 + 1.16**0.5 * (kernels - 0.5), 0.2) - 1
    )
    assert (given.name, given.kind) == (prior.name, prior.kind)
    other = prior.given(scene(seed=9), 0.01).denoise(kernels, levels)
    assert not torch.allclose(other, expected, atol=1e-3)


def test_one_kernel_for_each_photo(prior: Prior) -> None:
    y, sigma, kernels = torch.cat([scene(seed=1), scene(seed=2)]), torch.tensor([0.01, 0.03]), torch.rand(2, 1, 64, 64)
    both = prior.given(y, sigma).denoise(kernels, 0.2)
    for i in range(2):
        close(both[i : i + 1], prior.given(y[i : i + 1], sigma[i]).denoise(kernels[i : i + 1], 0.2))


def test_half_precision_stays_inside(network: ConditionedKernelUNet, prior: Prior) -> None:
    half = (
        Prior("half", "kernel", None, network, 1, 64, half=True)
        .given(scene(), 0.01)
        .denoise(torch.rand(1, 1, 64, 64), 0.2)
    )
    assert half.dtype == torch.float32


def test_what_a_prior_needs_to_be_given(prior: Prior) -> None:
    kernels = torch.rand(3, 1, 64, 64)
    for call in (lambda: prior.denoise(kernels, 0.1), lambda: prior.predict(kernels, 500, 0.5)):
        with pytest.raises(UsageError, match="has to see the photo first"):
            call()
    with pytest.raises(UsageError, match="takes no photo"):
        load_prior("kernel").given(scene(), 0.01)
    given = prior.given(torch.cat([scene(), scene()]), 0.01)
    with pytest.raises(UsageError, match="has been given one"):
        given.given(scene(), 0.01)
    with pytest.raises(UsageError, match="the number of photos it was given, 2"):
        given.denoise(kernels, 0.1)
    with pytest.raises(UsageError, match=r"takes \(N, 1, 64, 64\)"):
        given.denoise(torch.rand(2, 1, 63, 63), 0.1)
    for shape in ((1, 1, 63, 200), (1, 200, 63), (200, 200)):
        with pytest.raises(UsageError, match="at least 64 pixels"):
            prior.given(torch.rand(shape), 0.01)


# What it learns from


def test_pairs_are_photos_blurred_by_their_kernels() -> None:
    x = torch.rand(3, 3, 100, 120, generator=torch.Generator().manual_seed(0))
    y, sigma, u = pairs.blurred(x, np.random.default_rng(0))
    assert (y.shape, sigma.shape, u.shape) == ((3, 1, 38, 58), (3,), (3, 1, 64, 64))
    assert (y.dtype, sigma.dtype, u.dtype) == (torch.float32,) * 3
    assert len(set(sigma.tolist())) == 3
    for i in range(3):
        assert pairs.NOISE[0] < sigma[i] < pairs.NOISE[1]
        noise = y[i] - blur(x[i : i + 1].mean(dim=1, keepdim=True), from_prior(u[i, 0], 63))[0]
        assert noise.std().item() == pytest.approx(sigma[i].item(), rel=0.1)


def test_batches_of_pairs(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.rint(255 * sharp(220, 230, 3)).astype(np.uint8))
    (tmp_path / "broken.png").write_bytes(b"broken")

    def batches(seed: int) -> list[tuple[pairs.Pairs, list[str]]]:
        crops = PhotoCrops(find_photos(tmp_path), read_pixels, pairs.SHARP_SIDE, 2, (seed,), grey=0)
        return list(itertools.islice(BlurredPhotos(crops), 2))

    (first, unreadable), (second, none) = batches(0)
    assert first[0].shape == (2, 1, pairs.SIDE, pairs.SIDE)
    assert len(unreadable) == 1
    assert not none
    (again, _), _ = batches(0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[2], second[2])
    assert not torch.equal(first[2], batches(1)[0][0][2])


def test_the_loss_teaches_both_networks() -> None:
    torch.manual_seed(0)
    network = ConditionedKernelUNet(edge_widths=(8, 16), widths=(8, 16), blocks=1)
    batch = pairs.blurred(torch.cat([scene(140, 140, seed) for seed in range(4)]), np.random.default_rng(0))
    loss = conditioned_loss(network, batch, torch.Generator().manual_seed(0))
    assert 0.3 < loss.item() < 3
    loss.backward()  # type: ignore[no-untyped-call]
    assert network.encoder.head.weight.grad is not None
    assert network.encoder.head.weight.grad.abs().max() > 0
    assert network.denoiser.tail.weight.grad is not None
    assert network.denoiser.tail.weight.grad.abs().max() > 0


def test_the_shipped_prior_sees_the_blur_that_noise_hides() -> None:
    truth = streak(31, 17.0)
    _, y = blurred(192, 192, 1, truth, sigma=0.005)
    photo = torch.from_numpy(y.transpose(2, 0, 1))[None].float()
    hidden = 3 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    seeing, blind = load_prior("photo-kernel").given(photo, 0.005), load_prior("kernel")
    with torch.inference_mode():
        seen, guessed = (agreement(prior.denoise(hidden, 3.0)[0, 0].numpy(), truth) for prior in (seeing, blind))
    assert seen > 0.7
    assert seen > guessed + 0.15
