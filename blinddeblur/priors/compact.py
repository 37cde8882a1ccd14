"""The compact fully convolutional denoiser: our own network for photos and for kernels.

A U-Net without attention and without normalisation over the image, so that what it says of a pixel depends on
a bounded neighbourhood only and any size or tiling is allowed. Preconditioned as in Karras et al. 2022 (EDM),
Table 1, with images in [0, 1]:

    D(x; sigma) = mean + c_skip (x - mean) + c_out F(c_in (x - mean); ln(sigma) / 4)
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def set_to_zero(layer: nn.Module) -> None:
    """Set the weights of a layer to zero: an untrained block is the identity, an untrained network predicts zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class SigmaEmbedding(nn.Module):
    """ln(sigma) as sines and cosines, then two layers: (B,) -> (B, features)."""

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        # ln(sigma) / 4 lies within about +-2 over every level in use: from half a turn to eight turns over that.
        self.register_buffer("frequencies", torch.pi * 2 ** torch.linspace(-2, 2, 16), persistent=False)
        self.layers = nn.Sequential(nn.Linear(32, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU())

    def forward(self, sigma: Tensor) -> Tensor:
        angles = (sigma.log() / 4)[:, None] * self.frequencies
        embedded: Tensor = self.layers(torch.cat([angles.cos(), angles.sin()], dim=1))
        return embedded


class SigmaBlock(nn.Module):
    """Two 3x3 convolutions around a scale and shift that depend on sigma, added to the input."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(features, 2 * width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        set_to_zero(self.modulation)
        nn.init.zeros_(self.second.weight)  # the block starts as the identity

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = torch.addcmul(shift, self.first(F.relu(x)), 1 + scale)
        output: Tensor = x + self.second(F.relu(hidden))
        return output


class SigmaStage(nn.ModuleList):
    """The residual blocks of one resolution, one after the other."""

    def __init__(self, width: int, features: int, blocks: int) -> None:
        super().__init__(SigmaBlock(width, features) for _ in range(blocks))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            x = block(x, embedding)
        return x


class UNet(nn.Module):
    """A U-Net for images of any size whose sides are multiples of `multiple`, modulated by a noise level.

    Args:
        inputs, outputs: channels of the image that goes in and of the one that comes out.
        widths: features at each resolution, finest first; each further one halves the resolution.
        blocks: residual blocks at each resolution, on the way down and again on the way up.
        patch: side of the pixel blocks folded into channels before the finest resolution.
    """

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int], blocks: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.multiple = patch * 2 ** (len(widths) - 1)
        features = 4 * widths[0]
        self.embedding = SigmaEmbedding(features)
        self.head = nn.Conv2d(inputs * patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(SigmaStage(width, features, blocks) for width in widths)
        self.up = nn.ModuleList(SigmaStage(width, features, blocks) for width in widths[:-1])
        pairs = list(pairwise(widths))
        self.coarser = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.finer = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairs)
        self.tail = nn.Conv2d(widths[0], outputs * patch**2, 3, padding=1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """(B, inputs, H, W) and sigma (B,) -> (B, outputs, H, W)."""
        embedding = self.embedding(sigma)
        x = self.head(F.pixel_unshuffle(x, self.patch))
        skips = []
        for level, stage in enumerate(self.down):
            x = stage(x, embedding)
            if level < len(self.coarser):
                skips.append(x)
                x = self.coarser[level](x)
        for level in reversed(range(len(self.up))):
            x = skips[level] + F.pixel_shuffle(self.finer[level](x), 2)
            x = self.up[level](x, embedding)
        return F.pixel_shuffle(self.tail(x), self.patch)


class CompactUNet(UNet):
    """Denoiser D(x, sigma) for images of any size, by default about 3 GMAC for 256x256.

    Args:
        channels: of the image (3 for photos, 1 for kernels).
        widths, blocks, patch: of the U-Net.
        mean, sigma_data: mean and standard deviation of the data, in [0, 1].
        conditions: channels of a further image that the network sees beside the noisy one.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int] = (32, 64, 128, 192),
        blocks: int = 2,
        patch: int = 2,
        mean: float = 0.5,
        sigma_data: float = 0.25,
        conditions: int = 0,
    ) -> None:
        super().__init__(channels + conditions, channels, widths, blocks, patch)
        self.channels = channels
        self.mean, self.sigma_data = mean, sigma_data
        set_to_zero(self.tail)

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """The noise-free image (B, C, H, W) estimated from a noisy one.

        Args:
            x: (B, C, H, W) with noise of standard deviation sigma.
            sigma: (B,).
            condition: (B, conditions, H, W), where the network takes one.
        """
        height, width = x.shape[-2:]
        bottom, right = -height % self.multiple, -width % self.multiple
        total = torch.sqrt(sigma**2 + self.sigma_data**2)[:, None, None, None]
        centred = x - self.mean
        seen = centred / total if condition is None else torch.cat([centred / total, condition], dim=1)
        padded = F.pad(seen, (0, right, 0, bottom), mode="replicate") if bottom or right else seen
        raw = super().forward(padded, sigma)[..., :height, :width]
        s = sigma[:, None, None, None]
        skip, out = (self.sigma_data / total) ** 2, s * self.sigma_data / total
        return self.mean + skip * centred + out * raw
