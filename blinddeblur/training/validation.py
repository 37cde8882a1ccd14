"""How good a denoiser is on data it has not learned from."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

SHOWN = 3  # examples in the picture
GAP = 2  # white pixels between its tiles
TOGETHER = 8  # images in a batch: little memory, and fast enough


@dataclass(frozen=True)
class Validation:
    """What came out.

    Attributes:
        figures: for validation.json; under "levels" one {"sigma", "noisy_psnr", "psnr"} for each level, in dB, means
            over the images. Of images of one channel also "correlation", the cosine of the angle between what came out
            and the truth, which for kernels is the agreement of shapes.
        samples: (H, W, C) in [0, 1], a row for each level, in threes: noisy, denoised, clean.
    """

    figures: dict[str, Any]
    samples: NDArray[np.float32]


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
        rows.append([image[i] for i in range(min(SHOWN, len(clean))) for image in (noisy, denoised, clean)])
    return Validation({**figures, "images": len(clean), "levels": levels}, _sheet(rows))


def _features(denoiser: Any, photos: Tensor, noise: Tensor) -> list[tuple[Tensor]]:
    """What the photos say, for each batch of kernels."""
    device = next(denoiser.parameters()).device
    batches = zip(torch.split(photos, TOGETHER), torch.split(noise, TOGETHER), strict=True)
    return [(denoiser.features(y.to(device), level.to(device)),) for y, level in batches]


def _sheet(rows: list[list[Tensor]]) -> NDArray[np.float32]:
    """Rows of (C, H, W) images -> one picture (rows * H, images * W, C) with white gaps."""
    framed = [torch.cat([F.pad(tile, (0, GAP, 0, GAP), value=1) for tile in row], dim=2) for row in rows]
    return torch.cat(framed, dim=1).clamp(0, 1).permute(1, 2, 0).numpy()
