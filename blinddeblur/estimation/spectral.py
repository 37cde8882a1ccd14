"""How likely a kernel makes the power spectrum of a photo, whatever the sharp photo is. It needs no restoration.

With the spectrum S_c of the sharp photo (priors/photo_spectra.py), the photo y = k * x + n has the spectrum
M = S_c (|K|^2 + e^2) + sigma^2, where e is how far the photo departs from one exact kernel, and its periodogram P has
Whittle's (1953) likelihood

    log p(y | k) = max over c, e of  -1/2 sum_f [P / M + ln M] - 1/2 (c - mu)' T C^-1 (c - mu).

It is blind to phase, but knows blur when it sees it: Levin et al. (CVPR 2009, 2011) asked to marginalise over the
image; spectra for blur go back to Goldstein and Fattal (ECCV 2012).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blinddeblur.physics.measurement import cut_off
from blinddeblur.priors.photo_spectra import SIZE, PhotoSpectra, basis, frequencies, law
from blinddeblur.tiles import Tile, grid

SIDES = (224, 112, 56)  # pixels of the windows whose periodograms are averaged: the largest without clipped pixels
MOST_CLIPPED = 0.02  # share of clipped pixels in a window that has a say
LEAST_CONTRAST = 0.5  # of that of the middle one: windows with less are flat
DEPARTURES = (0.05, 0.1, 0.2)  # e: nearly exact kernels, and those of compressed or sharpened photos and varying blur
THINNED = 7  # of so many frequencies one, for the first steps
FIRST_STEPS, STEPS = 8, 5  # of Fisher scoring: on those for each departure, and on all for the likeliest
RINGS, RAYS = 24, 16  # polar cells over which the curvature is gathered; gradient and value are exact
LARGEST_MOVE = 2.0  # of a coefficient in a step: from far below, a step ends far above, whence the way back is long
SMALLEST_STEP = 0.05  # of a move that is halved until it gains
ENOUGH = 1e-6  # of the value, that a step has to gain for another to follow


@dataclass(frozen=True)
class Periodogram:
    """What the likelihood needs of a photo.

    Attributes:
        power: (F,), the windowed power spectrum at the frequencies that count.
        places: (F,), where these lie in the flattened real transform of a window.
        weights: (F,), how many frequencies of the whole plane each stands for: 2, or 1 in the first and last column.
        basis: (F, SIZE), law: (F,), of the prior.
        cells: (F,), the polar cell of each, and of each cell (C, SIZE) the mean basis.
        shape: (H, W) of a window.
    """

    power: Tensor
    places: Tensor
    weights: Tensor
    basis: Tensor
    law: Tensor
    cells: Tensor
    cell_basis: Tensor
    shape: tuple[int, int]

    def passed(self, kernel: Tensor) -> Tensor:
        """(F,): the share |K|^2 of the power that a kernel (K, K) lets through, of any size."""
        height, width = self.shape
        rows, columns = (-(-kernel.shape[-1] // side) for side in (height, width))
        padded = kernel.new_zeros(rows * height, columns * width)
        padded[: kernel.shape[-2], : kernel.shape[-1]] = kernel / kernel.sum()
        folded = padded.reshape(rows, height, columns, width).sum(dim=(0, 2))  # as the frequencies of a window see it
        return torch.fft.rfft2(folded).abs().square().flatten()[self.places]

    def thinned(self, by: int) -> "Periodogram":
        """Every `by`-th frequency, which stands for the others."""
        names = ("power", "places", "basis", "law", "cells")
        return replace(self, **{name: getattr(self, name)[::by] for name in names}, weights=by * self.weights[::by])


def periodogram(y: Tensor) -> Periodogram:
    """The mean periodogram of those windows of a grey photo (1, 1, H, W) that have texture and no clipped pixels."""
    tiles = _telling(y)
    height, width = tiles[0].height, tiles[0].width
    window = torch.outer(*(torch.hann_window(side, periodic=False) for side in (height, width))).to(y)
    window = window / window.square().mean().sqrt()
    parts = torch.cat([tile.of(y) for tile in tiles])[:, 0]
    parts = (parts - (parts * window).sum(dim=(1, 2), keepdim=True) / window.sum()) * window
    power = torch.fft.rfft2(parts).abs().square().mean(dim=0) / (height * width)

    length, angle = frequencies(height, width)
    weights = torch.full_like(length, 2.0)
    weights[:, 0] = 1
    if width % 2 == 0:
        weights[:, -1] = 1
    places = (length >= 1.5 / max(height, width)).flatten().nonzero()[:, 0]  # below, there is but the window's mean
    length, angle, weights = (values.flatten()[places] for values in (length, angle, weights))
    rows, cells = basis(length, angle), _cells(length, angle)
    sums = torch.zeros(RINGS * RAYS, SIZE).index_add_(0, cells, rows)
    mean = sums / torch.bincount(cells, minlength=RINGS * RAYS).clamp_min(1)[:, None]
    places, weights, rows, laws, cells, mean = (
        t.to(y.device) for t in (places, weights, rows, law(length), cells, mean)
    )
    return Periodogram(power.flatten()[places], places, weights, rows, laws, cells, mean, (height, width))


def log_likelihood(
    seen: Periodogram, kernels: Sequence[Tensor], sigma: float, prior: PhotoSpectra
) -> tuple[Tensor, Tensor]:
    """How likely each kernel makes the spectrum, (M,), in nats a pixel up to a constant, and the departure e, (M,).

    Args:
        seen: of the photo.
        kernels: each (K, K), of any sizes.
        sigma: standard deviation of its noise, rounding included.
        prior: of sharp photos.
    """
    passed = torch.stack([seen.passed(kernel) for kernel in kernels])
    few = seen.thinned(THINNED)
    found: list[tuple[Tensor, Tensor]] = []
    start = prior.mean.expand(len(kernels), -1)
    for departure in DEPARTURES:
        _, start = fitted(few, passed[:, ::THINNED] + departure**2, sigma**2, prior, start, FIRST_STEPS)
        found.append((fitted(seen, passed + departure**2, sigma**2, prior, start, 0)[0], start))
    values, likeliest = torch.stack([value for value, _ in found]).max(dim=0)
    start = torch.stack([c for _, c in found])[likeliest, torch.arange(len(kernels), device=values.device)]
    departures = passed.new_tensor(DEPARTURES)[likeliest]
    values, _ = fitted(seen, passed + departures[:, None] ** 2, sigma**2, prior, start, STEPS)
    return values / (seen.shape[0] * seen.shape[1]), departures


def fitted(
    seen: Periodogram, passed: Tensor, variance: float, prior: PhotoSpectra, start: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Fisher scoring: the largest log posterior (N,) in nats, and its coefficients (N, SIZE).

    Args:
        seen: of the photo.
        passed: (N, F), the shares of the power that got through to the photo.
        variance: of its noise.
        prior: of the coefficients.
        start: (N, SIZE).
        steps: at most.
    """
    c = start

    def model(c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spectrum = (seen.law + c @ seen.basis.T).clamp(-40, 40).exp() * passed
        total = spectrum + variance
        whittle = -0.5 * ((seen.power / total + total.log()) @ seen.weights)
        far = c - prior.mean
        return whittle - 0.5 * ((far @ prior.precision) * far).sum(dim=1), spectrum / total, total

    best, share, total = model(c)
    for _ in range(steps):
        gradient = (
            0.5 * ((seen.weights * (seen.power / total - 1) * share) @ seen.basis) - (c - prior.mean) @ prior.precision
        )
        gathered = passed.new_zeros(len(passed), len(seen.cell_basis))
        gathered.index_add_(1, seen.cells, seen.weights * share.square())
        curvature = (seen.cell_basis.T * gathered[:, None]) @ seen.cell_basis
        hessian = 0.5 * curvature + prior.precision
        move = torch.linalg.solve(hessian.double(), gradient.double()).to(passed)
        move = move * (LARGEST_MOVE / move.abs().amax(dim=1, keepdim=True)).clamp_max(1)
        step = torch.ones_like(best)
        while True:
            value, new_share, new_total = model(c + step[:, None] * move)
            worse = (value <= best) & (step > 0)
            if not worse.any():
                break
            step = torch.where(worse, torch.where(step / 2 > SMALLEST_STEP, step / 2, 0), step)
        c = c + step[:, None] * move
        gained = value - best
        best, share, total = value, new_share, new_total
        if bool((gained < ENOUGH * best.abs()).all()):
            break
    return best, c


def _telling(y: Tensor) -> list[Tile]:
    """The windows of a photo that have texture and no clipped pixels; all of the largest where there are none."""
    clipped = cut_off(y).float()
    for side in SIDES:
        tiles = grid(y.shape[-2], y.shape[-1], side, side // 2)
        contrast = torch.stack([tile.of(y).std() for tile in tiles])
        lost = torch.stack([tile.of(clipped).mean() for tile in tiles])
        good = (contrast >= LEAST_CONTRAST * contrast.median()) & (lost < MOST_CLIPPED)
        if good.any():
            return [tile for tile, fine in zip(tiles, good.tolist(), strict=True) if fine]
    return grid(y.shape[-2], y.shape[-1], SIDES[0], SIDES[0] // 2)


def _cells(length: Tensor, angle: Tensor) -> Tensor:
    """The polar cell of each frequency."""
    low, high = length.min().log(), length.max().log()
    ring = ((length.log() - low) / (high - low) * RINGS).long().clamp(0, RINGS - 1)
    ray = ((angle / torch.pi + 0.5) * RAYS).long().clamp(0, RAYS - 1)
    return ring * RAYS + ray
