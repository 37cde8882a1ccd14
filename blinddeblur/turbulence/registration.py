"""What many frames of one scene tell of their tilts: each is registered to a reference that improves.

The first reference is the temporal median; then the frames, their tilt taken away, make a better one. Frames come one
chunk after the other, so that memory does not grow with their number.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.physics.convolution import smoothed
from blinddeblur.physics.tilt import enlarged, inverse, warp, within
from blinddeblur.priors.kolmogorov import KolmogorovTilt
from blinddeblur.tiles import evenly
from blinddeblur.turbulence.tilt_step import CELL, tilt_step

# Pixels of smoothing for the steps of each round, coarse to fine.
SCALES = ((4.0, 2.0, 1.0, 0.0), (1.0, 0.0), (1.0, 0.0))
FIRST_REFERENCE = 25  # frames, spread evenly, whose median is the first reference
LEAST_SHIFT = 4  # pixels of a whole frame below which the tilts take care of it
# Of the mean square difference that is left after a shift, at most, for each share of the frames that still overlaps: a
# small part may look alike by chance. The same scene leaves 0.1 to 0.4, another 0.6 and more.
MORE_LIKE = 0.5
DETAILS = (2.0, 10.0)  # pixels of smoothing, between which lies what shifts are seen by
NO_DETAILS = 1e-6  # mean square of details that are none
CHUNK_PIXELS = 2_000_000  # of frames that are worked on at once
NOISE = (1.5, 0.01)  # so many times the noise counts as such, and at least this: blur that differs, and interpolation
OUTLIER = 3.0  # standard deviations from the reference beyond which a pixel counts less
BLUR_CHANGES = 0.03  # standard deviation of what blur that differs does to a pixel; no sign that something moved
BLOCK = 16  # side in pixels of the blocks that noise between frames is measured in
CALM = 0.3  # share of the blocks of a frame that are taken as calm
OFF_FRAME = 1e-3  # weight of what lies beyond a frame, where no frame saw anything
SHARPNESS_SCALE = 0.7  # pixels of smoothing before slopes are measured, against noise
LUCK = 2.0  # power of its sharpness that a frame counts with; 8 leaves too few frames against the noise
# By how much of the usual correlation with the median that of a frame may be less: sharp ones among soft ones lack 0.1,
# those of another scene 0.5 and more.
LESS_LIKE = 0.35
STILLED = 2  # times that frames are fused, each with the last as reference: the median is a blurred one


def register(
    frames: Sequence[Tensor],
    prior: KolmogorovTilt,
    sigma: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """The tilts of all frames: (N, 2, h, w) in pixels at the centres of cells of CELL pixels.

    Their mean is taken away, since nothing tells it from the scene's own shape; so one frame has none.

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
    shifts = _shifts(frames)
    tilts += shifts[:, :, None, None]
    reference = _median(frames, tilts if bool(shifts.any()) else None)
    weights = tilts.new_ones(len(frames))
    for index, scales in enumerate(SCALES):

        def report(done: int, index: int = index) -> None:
            progress(index * len(frames) + done, len(SCALES) * len(frames))

        tilts = registered(frames, reference, tilts, prior, sigma, scales, report)
        if index + 1 < len(SCALES):
            reference = fused(frames, tilts, weights, reference, sigma)
    return tilts


def registered(
    frames: Sequence[Tensor],
    reference: Tensor,
    tilts: Tensor,
    prior: KolmogorovTilt,
    sigma: float,
    scales: Sequence[float] = (0.0,),
    progress: Callable[[int], None] = lambda done: None,
    chunk_pixels: int = CHUNK_PIXELS,
) -> Tensor:
    """Better tilts than these, (N, 2, h, w): a step at each scale, against one reference (1, 1, H, W)."""
    noise, better = _noise(sigma), torch.empty_like(tilts)
    references = [(scale, smoothed(reference, scale)) for scale in scales]
    for chunk in _chunks(frames, chunk_pixels):
        seen, tilt = torch.cat([frames[i] for i in chunk]), tilts[chunk]
        for scale, smooth in references:
            tilt = tilt_step(smooth, smoothed(seen, scale), tilt, prior, noise)
        better[chunk] = tilt
        progress(chunk[-1] + 1)
    return better - better.mean(dim=0)


def still(frames: Sequence[Tensor], tilts: Tensor, weights: Tensor, sigma: float) -> Tensor:
    """What turbulence leaves of the scene but for the blur, from frames (1, C, H, W): (1, C, H, W)."""
    reference = _median(frames, tilts).mean(dim=1, keepdim=True)
    for _ in range(STILLED):
        image = fused(frames, tilts, weights, reference, sigma)
        reference = image.mean(dim=1, keepdim=True)
    return image


def fused(
    frames: Sequence[Tensor],
    tilts: Tensor,
    weights: Tensor,
    reference: Tensor,
    sigma: float,
    chunk_pixels: int = CHUNK_PIXELS,
) -> Tensor:
    """The weighted mean of the frames without their tilts, (1, C, H, W).

    Args:
        frames: N of (1, C, H, W).
        tilts: (N, 2, h, w).
        weights: (N,), not negative.
        reference: (1, 1, H, W): where a frame is not like it, something moved, and the frame counts less.
        sigma: standard deviation of the noise.
        chunk_pixels: of frames that are worked on at once.
    """
    total, counted = torch.zeros_like(frames[0]), torch.zeros_like(reference)
    tolerance = (OUTLIER * _noise(sigma)) ** 2 + BLUR_CHANGES**2
    for chunk, seen, on_frame in _stilled(frames, tilts, chunk_pixels):
        rest = seen.mean(dim=1, keepdim=True) - reference
        trust = weights[chunk][:, None, None, None] * on_frame / (1 + rest.square() / tolerance)
        total += (trust * seen).sum(dim=0, keepdim=True)
        counted += trust.sum(dim=0, keepdim=True)
    return total / counted.clamp_min(torch.finfo(counted.dtype).tiny)


def lucky_weights(frames: Sequence[Tensor], tilts: Tensor, sigma: float) -> Tensor:
    """How much each frame counts, (N,), summing to 1: sharp ones more, as in lucky imaging.

    Those of another scene, which would often be the sharpest, count for nothing.

    Args:
        frames: N of (1, 1, H, W).
        tilts: (N, 2, h, w).
        sigma: standard deviation of their noise.
    """
    point = frames[0].new_zeros(1, 1, 15, 15)
    point[..., 7, 7] = 1
    noise = sigma**2 * 15**2 * _slope_energy(point)  # of white noise: the energy of all slopes around a point
    energies = [_slope_energy(frame[None]) for _, seen, _ in _stilled(frames, tilts) for frame in seen]
    sharpness = (torch.cat(energies) - noise).clamp_min(1e-12)
    weights = (sharpness / sharpness.max()) ** LUCK
    likeness = _likeness(frames, tilts)
    usual = likeness.median()
    weights[likeness < usual - LESS_LIKE * usual.abs()] = 0
    return weights / weights.sum()


def misfits(frames: Sequence[Tensor], tilts: Tensor, reference: Tensor) -> Tensor:
    """Root mean square of how each frame, without its tilt, differs from the reference where it saw it: (N,)."""
    sums = [
        ((on_frame * (seen - reference).square()).sum(dim=(1, 2, 3)), on_frame.sum(dim=(1, 2, 3)))
        for _, seen, on_frame in _stilled(frames, tilts)
    ]
    return torch.cat([(squares / weights).sqrt() for squares, weights in sums])


def noise_between(frames: Sequence[Tensor], tilts: Tensor, weights: Tensor, sigma: float) -> float:
    """Standard deviation of the noise of a frame, by how its calmest blocks differ from the frames fused.

    What a codec of videos leaves of noise is smooth, so a single frame hides it; but it moves from frame to frame.

    Args:
        frames: N of (1, 1, H, W), three or more.
        tilts: (N, 2, h, w).
        weights: (N,).
        sigma: what a single frame shows.
    """
    reference = still(frames, tilts, weights, sigma)
    calmest = [
        F.avg_pool2d((seen - reference).square(), BLOCK, stride=BLOCK // 2).flatten(1).sqrt().quantile(CALM, dim=1)
        for _, seen, _ in _stilled(frames, tilts)
    ]
    return float(torch.cat(calmest).median()) * (len(frames) / (len(frames) - 1)) ** 0.5


def without_tilt(frames: Tensor, tilts: Tensor, cell: int = CELL) -> Tensor:
    """Frames (B, C, H, W) as they would be seen without their tilts (B, 2, h, w) at the centres of such cells."""
    return warp(frames, _back(frames, tilts, cell))


def _back(frames: Tensor, tilts: Tensor, cell: int = CELL) -> Tensor:
    return enlarged(inverse(tilts, cell), frames.shape[-2], frames.shape[-1], cell)


def _stilled(
    frames: Sequence[Tensor], tilts: Tensor, chunk_pixels: int = CHUNK_PIXELS
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """All frames, a few at a time: their numbers, what they are without tilt, 1 where they saw something."""
    for chunk in _chunks(frames, chunk_pixels):
        chosen = torch.cat([frames[i] for i in chunk])
        back = _back(chosen, tilts[chunk])
        yield chunk, warp(chosen, back), within(back).clamp_min(OFF_FRAME)


def _likeness(frames: Sequence[Tensor], tilts: Tensor) -> Tensor:
    """How the details of each frame, without its tilt, correlate with those of the median: (N,), 1 at most."""
    reference = _details(_median(frames, tilts))
    found = []
    for _, seen, on_frame in _stilled(frames, tilts):
        details = _details(seen)
        product, own, other = (
            (on_frame * x).mean(dim=(1, 2, 3)) for x in (details * reference, details**2, reference**2)
        )
        found.append(product / ((own + NO_DETAILS) * (other + NO_DETAILS)).sqrt())
    return torch.cat(found)


def _median(frames: Sequence[Tensor], tilts: Tensor | None = None) -> Tensor:
    """The median over time, (1, C, H, W), of some frames, without their tilts where these are known."""
    chosen = evenly(len(frames) - 1, min(len(frames), FIRST_REFERENCE))
    seen = [frames[i] if tilts is None else without_tilt(frames[i], tilts[i : i + 1]) for i in chosen]
    return torch.from_numpy(np.median(torch.cat(seen).cpu().numpy(), axis=0, keepdims=True)).to(frames[0])


def _shifts(frames: Sequence[Tensor]) -> Tensor:
    """How far each frame as a whole lies off the middle one, (N, 2) in whole pixels; zeros if the camera stood still.

    By the peak of their correlation. A shift that does not make a frame more like the middle one is none.
    """
    middle = _details(frames[len(frames) // 2])
    shape = tuple(2 * side for side in middle.shape[-2:])  # room for every shift
    spectrum = torch.fft.rfft2(middle, s=shape)
    shifts = middle.new_zeros(len(frames), 2)
    for index in range(len(frames)):
        details = _details(frames[index])
        place = int(torch.fft.irfft2(spectrum * torch.fft.rfft2(details, s=shape).conj(), s=shape).argmax())
        row, column = divmod(place, shape[1])
        moved = [(offset + side // 2) % side - side // 2 for offset, side in zip((row, column), shape, strict=True)]
        still, after = (_difference(details, middle, *shift) for shift in ((0, 0), moved))
        overlap = math.prod(1 - abs(shift) / side for shift, side in zip(moved, middle.shape[-2:], strict=True))
        if max(map(abs, moved)) >= LEAST_SHIFT and after < MORE_LIKE * overlap * still:
            shifts[index] = shifts.new_tensor(moved)
    return shifts - shifts.mean(dim=0)


def _details(frame: Tensor) -> Tensor:
    """Frames (B, 1, H, W) without what is too fine to agree under tilt, and too coarse to have a place."""
    return smoothed(frame, DETAILS[0]) - smoothed(frame, DETAILS[1])


def _difference(frame: Tensor, middle: Tensor, row: int, column: int) -> float:
    """Mean square of frame(p) - middle(p + shift), where both are."""
    height, width = frame.shape[-2:]
    here = frame[..., max(0, -row) : height - max(0, row), max(0, -column) : width - max(0, column)]
    there = middle[..., max(0, row) : height + min(0, row), max(0, column) : width + min(0, column)]
    return float((here - there).square().mean()) if here.numel() else math.inf


def _slope_energy(x: Tensor) -> Tensor:
    """The mean square of all slopes of (1, 1, H, W): (1,)."""
    smooth = smoothed(x, SHARPNESS_SCALE)
    return (smooth.diff(dim=-1).square().mean() + smooth.diff(dim=-2).square().mean())[None]


def _noise(sigma: float) -> float:
    return max(NOISE[0] * sigma, NOISE[1])


def _chunks(frames: Sequence[Tensor], pixels: int) -> Iterator[list[int]]:
    """The numbers of all frames, in order, a few at a time."""
    size = max(1, pixels // frames[0][0, 0].numel())
    for start in range(0, len(frames), size):
        yield list(range(start, min(start + size, len(frames))))
