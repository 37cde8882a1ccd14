"""What we believe before looking. Every prior is a denoiser behind one call, `denoise(x, sigma)`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blinddeblur import weights
from blinddeblur.errors import EstimationError, UsageError, WeightsError
from blinddeblur.priors.compact import CompactUNet
from blinddeblur.priors.guided_diffusion import GuidedDiffusion, GuidedDiffusionUNet, load_strictly


@dataclass(frozen=True)
class Prior:
    """A denoiser with what a sampler must know of it.

    Attributes:
        name, kind: as in weights.toml; kind is "image", "kernel" or "tilt".
        checksum: sha256 of the weights, where known.
        network: D(x, sigma) -> x0, x (B, C, H, W) in [0, 1] and sigma (B,).
        channels: C.
        image_size: the only side (in pixels) of the images it can be trusted with; None means any.
    """

    name: str
    kind: str
    checksum: str | None
    network: CompactUNet | GuidedDiffusion
    channels: int
    image_size: int | None

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The mean of the noise-free image given a noisy one, D(x0 + sigma n, sigma) -> x0.

        Args:
            x: (B, C, H, W), noise-free in [0, 1]. A prior of colour images also takes grey ones (B, 1, H, W).
            sigma: standard deviation of the noise, in the same units; one number, or one for each image (B,).

        Raises:
            UsageError: the shape does not fit the network.
            EstimationError: the answer is not a number somewhere.
        """
        if x.ndim != 4 or x.shape[1] not in (1, self.channels):
            raise UsageError(f"The prior {self.name} takes (B, {self.channels}, H, W); this is {tuple(x.shape)}.")
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        x0: Tensor = self.network(x.expand(-1, self.channels, -1, -1), level)
        if not torch.isfinite(x0).all():
            raise EstimationError(
                f"The prior {self.name} answered with values that are not numbers. Check its weights with "
                "`blinddeblur download-weights --verify`, or choose another --prior."
            )
        return x0.mean(dim=1, keepdim=True) if x.shape[1] < self.channels else x0

    def predict(self, x_t: Tensor, t: int, alpha_bar: float) -> tuple[Tensor, Tensor | None]:
        """Tweedie's estimate and the learned variance on the scale of the paper.

        Args:
            x_t: (B, C, H, W), sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise with x_0 in [-1, 1].
            t: timestep of the 1000-step schedule.
            alpha_bar: its value there.

        Returns:
            x_0 in [-1, 1], not clipped; and v of Nichol and Dhariwal 2021, equation 15, or None for a network that
            has not learned its variance.
        """
        if isinstance(self.network, GuidedDiffusion):
            noise, v = self.network.predict(x_t, torch.full((len(x_t),), t, device=x_t.device))
            return (x_t - (1 - alpha_bar) ** 0.5 * noise) / alpha_bar**0.5, v
        s = ((1 - alpha_bar) / alpha_bar) ** 0.5
        x0 = self.network((x_t / alpha_bar**0.5 + 1) / 2, torch.full((len(x_t),), s / 2, device=x_t.device))
        return 2 * x0 - 1, None


def load_prior(name: str = "photo", device: str | torch.device = "cpu") -> Prior:
    """A prior of weights.toml, ready to use.

    Raises:
        UsageError: no prior has this name.
        WeightsError: its weights are not there (the message names the command that fetches them), or damaged.
    """
    entry = weights.find(name)
    network = build(entry)
    load_strictly(
        network.network if isinstance(network, GuidedDiffusion) else network, weights.load_state(entry), entry.name
    )
    network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    image_size = network.image_size if isinstance(network, GuidedDiffusion) else None
    return Prior(entry.name, entry.kind, weights.checksum(entry), network, network.channels, image_size)


def build(entry: weights.Entry) -> CompactUNet | GuidedDiffusion:
    """The network of an entry of weights.toml, with weights still to be loaded."""
    builders: dict[str, Any] = {
        "compact": CompactUNet,
        "guided-diffusion": lambda **parameters: GuidedDiffusion(GuidedDiffusionUNet(**parameters)),
    }
    try:
        network: CompactUNet | GuidedDiffusion = builders[entry.architecture](**entry.parameters)
    except (TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"The entry {entry.name} of weights.toml describes no network ({error}).") from error
    return network
