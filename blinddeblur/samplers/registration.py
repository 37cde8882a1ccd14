"""What many frames of one scene tell of their tilts: each is registered to a reference that improves.

The first reference is the temporal median; then the frames, their tilt taken away, make a better one. Frames come one
chunk after the other, so that memory does not grow with their number.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.physics.tilt import enlarged, inverse, warp
from blinddeblur.priors.tilt import KolmogorovTilt
from blinddeblur.samplers.tilt_step import CELL, tilt_step

SCALES = (
    (4.0, 2.0, 1.0, 0.0),
    (1.0, 0.0),
    (1.0, 0.0),
)  # pixels of smoothing for the steps of each round, coarse to fine
FIRST_REFERENCE = 25  # frames, spread evenly, whose median is the first reference
CHUNK_PIXELS = 2_000_000  # of frames that are worked on at once
OUTLIER = 3.0  # standard deviations from the reference beyond which a pixel counts less
BLUR_CHANGES = 0.03  # standard deviation of what blur that differs does to a pixel; no sign that something moved


def register(
    frames: Sequence[Tensor],
    prior: KolmogorovTilt,
    sigma: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """The tilts of all frames, less their mean, which nothing tells: (N, 2, h, w) at the centres of cells of CELL pixels.

    Args:
        frames: N of (1, 1, H, W), in [0, 1]; each is asked for several times.
        prior: of the tilt.
        sigma: standard deviation of their noise.
        progress: told how many rounds over how many frames are done, and of how many.
    """
    height, width = frames[0].shape[-2:]
    tilts = frames[0].new_zeros(len(frames), 2, -(-height // CELL), -(-width // CELL))
    if len(frames) == 1:
        return tilts
    reference = median(frames)
    for index, scales in enumerate(SCALES):
        for chunk in chunks(len(frames), height, width):
            seen = torch.cat([frames[i] for i in chunk])
            for scale in scales:
                tilts[chunk] = tilt_step(smoothed(reference, scale), smoothed(seen, scale), tilts[chunk], prior, sigma)
            progress(index * len(frames) + chunk[-1] + 1, len(SCALES) * len(frames))
        tilts = tilts - tilts.mean(dim=0)
        if index + 1 < len(SCALES):
            reference = fused(frames, tilts, tilts.new_ones(len(frames)), reference, sigma)
    return tilts


def fused(frames: Sequence[Tensor], tilts: Tensor, weights: Tensor, reference: Tensor, sigma: float) -> Tensor:
    """The weighted mean of the frames without their tilts, (1, C, H, W): what turbulence leaves but for the blur.

    Args:
        frames: N of (1, C, H, W).
        tilts: (N, 2, h, w).
        weights: (N,), not negative.
        reference: (1, 1, H, W): where a frame is not like it, something moved, and the frame counts less.
        sigma: standard deviation of the noise.
    """
    height, width = frames[0].shape[-2:]
    total, counted = torch.zeros_like(frames[0]), reference.new_zeros(1, 1, height, width)
    for chunk in chunks(len(frames), height, width):
        still = without_tilt(torch.cat([frames[i] for i in chunk]), tilts[chunk])
        rest = still.mean(dim=1, keepdim=True) - reference
        likeness = 1 / (1 + rest.square() / ((OUTLIER * sigma) ** 2 + BLUR_CHANGES**2))
        trust = weights[chunk][:, None, None, None] * likeness
        total += (trust * still).sum(dim=0, keepdim=True)
        counted += trust.sum(dim=0, keepdim=True)
    return total / counted.clamp_min(torch.finfo(counted.dtype).tiny)


def without_tilt(frames: Tensor, tilts: Tensor) -> Tensor:
    """Frames (B, C, H, W) as they would be seen without their tilts (B, 2, h, w)."""
    return warp(frames, inverse(enlarged(tilts, frames.shape[-2], frames.shape[-1], CELL)))


def median(frames: Sequence[Tensor]) -> Tensor:
    """Over time, of frames that are spread evenly: (1, C, H, W)."""
    number = min(len(frames), FIRST_REFERENCE)
    chosen = [frames[round(i * (len(frames) - 1) / max(1, number - 1))] for i in range(number)]
    return torch.from_numpy(np.median(torch.cat(chosen).cpu().numpy(), axis=0, keepdims=True)).to(frames[0])


def smoothed(x: Tensor, scale: float) -> Tensor:
    """(B, C, H, W) under a Gaussian whose standard deviation is `scale` pixels; 0 leaves it as it is."""
    if scale == 0:
        return x
    radius = round(3 * scale)
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    taps = torch.exp(-(offsets**2) / (2 * scale**2))
    taps = (taps / taps.sum()).expand(x.shape[1], 1, 1, -1)
    padded = F.pad(x, (radius, radius, radius, radius), mode="replicate")
    across = F.conv2d(padded, taps, groups=x.shape[1])
    return F.conv2d(across, taps.transpose(-1, -2), groups=x.shape[1])


def chunks(number: int, height: int, width: int) -> Iterator[list[int]]:
    """The numbers of all frames, in order, a few at a time."""
    size = max(1, CHUNK_PIXELS // (height * width))
    for start in range(0, number, size):
        yield list(range(start, min(start + size, number)))
