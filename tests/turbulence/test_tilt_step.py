"""The tilt of frames, found again from an image and from the frames alone."""

import torch
from torch.nn import functional as F

from blinddeblur.physics.tilt import enlarged, inverse, warp
from blinddeblur.priors.kolmogorov import KolmogorovTilt
from blinddeblur.turbulence.tilt_step import CELL, tilt_step

SIGMA = 0.01
PRIOR = KolmogorovTilt(2.0, 12.0)


def _scene(generator: torch.Generator, channels: int, height: int, width: int) -> torch.Tensor:
    """Texture at several scales, as wide as a slightly blurred photo's."""
    x = torch.zeros(1, channels, height, width)
    for reach in (1, 3, 9):
        white = torch.randn(1, channels, height + 4 * reach, width + 4 * reach, generator=generator)
        for _ in range(2):
            white = F.avg_pool2d(white, 2 * reach + 1, 1)
        x += reach * white
    return 0.5 + 0.15 * x


def _error(tilt: torch.Tensor, truth: torch.Tensor) -> float:
    """Root mean square of the length, in pixels, without a rim."""
    difference = (enlarged(tilt, *truth.shape[-2:], CELL) - truth)[..., 8:-8, 8:-8]
    return float(difference.square().sum(dim=1).mean().sqrt())


def test_a_known_image_tells_the_tilt_of_each_frame() -> None:
    generator = torch.Generator().manual_seed(3)
    for channels, height, width in ((1, 96, 96), (3, 70, 101)):  # the second is no whole number of cells
        z = _scene(generator, channels, height + 40, width + 40)
        truth = PRIOR.sample(3, height, width, generator)
        frames = warp(z, truth)
        frames = frames + SIGMA * torch.randn(frames.shape, generator=generator)
        tilt = torch.zeros(3, 2, -(-height // CELL), -(-width // CELL))
        for _ in range(4):
            tilt = tilt_step(z, frames, tilt, PRIOR, SIGMA)
        assert _error(torch.zeros_like(tilt), truth) > 1
        assert _error(tilt, truth) < 0.25


def test_where_nothing_is_seen_the_tilt_is_what_is_most_probable() -> None:
    flat = torch.full((1, 1, 80, 80), 0.5)
    frames = flat + SIGMA * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    start = 7 + torch.rand(1, 2, 20, 20, generator=torch.Generator().manual_seed(1))
    tilt = tilt_step(flat, frames, start, PRIOR, SIGMA)
    shift = start.flatten(2).median(dim=2).values[:, :, None, None]  # nothing speaks against one of the whole frame
    assert torch.equal(tilt, shift.expand_as(tilt))


def test_something_that_moved_by_itself_hardly_counts() -> None:
    generator = torch.Generator().manual_seed(4)
    z = _scene(generator, 1, 136, 136)
    truth = PRIOR.sample(1, 96, 96, generator)
    frames = warp(z, truth)
    frames[..., 40:56, 40:56] = torch.rand(16, 16, generator=generator)
    tilt = torch.zeros(1, 2, 24, 24)
    for _ in range(4):
        tilt = tilt_step(z, frames, tilt, PRIOR, SIGMA)
    assert _error(tilt, truth) < 0.35


def test_frames_among_themselves_tell_how_they_differ() -> None:
    generator = torch.Generator().manual_seed(5)
    z = _scene(generator, 1, 136, 136)
    truth = PRIOR.sample(8, 96, 96, generator)
    frames = warp(z, truth)
    frames = frames + SIGMA * torch.randn(frames.shape, generator=generator)
    tilt = torch.zeros(8, 2, 24, 24)
    image = frames.median(dim=0, keepdim=True).values
    for _ in range(4):
        for _ in range(2):
            tilt = tilt_step(image, frames, tilt, PRIOR, SIGMA)
        tilt = tilt - tilt.mean(dim=0)
        image = warp(frames, inverse(enlarged(tilt, 96, 96, CELL))).mean(dim=0, keepdim=True)
    relative = truth - truth.mean(dim=0)
    assert _error(tilt, relative) < 0.5 * _error(torch.zeros_like(tilt), relative)
