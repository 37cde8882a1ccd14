"""Sequences of frames seen through hot air, with their truth: y_i = k_i * T_phi_i(x) + n.

Tilt comes first and blur second, as the optics have it (Chan 2022, "Tilt-then-blur or blur-then-tilt?"). The scene
reaches beyond the frame, so that light from there falls in as in a camera; no border is made up. Tilt and blur follow
from the same turbulence, D / r0. All values are sRGB-encoded, as in the rest of the package.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from blinddeblur.errors import UsageError
from blinddeblur.physics.atmosphere import SIZE, short_exposure_kernel
from blinddeblur.physics.convolution import blur
from blinddeblur.physics.tilt import warp
from blinddeblur.priors.kolmogorov import KolmogorovTilt

TAPS = 2  # pixels on each side of a point that cubic interpolation takes


@dataclass(frozen=True)
class SimulatedSequence:
    """What a camera saw, and the truth.

    Attributes:
        frames: (N, H, W) or (N, H, W, 3).
        tilts: (N, 2, H, W), row and column displacement in pixels at each pixel of the frame, before the blur.
        kernels: (N, K, K), one for each frame.
        truth: (H, W) or (H, W, 3), the scene within the frame.
    """

    frames: NDArray[np.float32]
    tilts: NDArray[np.float32]
    kernels: NDArray[np.float32]
    truth: NDArray[np.float32]


def simulate_turbulence(
    rng: np.random.Generator,
    sharp: NDArray[np.float32],
    frames: int,
    height: int,
    width: int,
    d_over_r0: float = 2.0,
    correlation_length: float = 16.0,
    frame_correlation: float = 0.0,
    variation: float = 0.0,
    sigma: float = 0.01,
    depth: int | None = 8,
    size: int = SIZE,
) -> SimulatedSequence:
    """A sequence through Kolmogorov turbulence.

    Raises UsageError where a parameter makes no sense, or the scene is too small for what was drawn.

    Args:
        rng: where the randomness comes from.
        sharp: the scene, (H + 2 m, W + 2 m) or (H + 2 m, W + 2 m, 3) in [0, 1]. The margins m hold half a kernel and
            the largest tilt; 15 + 12 pixels do for D / r0 = 4.
        frames: N.
        height: H of the frames.
        width: W of the frames.
        d_over_r0: D / r0, the strength of the turbulence.
        correlation_length: of the tilt, in pixels: the aperture as it appears in the image at the distance of the air.
        frame_correlation: of the tilt from one frame to the next, from 0 to below 1.
        variation: standard deviation of log(D / r0) from frame to frame, for the blur: above 0 there are lucky frames.
        sigma: standard deviation of the noise.
        depth: 8 or 16 bits, to which frames are rounded and clipped; None leaves them as they are.
        size: of the kernels, odd.
    """
    if frames < 1 or height < 1 or width < 1:
        raise UsageError(f"There are no {frames} frames of {height} x {width} pixels. Give whole numbers from 1 up.")
    if not (math.isfinite(variation) and variation >= 0):
        raise UsageError(f"The variation from frame to frame is {variation}. Give 0 or a positive number.")
    strengths = d_over_r0 * np.exp(variation * rng.standard_normal(frames))
    kernels = np.stack([short_exposure_kernel(strength, size) for strength in strengths])
    prior = KolmogorovTilt(d_over_r0, correlation_length)
    tilts = kolmogorov_tilts(rng, prior, frames, height + size - 1, width + size - 1, frame_correlation)
    return seen_through(rng, sharp, tilts, kernels, sigma, depth)


def seen_through(
    rng: np.random.Generator,
    sharp: NDArray[np.float32],
    tilts: NDArray[np.float32],
    kernels: NDArray[np.float32],
    sigma: float = 0.01,
    depth: int | None = 8,
) -> SimulatedSequence:
    """The sequence for given tilts and kernels. Raises UsageError where they do not fit, or a parameter makes no sense.

    Args:
        rng: for the noise.
        sharp: the scene, reaching beyond the tilts evenly on all sides.
        tilts: (N, 2, H + K - 1, W + K - 1) in pixels: light from half a kernel beyond the frame falls into it.
        kernels: (N, K, K), each sums to 1; K odd.
        sigma: standard deviation of the noise.
        depth: 8 or 16 bits, to which frames are rounded and clipped; None leaves them as they are.
    """
    number, _, rows, columns = tilts.shape
    size = kernels.shape[-1]
    if kernels.shape != (number, size, size) or size % 2 == 0:
        raise UsageError(f"Kernels of shape {kernels.shape} do not fit {number} tilts. Give (N, K, K) with K odd.")
    if not (math.isfinite(sigma) and sigma >= 0):
        raise UsageError(f"The noise is {sigma}. Give 0 or a positive number.")
    if depth not in (8, 16, None):
        raise UsageError(f"Frames have no {depth} bits. Give 8, 16 or None.")
    room = np.array([(sharp.shape[0] - rows) / 2, (sharp.shape[1] - columns) / 2])
    needed = math.ceil(np.abs(tilts).max()) + TAPS
    if (room % 1).any() or room.min() < needed:
        margin = needed + size // 2
        height, width = rows - size + 1, columns - size + 1
        raise UsageError(
            f"The scene is {sharp.shape[0]} x {sharp.shape[1]} pixels. For frames of {height} x {width} give an even "
            f"margin of {margin} pixels or more: {height + 2 * margin} x {width + 2 * margin}."
        )
    x = _planes(sharp)
    frames = []
    for tilt, kernel in zip(tilts, kernels, strict=True):
        y = blur(warp(x, torch.from_numpy(tilt)[None]), torch.from_numpy(kernel))
        noisy = _pixels(y, sharp.ndim) + np.float32(sigma) * rng.standard_normal(
            (*y.shape[2:], *sharp.shape[2:]), dtype=np.float32
        )
        if depth is not None:
            white = np.float32(2**depth - 1)
            noisy = np.rint(noisy.clip(0, 1) * white) / white
        frames.append(noisy)
    top, left = (room + size // 2).astype(int)
    inner = (..., slice(size // 2, rows - size // 2), slice(size // 2, columns - size // 2))
    truth = sharp[top : sharp.shape[0] - top, left : sharp.shape[1] - left]
    return SimulatedSequence(np.stack(frames), tilts[inner], kernels, truth)


def kolmogorov_tilts(
    rng: np.random.Generator, prior: KolmogorovTilt, frames: int, height: int, width: int, frame_correlation: float = 0
) -> NDArray[np.float32]:
    """(frames, 2, height, width) in pixels, each distributed as the prior has it.

    phi_i+1 = rho phi_i + sqrt(1 - rho^2) fresh, from a fresh start: all frames have the covariance C of the prior,
    exactly, and frames i and j together rho^|i - j| C. Real air rather drifts by; for what a frame tells of
    another only the correlation counts. Raises UsageError for a correlation below 0, or of 1 and above.
    """
    if not 0 <= frame_correlation < 1:
        raise UsageError(f"The correlation of frames is {frame_correlation}. Give a number from 0 to below 1.")
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    fields = prior.sample(frames, height, width, generator)
    for before, field in itertools.pairwise(fields):
        field.mul_(math.sqrt(1 - frame_correlation**2)).add_(before, alpha=frame_correlation)
    return fields.numpy()


def _planes(pixels: NDArray[np.float32]) -> torch.Tensor:
    """(H, W) or (H, W, 3) -> (1, C, H, W)."""
    array = pixels if pixels.ndim == 3 else pixels[..., None]
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32))[None]


def _pixels(planes: torch.Tensor, dimensions: int) -> NDArray[np.float32]:
    """The way back."""
    return planes[0, 0].numpy() if dimensions == 2 else planes[0].permute(1, 2, 0).numpy()
