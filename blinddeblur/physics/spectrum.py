"""How the power of a picture is spread over frequencies, all directions together: what a round blur changes."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from blinddeblur.tiles import grid

WINDOW = 256  # pixels a side of the windows whose spectra are averaged
BANDS = 20  # evenly spaced in log frequency
LOWEST, HIGHEST = 0.015, 0.5  # cycles per pixel: four periods in a window, and the band of the pixel grid


def radial_power(y: Tensor) -> Tensor:
    """(BANDS,), on the CPU: the power spectral density of a picture (1, 1, H, W), per pixel, under a Hann window.

    White noise of standard deviation s has s^2 in all bands. A band that a small picture has no frequency in is not
    a number.
    """
    height, width = (min(WINDOW, side) for side in y.shape[-2:])
    window = torch.outer(*(torch.hann_window(side, periodic=False, device=y.device) for side in (height, width)))
    total = y.new_zeros(height, width // 2 + 1)
    tiles = grid(y.shape[-2], y.shape[-1], WINDOW, WINDOW // 2)
    for tile in tiles:
        part = tile.of(y)[0, 0]
        total += torch.fft.rfft2((part - part.mean()) * window).abs().square() / window.square().sum()
    return _mean_of_bands(total / len(tiles), width)


def radial_transfer(kernel: Tensor) -> Tensor:
    """(BANDS,), on the CPU: the squared modulus of the transfer function of a (K, K) kernel."""
    return _mean_of_bands(torch.fft.rfft2(kernel, s=(WINDOW, WINDOW)).abs().square(), WINDOW)


def frequencies() -> Tensor:
    """(BANDS,): the middle of each band, in cycles per pixel."""
    edges = _edges()
    return (edges[1:] * edges[:-1]).sqrt()


def counts(height: int, width: int) -> Tensor:
    """(BANDS,): how many frequencies a picture has in each band."""
    rows, columns = min(WINDOW, height), min(WINDOW, width)
    return torch.bincount(_bands(rows, columns).flatten() + 1, minlength=BANDS + 1)[1:].float()


def _mean_of_bands(power: Tensor, width: int) -> Tensor:
    """The power (H, width // 2 + 1) of a real transform averaged in bands: (BANDS,).

    On the CPU, since Apple's GPUs have no double precision.
    """
    bands = _bands(power.shape[0], width).flatten() + 1
    sums = torch.bincount(bands, weights=power.cpu().flatten().double(), minlength=BANDS + 1)[1:]
    return (sums / torch.bincount(bands, minlength=BANDS + 1)[1:]).float()


def _edges() -> Tensor:
    return torch.logspace(math.log10(LOWEST), math.log10(HIGHEST), BANDS + 1)


@lru_cache(maxsize=4)
def _bands(height: int, width: int) -> Tensor:
    """The band of each frequency of a real transform, from 0; -1 for those outside of all."""
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    bands = torch.bucketize(frequency, _edges(), right=True) - 1
    return torch.where(bands < BANDS, bands, -1)
