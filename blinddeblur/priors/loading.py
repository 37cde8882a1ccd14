"""What we believe before looking. Every prior is a denoiser behind one call, `denoise(x, sigma)`."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blinddeblur.devices import half_is_faster
from blinddeblur.errors import EstimationError, UsageError, WeightsError
from blinddeblur.priors.compact import CompactUNet
from blinddeblur.priors.conditioned import SIDE, ConditionedKernelUNet, KernelGivenPhoto
from blinddeblur.priors.guided_diffusion import GuidedDiffusion, GuidedDiffusionUNet, load_strictly
from blinddeblur.weights.cache import checksum, load_state
from blinddeblur.weights.manifest import Entry, find

Network = CompactUNet | ConditionedKernelUNet | GuidedDiffusion

NETWORKS: dict[str, Callable[..., Network]] = {  # by the architecture of weights.toml, to be called with its parameters
    "compact": CompactUNet,
    "conditioned": ConditionedKernelUNet,
    "guided-diffusion": lambda **parameters: GuidedDiffusion(GuidedDiffusionUNet(**parameters)),
}


@dataclass(frozen=True)
class Prior:
    """A denoiser with what a sampler must know of it.

    Attributes:
        name, kind: as in weights.toml; kind is "image", "kernel" or "tilt".
        checksum: sha256 of the weights, where known.
        network: D(x, sigma) -> x0, x (B, C, H, W) in [0, 1] and sigma (B,). That of a conditioned prior denoises only
            after `given`.
        channels: C.
        image_size: the only side (in pixels) of the images it can be trusted with; None means any.
        half: whether the network's layers compute in bfloat16; what surrounds them stays in float32.
    """

    name: str
    kind: str
    checksum: str | None
    network: Network | KernelGivenPhoto
    channels: int
    image_size: int | None
    half: bool = False

    def given(self, y: Tensor, sigma: float | Tensor) -> "Prior":
        """A conditioned prior once it has seen the photo, p(k | y), which is a prior like any other.

        What the photo tells is computed here, once for all calls of `denoise`.

        Args:
            y: the blurred photo, (1, C, H, W), of any contrast, at least 64 pixels on each side; colour is averaged.
                Or (B, C, H, W): one for each of B kernels.
            sigma: standard deviation of its noise, in the same units; one number, or one for each photo (B,).

        Raises:
            UsageError: the prior is not conditioned, or has seen a photo already; or this is no photo, or too small.
        """
        if not isinstance(self.network, ConditionedKernelUNet):
            raise UsageError(f"The prior {self.name} takes no photo, or has been given one. Call denoise as it is.")
        if y.ndim != 4 or min(y.shape[-2:]) < SIDE:
            raise UsageError(
                f"The prior {self.name} takes photos (B, C, H, W) of at least {SIDE} pixels on each side; "
                f"this is {tuple(y.shape)}."
            )
        level = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).expand(len(y))
        with self._precision(y.device):
            features = self.network.features(y.mean(dim=1, keepdim=True), level)
        return replace(self, network=KernelGivenPhoto(self.network, features))

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The mean of the noise-free image given a noisy one, D(x0 + sigma n, sigma) -> x0.

        Args:
            x: (B, C, H, W), noise-free in [0, 1]. A prior of colour images also takes grey ones (B, 1, H, W).
            sigma: standard deviation of the noise, in the same units; one number, or one for each image (B,).

        Raises:
            UsageError: the shape does not fit the network, or a conditioned prior has not been given its photo.
            EstimationError: the answer is not a number somewhere.
        """
        if x.ndim != 4 or x.shape[1] not in (1, self.channels):
            raise UsageError(f"The prior {self.name} takes (B, {self.channels}, H, W); this is {tuple(x.shape)}.")
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        x0 = self._network(x.expand(-1, self.channels, -1, -1), level)
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
        x0 = self._network((x_t / alpha_bar**0.5 + 1) / 2, torch.full((len(x_t),), s / 2, device=x_t.device))
        return 2 * x0 - 1, None

    def _network(self, x: Tensor, sigma: Tensor) -> Tensor:
        if isinstance(self.network, ConditionedKernelUNet):
            raise UsageError(f"The prior {self.name} has to see the photo first: call given(y, sigma).denoise(...).")
        with self._precision(x.device):
            x0: Tensor = self.network(x, sigma)
        return x0

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.half)


def load_prior(name: str = "photo", device: str | torch.device = "cpu") -> Prior:
    """A prior of weights.toml, or of the folder that a training wrote, ready to use.

    Raises:
        UsageError: no prior has this name.
        WeightsError: its weights are not there (the message names the command that fetches them), or damaged.
    """
    entry = find(name)
    network = build(entry)
    load_strictly(network.network if isinstance(network, GuidedDiffusion) else network, load_state(entry), entry.name)
    network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    image_size = None if isinstance(network, CompactUNet) else network.image_size
    half = not isinstance(network, GuidedDiffusion) and half_is_faster(torch.device(device))
    return Prior(entry.name, entry.kind, checksum(entry), network, network.channels, image_size, half)


def build(entry: Entry) -> Network:
    """The network of an entry of weights.toml, with weights still to be loaded."""
    try:
        return NETWORKS[entry.architecture](**entry.parameters)
    except (TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"The entry {entry.name} of weights.toml describes no network ({error}).") from error
