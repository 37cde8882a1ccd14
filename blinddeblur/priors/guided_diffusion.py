"""The U-Net of guided diffusion (Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis").

For running published checkpoints, which load unchanged: as a denoiser in the convention of this package, or as the
noise prediction of a DDPM (Ho et al. 2020) with learned variance (Nichol and Dhariwal 2021). Not for training.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blinddeblur.priors.compact import set_to_zero
from blinddeblur.priors.ddpm import STEPS, linear_alpha_bar

# Features at each resolution, finest first, in units of `width`: fixed by the image size in all published networks.
MULTIPLIERS: dict[int, tuple[float, ...]] = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}

GROUPS = 32  # of features that are normalised together


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of the timesteps (B,), fractions allowed, at width / 2 frequencies: (B, width), float32."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimestepBlock(nn.Module):
    """Two 3x3 convolutions around a scale and shift that depend on the timestep, added to the input.

    Args:
        before, after: features of the input and of the output.
        features: of the timestep embedding.
        resample: halves or doubles the resolution, inside the block and of what is added; None leaves it.
    """

    def __init__(self, before: int, after: int, features: int, resample: nn.Module | None = None) -> None:
        super().__init__()
        self.resample = resample or nn.Identity()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, before),
            nn.SiLU(),
            nn.Conv2d(before, after, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(features, 2 * after))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, after),
            nn.SiLU(),
            nn.Identity(),  # dropout while training; its place keeps the convolution's published index
            nn.Conv2d(after, after, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        set_to_zero(self.out_layers[-1])

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, before, H, W) and (B, features) -> (B, after, H, W), H and W resampled."""
        normalise, activate, convolve = self.in_layers
        hidden = convolve(self.resample(activate(normalise(x))))
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        normalise, activate, _, convolve = self.out_layers
        hidden = convolve(activate(torch.addcmul(shift, normalise(hidden), 1 + scale)))
        output: Tensor = self.skip_connection(self.resample(x)) + hidden
        return output


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, added to the input: (B, width, H, W) -> the same shape."""

    def __init__(self, width: int, head_channels: int) -> None:
        super().__init__()
        self.heads = width // head_channels
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)
        set_to_zero(self.proj_out)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        # The order of the published networks: features are split by head first, then into query, key and value.
        split = self.qkv(self.norm(pixels)).unflatten(1, (self.heads, 3, -1)).transpose(-1, -2)
        query, key, value = split.unbind(dim=2)  # each (B, heads, pixels, head_channels)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(-1, -2).flatten(1, 2)
        output: Tensor = (pixels + self.proj_out(attended)).view_as(x)
        return output


class TimestepStage(nn.ModuleList):
    """Blocks one after the other, of which only the residual ones depend on the timestep."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            x = block(x, embedding) if isinstance(block, TimestepBlock) else block(x)
        return x


class GuidedDiffusionUNet(nn.Module):
    """Predicts the noise in an image, and the variance of the reverse step, at a timestep of the DDPM schedule.

    Args:
        image_size: 64, 128, 256 or 512, the side of the images it was trained on; it decides the depth.
        channels: of the image.
        width: features at the finest resolution, before the multiplier.
        residual_blocks: at each resolution on the way down; one more on the way up.
        attention: sides in pixels, for images of image_size, of the resolutions that have attention.
        head_channels: features of one attention head.

    Attributes:
        multiple: what height and width of an image must be divisible by; they need not be image_size.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        width: int,
        residual_blocks: int,
        attention: Sequence[int],
        head_channels: int = 64,
    ) -> None:
        super().__init__()
        widths = [int(multiplier * width) for multiplier in MULTIPLIERS[image_size]]
        factors = {image_size // side for side in attention}
        features = 4 * width
        self.image_size, self.channels, self.width = image_size, channels, width
        self.multiple = 2 ** (len(widths) - 1)

        def stage(level: int, before: int) -> TimestepStage:
            blocks: list[nn.Module] = [TimestepBlock(before, widths[level], features)]
            if 2**level in factors:
                blocks.append(AttentionBlock(widths[level], head_channels))
            return TimestepStage(blocks)

        self.time_embed = nn.Sequential(nn.Linear(width, features), nn.SiLU(), nn.Linear(features, features))

        encoder = [TimestepStage([nn.Conv2d(channels, widths[0], 3, padding=1)])]
        skips = [widths[0]]  # features of what each stage of the encoder hands to the decoder
        for level, after in enumerate(widths):
            for _ in range(residual_blocks):
                encoder.append(stage(level, skips[-1]))
                skips.append(after)
            if level < len(widths) - 1:
                encoder.append(TimestepStage([TimestepBlock(after, after, features, nn.AvgPool2d(2))]))
                skips.append(after)
        self.input_blocks = nn.ModuleList(encoder)

        before = widths[-1]
        self.middle_block = TimestepStage(
            [
                TimestepBlock(before, before, features),
                AttentionBlock(before, head_channels),
                TimestepBlock(before, before, features),
            ]
        )

        decoder = []
        for level, after in reversed(list(enumerate(widths))):
            for _ in range(residual_blocks + 1):
                decoder.append(stage(level, before + skips.pop()))
                before = after
            if level > 0:
                double = nn.Upsample(scale_factor=2, mode="nearest")
                decoder[-1].append(TimestepBlock(after, after, features, double))
        self.output_blocks = nn.ModuleList(decoder)

        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, before),
            nn.SiLU(),
            nn.Conv2d(before, 2 * channels, 3, padding=1),
        )
        set_to_zero(self.out[-1])

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """The noise in x and, behind it, the interpolation v of the log variance (see GuidedDiffusion.predict).

        Args:
            x: (B, channels, H, W), float32, variance-preserving with images in [-1, 1]; H and W multiples of
                self.multiple.
            timesteps: (B,), from 0 to 999, fractions allowed.

        Returns (B, 2 * channels, H, W).
        """
        embedding = self.time_embed(timestep_embedding(timesteps, self.width))
        skips = []
        for stage in self.input_blocks:
            x = stage(x, embedding)
            skips.append(x)
        x = self.middle_block(x, embedding)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), embedding)
        output: Tensor = self.out(x)
        return output


class GuidedDiffusion(nn.Module):
    """Adapts a network of the linear 1000-step DDPM schedule to D(x, sigma) on images in [0, 1].

    Args:
        network: predicts noise and variance from (x_t, timesteps), as GuidedDiffusionUNet does.

    Attributes:
        channels, image_size, multiple: those of the network.
        alpha_bar: (1000,), float64 on the CPU wherever the network is: the share of the image in the variance of x_t.
    """

    log_sigma: Tensor

    def __init__(self, network: GuidedDiffusionUNet) -> None:
        super().__init__()
        self.network = network
        self.channels, self.image_size, self.multiple = network.channels, network.image_size, network.multiple
        # No buffer: that would follow the network to devices without float64, and to other types.
        self.alpha_bar = linear_alpha_bar()
        # Of noise in images in [0, 1], which are half as wide. float32 finds the timestep to about 1e-4.
        log_sigma = (((1 - self.alpha_bar) / self.alpha_bar).sqrt() / 2).log()
        self.register_buffer("log_sigma", log_sigma.float(), persistent=False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The estimate of the noise-free image (Tweedie's formula).

        Args:
            x: (B, C, H, W), float32, an image in [0, 1] plus noise; H and W multiples of self.multiple.
            sigma: (B,), standard deviation of that noise in the same units. Beyond the schedule (about 0.005 to 79)
                the network is asked at the schedule's nearest end.

        Returns (B, C, H, W) in [0, 1] up to the network's error; not clipped.
        """
        s = 2 * sigma  # images in [-1, 1] are twice as wide
        x_t = (2 * x - 1) / torch.sqrt(1 + s**2)[:, None, None, None]
        noise, _ = self.predict(x_t, self.timestep(sigma))
        # (x_t - sqrt(1 - alpha_bar) noise) / sqrt(alpha_bar) with alpha_bar = 1 / (1 + s^2) is 2x - 1 - s noise.
        return x - sigma[:, None, None, None] * noise

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timesteps, in [0, 999] with fractions, of noise levels (B,) of images in [0, 1]: linear in ln(sigma)."""
        target = sigma.log()
        upper = torch.searchsorted(self.log_sigma, target).clamp(1, STEPS - 1)
        low, high = self.log_sigma[upper - 1], self.log_sigma[upper]
        return (upper - 1 + (target - low) / (high - low)).clamp(0, STEPS - 1)

    def predict(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and variance for one ancestral step of the DDPM, on its own scale.

        Args:
            x_t: (B, C, H, W), float32, sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise with x_0 in [-1, 1];
                H and W multiples of self.multiple.
            t: (B,), timesteps from 0 to 999.

        Returns the noise, and v of Nichol and Dhariwal 2021, eq. 15, both (B, C, H, W). v is about -1 to 1 here: the
        log variance of the step lies the fraction (v + 1) / 2 of the way from its lower to its upper bound.
        """
        noise, v = self.network(x_t, t).chunk(2, dim=1)
        return noise, v
