"""The guided-diffusion U-Net against facts about the published networks (see data/checkpoints), and its adapter."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blinddeblur.errors import WeightsError
from blinddeblur.priors.compact import CompactUNet
from blinddeblur.priors.guided_diffusion import GuidedDiffusion, GuidedDiffusionUNet, load_strictly, timestep_embedding

CHECKPOINTS = Path(__file__).parents[1] / "data" / "checkpoints"

NETWORKS = {
    "kernel-64": {"image_size": 64, "channels": 1, "width": 64, "residual_blocks": 1, "attention": [16]},
    "tilt-256": {"image_size": 256, "channels": 2, "width": 64, "residual_blocks": 1, "attention": [16]},
    "ffhq-256": {"image_size": 256, "channels": 3, "width": 128, "residual_blocks": 1, "attention": [16]},
    "imagenet-256": {"image_size": 256, "channels": 3, "width": 256, "residual_blocks": 2, "attention": [32, 16, 8]},
}
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("ffhq-256", "imagenet-256")]


def rule_weight(name: str, shape: torch.Size) -> Tensor:
    """The weights for which the outputs in data/checkpoints were computed; only names and shapes enter."""
    random = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(shape) > 1:
        return random * shape[1:].numel() ** -0.5
    return 1 + 0.1 * random if name.endswith("weight") else 0.05 * random


def network_by_rule(name: str) -> GuidedDiffusionUNet:
    with torch.device("meta"):
        network = GuidedDiffusionUNet(**NETWORKS[name])
    network.to_empty(device="cpu")  # no time for an initialisation that is overwritten
    for key, tensor in network.state_dict().items():
        tensor.copy_(rule_weight(key, tensor.shape))
    return network


@pytest.fixture(scope="module")
def kernel_network() -> GuidedDiffusionUNet:
    return network_by_rule("kernel-64")


@pytest.mark.parametrize("name", NETWORKS)
def test_tensors_are_those_of_the_published_checkpoint(name):
    with torch.device("meta"):
        network = GuidedDiffusionUNet(**NETWORKS[name])
    listed = [line.split("\t") for line in (CHECKPOINTS / f"{name}.tsv").read_text().splitlines()]
    ours = [[key, "x".join(map(str, tensor.shape))] for key, tensor in network.state_dict().items()]
    assert ours == listed


@pytest.mark.parametrize("name", ["kernel-64", "tilt-256", *LARGE])
def test_outputs_are_those_of_the_published_definition(name):
    network = network_by_rule(name)
    x = torch.randn((1, network.channels, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = network(x.expand(2, -1, -1, -1), torch.tensor([500, 3]))
    with np.load(CHECKPOINTS / f"{name}.npz") as file:
        references = torch.from_numpy(np.concatenate([file["t500"], file["t3"]]))
    errors = (outputs - references).flatten(1).norm(dim=1) / references.flatten(1).norm(dim=1)
    assert errors.max() < 1e-4, errors


def test_embedding_of_a_fractional_timestep():
    expected = [np.cos(20.5), np.cos(0.205), np.sin(20.5), np.sin(0.205)]
    np.testing.assert_allclose(timestep_embedding(torch.tensor([20.5]), 4)[0], expected, rtol=1e-5)


def test_images_of_a_batch_do_not_affect_each_other(kernel_network):
    x = torch.randn((2, 1, 16, 24), generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor([900.0, 20.5])
    with torch.no_grad():
        together = kernel_network(x, timesteps)
        apart = torch.cat([kernel_network(x[i : i + 1], timesteps[i : i + 1]) for i in range(2)])
    assert together.shape == (2, 2, 16, 24)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "multiple"), [("kernel-64", 8), ("tilt-256", 32)])
def test_multiple_is_the_smallest_size(name, multiple):
    with torch.device("meta"):
        network = GuidedDiffusionUNet(**NETWORKS[name])
        assert network.multiple == multiple
        x = torch.zeros(1, network.channels, multiple, 3 * multiple)
        assert network(x, torch.zeros(1)).shape == (1, 2 * network.channels, multiple, 3 * multiple)
        with pytest.raises(RuntimeError):
            network(x[..., : 5 * multiple // 2], torch.zeros(1))


def test_untrained_network_predicts_zero():
    network = GuidedDiffusionUNet(
        image_size=64, channels=1, width=32, residual_blocks=1, attention=[], head_channels=32
    )
    assert not network(torch.ones(1, 1, 8, 8), torch.tensor([7])).any()


class GaussianNetwork(nn.Module):
    """The exact answer for pixels that are independent N(mean, deviation^2) in [0, 1]; v is 0.25 everywhere."""

    channels, image_size, multiple = 3, 64, 8
    mean, deviation = 0.4, 0.2

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        # An independent statement of the schedule: no table of the adapter is used.
        betas = np.linspace(1e-4, 0.02, 1000)
        alpha_bar = torch.from_numpy(np.cumprod(1 - betas))[timesteps.round().long(), None, None, None]
        assert (timesteps - timesteps.round()).abs().max() < 1e-3
        mean, variance = 2 * self.mean - 1, (2 * self.deviation) ** 2
        total = alpha_bar * variance + 1 - alpha_bar
        noise = (1 - alpha_bar).sqrt() * (x_t - alpha_bar.sqrt() * mean) / total
        return torch.cat([noise.float(), torch.full_like(x_t, 0.25)], dim=1)


def sigma_of(denoiser: GuidedDiffusion, timesteps: Tensor) -> Tensor:
    alpha_bar = denoiser.alpha_bar[timesteps]
    return (((1 - alpha_bar) / alpha_bar).sqrt() / 2).float()


def test_schedule():
    denoiser = GuidedDiffusion(GaussianNetwork())
    assert (denoiser.channels, denoiser.image_size, denoiser.multiple) == (3, 64, 8)
    assert denoiser.alpha_bar.dtype == torch.float64
    np.testing.assert_allclose(denoiser.alpha_bar, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), rtol=1e-12)


def test_gaussian_data_are_denoised_by_the_wiener_filter():
    network = GaussianNetwork()
    denoiser = GuidedDiffusion(network)
    timesteps = torch.tensor([0, 1, 30, 250, 500, 800, 999])
    sigma = sigma_of(denoiser, timesteps)
    noise = torch.randn((len(sigma), 3, 8, 8), generator=torch.Generator().manual_seed(2))
    x = network.mean + (network.deviation**2 + sigma**2).sqrt()[:, None, None, None] * noise
    gain = (network.deviation**2 / (network.deviation**2 + sigma**2))[:, None, None, None]
    # At the largest sigma, 79, x itself has a resolution of 1e-5.
    torch.testing.assert_close(denoiser(x, sigma), network.mean + gain * (x - network.mean), rtol=0, atol=5e-5)


def test_timesteps_are_found_between_those_of_the_table_and_kept_within_it():
    denoiser = GuidedDiffusion(GaussianNetwork())
    low, high = sigma_of(denoiser, torch.tensor([0, 400, 998])), sigma_of(denoiser, torch.tensor([1, 401, 999]))
    torch.testing.assert_close(
        denoiser.timestep((low * high).sqrt()), torch.tensor([0.5, 400.5, 998.5]), rtol=0, atol=1e-3
    )
    assert denoiser.timestep(torch.tensor([0.0, 1e-4, 1e4])).tolist() == [0, 0, 999]


def test_no_noise_changes_nothing(kernel_network):
    x = torch.rand((1, 1, 8, 8), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(GuidedDiffusion(kernel_network)(x, torch.zeros(1)), x)


def test_denoiser_agrees_with_the_prediction_at_timesteps(kernel_network):
    denoiser = GuidedDiffusion(kernel_network)
    timesteps = torch.tensor([5, 100, 400])
    x_t = torch.randn((3, 1, 16, 16), generator=torch.Generator().manual_seed(4))
    alpha_bar = denoiser.alpha_bar[timesteps].float()[:, None, None, None]
    with torch.no_grad():
        noise, v = denoiser.predict(x_t, timesteps)
        denoised = denoiser((x_t / alpha_bar.sqrt() + 1) / 2, sigma_of(denoiser, timesteps))
        torch.testing.assert_close(torch.cat([noise, v], dim=1), kernel_network(x_t, timesteps))
    x_0 = (x_t - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
    torch.testing.assert_close(denoised, (x_0 + 1) / 2, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_image(kernel_network):
    x = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
    GuidedDiffusion(kernel_network)(x, torch.tensor([0.1])).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0


def test_loading_copies_every_tensor():
    source, target = CompactUNet(1, widths=(8, 16)), CompactUNet(1, widths=(8, 16))
    load_strictly(target, source.state_dict(), "compact.safetensors")
    for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("out.2.bias"), r"1 missing \(out\.2\.bias\)\."),
        (lambda state: state.update({"label_emb.weight": torch.zeros(2)}), r"1 unexpected \(label_emb\.weight\)\."),
        (
            lambda state: state.update({"out.2.bias": torch.zeros(6)}),
            r"1 of another shape \(out\.2\.bias \[6\] instead of \[2\]\)\.",
        ),
        (
            lambda state: [state.update({f"ema.{key}": state.pop(key)}) for key in list(state)],
            r"256 missing \(time_embed\.0\.weight, .*, \.\.\.\); 256 unexpected \(ema\.time_embed\.0\.weight, ",
        ),
    ],
)
def test_weights_of_another_network_are_refused(kernel_network, change, words):
    state = {key: torch.zeros_like(tensor) for key, tensor in kernel_network.state_dict().items()}
    change(state)
    with pytest.raises(WeightsError, match=r"The weights kernel\.pt do not fit .*" + words):
        load_strictly(kernel_network, state, "kernel.pt")
    assert kernel_network.out[2].weight.any(), "a refused file must leave the network as it was"
