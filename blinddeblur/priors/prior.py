"""What we believe before looking: every prior of images, kernels or tilts that is a network."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.errors import UsageError
from blinddeblur.priors import opponent
from blinddeblur.priors.compact import CompactUNet
from blinddeblur.priors.conditioned import SIDE, ConditionedKernelUNet
from blinddeblur.priors.guided_diffusion import GuidedDiffusion
from blinddeblur.tiles import blend, grid

OVERLAP = 64  # pixels of neighbouring tiles, where a network of fixed size sees an image in tiles

Network = CompactUNet | ConditionedKernelUNet | GuidedDiffusion


@dataclass(frozen=True)
class Prior:
    """A denoiser with what a sampler must know of it.

    Attributes:
        name, kind: as in weights.toml; kind is "image", "kernel" or "tilt".
        checksum: sha256 of the weights, where known.
        network: D(x, sigma) -> x0, x (B, C, H, W) in [0, 1] and sigma (B,). That of a conditioned prior denoises only
            after `given`.
        channels: C.
        image_size: the only side (in pixels) of the images that the network can be trusted with; None means any.
        half: whether the network's layers compute in bfloat16; what surrounds them stays in float32.
        grey: of a prior that knows the details of colour, the prior of grey images that knows the rest: brightness, and
            above the noise `above` colour as well; None for a prior that needs no other.
        features: what a conditioned network has seen in one photo, or in several; None for none.
    """

    name: str
    kind: str
    checksum: str | None
    network: Network
    channels: int
    image_size: int | None
    half: bool = False
    grey: "Prior | None" = None
    above: float = math.inf
    features: Tensor | None = None

    def given(self, y: Tensor, sigma: float | Tensor) -> "Prior":
        """A conditioned prior once it has seen the photo, p(k | y), which is a prior like any other.

        What the photo tells is computed here, once for all calls of `denoise`.

        Args:
            y: the blurred photo, (1, C, H, W), of any contrast, at least 64 pixels on each side; colour is averaged.
                Or (B, C, H, W): one for each of B kernels.
            sigma: standard deviation of its noise, in the same units; one number, or one for each photo (B,).

        Raises UsageError where the prior is not conditioned or has seen a photo already, and for what is no photo or
        too small.
        """
        if not isinstance(self.network, ConditionedKernelUNet) or self.features is not None:
            raise UsageError(f"The prior {self.name} takes no photo, or has been given one. Call denoise as it is.")
        if y.ndim != 4 or min(y.shape[-2:]) < SIDE:
            raise UsageError(
                f"The prior {self.name} takes photos (B, C, H, W) of at least {SIDE} pixels on each side; "
                f"this is {tuple(y.shape)}."
            )
        level = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).expand(len(y))
        with self._precision(y.device):
            features = self.network.features(y.mean(dim=1, keepdim=True), level)
        return replace(self, features=features)

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The mean of the noise-free image given a noisy one, D(x0 + sigma n, sigma) -> x0.

        A network of fixed size sees overlapping tiles of that size; a smaller image has its edges continued.

        Args:
            x: (B, C, H, W), noise-free in [0, 1]. A prior of colour images also takes grey ones (B, 1, H, W), and one
                of grey images takes colour as brightness and two opponent colours.
            sigma: standard deviation of the noise, in the same units; one number, or one for each image (B,).

        Raises UsageError where the shape does not fit the network, or a conditioned prior has not been given its photo.
        """
        if self.grey is not None:
            return self._helped(self.grey, x, sigma)
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        if x.ndim == 4 and self.kind == "image" and x.shape[1] == 3 > self.channels:
            return opponent.denoised(self.denoise, x, level)
        if x.ndim != 4 or x.shape[1] not in (1, self.channels):
            raise UsageError(f"The prior {self.name} takes (B, {self.channels}, H, W); this is {tuple(x.shape)}.")
        side = self.image_size
        if side is not None and self.features is None and x.shape[-2:] != (side, side):
            return self._in_tiles(x, sigma, side)
        x0 = self._network(x.expand(-1, self.channels, -1, -1), level)
        return x0.mean(dim=1, keepdim=True) if x.shape[1] < self.channels else x0

    def predict(self, x_t: Tensor, t: int, alpha_bar: float) -> tuple[Tensor, Tensor | None]:
        """Tweedie's estimate and the learned variance on the scale of the paper.

        Args:
            x_t: (B, C, H, W), sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise with x_0 in [-1, 1].
            t: timestep of the 1000-step schedule.
            alpha_bar: its value there.

        Returns x_0 in [-1, 1], not clipped; and v of Nichol and Dhariwal 2021, equation 15, or None for a network that
        has not learned its variance.
        """
        if isinstance(self.network, GuidedDiffusion):
            noise, v = self.network.predict(x_t, torch.full((len(x_t),), t, device=x_t.device))
            return (x_t - (1 - alpha_bar) ** 0.5 * noise) / alpha_bar**0.5, v
        s = ((1 - alpha_bar) / alpha_bar) ** 0.5
        return 2 * self.denoise((x_t / alpha_bar**0.5 + 1) / 2, s / 2) - 1, None

    def _helped(self, grey: "Prior", x: Tensor, sigma: float | Tensor) -> Tensor:
        """By this prior and that of grey images, each what it knows better."""
        if isinstance(sigma, Tensor):
            levels = sigma.expand(len(x)).tolist()
            return torch.cat([self._helped(grey, x[i : i + 1], level) for i, level in enumerate(levels)])
        if x.shape[1] == 1 or sigma > self.above:
            return grey.denoise(x, sigma)
        colour, brightness = replace(self, grey=None).denoise(x, sigma), x.mean(dim=1, keepdim=True)
        return colour - colour.mean(dim=1, keepdim=True) + grey.denoise(brightness, sigma / self.channels**0.5)

    def _in_tiles(self, x: Tensor, sigma: float | Tensor, side: int) -> Tensor:
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, max(0, side - width), 0, max(0, side - height)), mode="replicate")
        rows, columns = padded.shape[-2:]
        tiles = grid(rows, columns, side, min(OVERLAP, side // 2))
        return blend(((t, self.denoise(t.of(padded), sigma)) for t in tiles), rows, columns)[..., :height, :width]

    def _network(self, x: Tensor, sigma: Tensor) -> Tensor:
        with self._precision(x.device):
            x0: Tensor = self.network(x, sigma, *self._features_for(x))
        return x0

    def _features_for(self, x: Tensor) -> tuple[Tensor, ...]:
        """What a conditioned network is told besides: the features of the photo of each kernel."""
        if not isinstance(self.network, ConditionedKernelUNet):
            return ()
        if self.features is None:
            raise UsageError(f"The prior {self.name} has to see the photo first: call given(y, sigma).denoise(...).")
        if x.shape[1:] != (1, SIDE, SIDE) or len(self.features) not in (1, len(x)):
            raise UsageError(
                f"Kernels of shape {tuple(x.shape)} do not fit: this prior takes (N, 1, {SIDE}, {SIDE}), where N is "
                f"the number of photos it was given, {len(self.features)}; after a single photo it is any number."
            )
        return (self.features.expand(len(x), -1, -1, -1),)

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.half)
