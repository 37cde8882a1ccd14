"""How good a denoiser is on data it has not learned from."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blinddeblur.pictures.canvas import Picture, as_bytes, sheet

SHOWN = 3  # examples in the picture
GAP = 2  # pixels between them
TOGETHER = 8  # images in a batch: they take little memory, and are fast enough


@dataclass(frozen=True)
class Validation:
    """How good a denoiser is: figures, and pictures to look at.

    Attributes:
        figures: for validation.json; under "levels" one {"sigma", "noisy_psnr", "psnr"} for each level, in dB, means
            over the images. Of images of one channel also "correlation", the cosine of the angle between what came out
            and the truth, which for kernels is the agreement of shapes.
        samples: (H, W, C) uint8, a row for each level, in threes: noisy, denoised, clean.
    """

    figures: dict[str, Any]
    samples: Picture


@torch.inference_mode()
def validate(
    denoiser: nn.Module,
    clean: Tensor,
    sigmas: Sequence[float],
    precision: torch.dtype = torch.float32,
    photos: tuple[Tensor, Tensor] | None = None,
    **figures: Any,
) -> Validation:
    """Denoise images at every level, always with the same noise.

    Args:
        denoiser: D(x, sigma), x (B, C, H, W) and sigma (B,); with photos D(x, sigma, features(photos, their noise)).
        clean: (N, C, H, W) in [0, 1].
        sigmas: noise levels in the same units.
        precision: of the products.
        photos: (N, 1, H, W) and the standard deviations of their noise (N,), for a denoiser conditioned on them.
        figures: more to be kept with the result.
    """
    device = next(denoiser.parameters()).device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)
    seen: Iterable[tuple[Tensor, ...]] = itertools.repeat(())
    if photos is not None:
        with autocast:
            seen = _features(denoiser, *photos)
    levels, rows = [], []
    for sigma in sigmas:
        generator = torch.Generator().manual_seed(0)
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        batches = zip(torch.split(noisy, TOGETHER), seen, strict=False)
        with autocast:
            parts = [denoiser(x.to(device), torch.full((len(x),), sigma, device=device), *more) for x, more in batches]
        denoised = torch.cat(parts).float().cpu()
        psnr = -10 * (denoised - clean).square().mean(dim=(1, 2, 3)).log10()
        level = {"sigma": sigma, "noisy_psnr": -20 * math.log10(sigma), "psnr": float(psnr.mean())}
        if clean.shape[1] == 1:
            level["correlation"] = float(F.cosine_similarity(denoised.flatten(1), clean.flatten(1)).mean())
        levels.append({key: round(figure, 4) for key, figure in level.items()})
        shown = torch.stack([x[:SHOWN] for x in (noisy, denoised, clean)], dim=1).flatten(0, 1)
        rows.append([as_bytes(image.permute(1, 2, 0).numpy()) for image in shown])
    return Validation({**figures, "images": len(clean), "levels": levels}, sheet(rows, GAP))


def _features(denoiser: Any, photos: Tensor, noise: Tensor) -> list[tuple[Tensor]]:
    """What the photos say, for each batch of kernels."""
    device = next(denoiser.parameters()).device
    batches = zip(torch.split(photos, TOGETHER), torch.split(noise, TOGETHER), strict=True)
    return [(denoiser.features(y.to(device), level.to(device)),) for y, level in batches]
