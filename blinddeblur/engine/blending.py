"""One photo from several restorations: where they disagree, back towards the photo; and how far it can be trusted.

Kernels that are all probable make restorations that differ most where each is wrong in its own way. There their mean is
softer than each, and the photo itself is one more answer, wrong in a way that is known.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blinddeblur.engine.pixels import Pixels
from blinddeblur.physics.convolution import local_mean, local_variance
from blinddeblur.tiles import Tile

WAYS = 2  # that a photo is blended of: a third gains little more and costs as much as the first
LEAST_SHARE = 0.15  # of a way that is gone
WINDOW = 15  # pixels over which disagreement and change are averaged
# The variance of the error: so many times that of the ways, and such shares of that of the restored photo, for an error
# that all ways have in common and for one that is doubted. Likeliest on 55 training photos under errors with the tails
# of a Student t of 12 degrees: some photos' kernels are wrong, and those of a normal error blur the map of all others.
SPREAD, SHARED, DOUBTED, FLOOR = 13.0, 0.17, 0.53, 0.004
BAND = 512  # rows that are worked on at a time

Ways = Sequence[tuple[Pixels, float]]  # restorations of a photo, and how probable each is


def blended(photo: Pixels, ways: Ways) -> Pixels:
    """The mean of restorations, drawn towards the photo by how much they differ against how much they change it."""
    result = photo.like()
    for tile, inner in _bands(photo):
        y, (mean, spread) = photo.of(tile), _together(ways, tile)
        change = _local((mean - y).square())
        kept = change / (change + spread + 1e-9)
        result.write(tile.top + inner.start, (y + kept * (mean - y))[..., inner, :])
    return result


def uncertainty(photo: Pixels, restored: Pixels, ways: Ways, doubt: float) -> NDArray[np.float32]:
    """The standard deviation of the error that is expected of a restored photo, in its shape, without any sample.

    Args:
        photo: that was restored.
        restored: what came of it.
        ways: that it is blended of, and more; none for a photo that came back unchanged.
        doubt: of what came of it, from 0 to 1.
    """
    rows = []
    for tile, inner in _bands(photo):
        _, spread = _together(ways or [(restored, 1.0)], tile)
        contrast = local_variance(restored.of(tile), WINDOW).mean(dim=1, keepdim=True)
        variance = SPREAD * spread + (SHARED + DOUBTED * doubt) * contrast + FLOOR**2
        rows.append(variance.sqrt().expand(-1, photo.channels, -1, -1)[..., inner, :].cpu())
    return photo.shaped(torch.cat(rows, dim=-2)[0])


def _together(ways: Ways, tile: Tile) -> tuple[Tensor, Tensor]:
    """Under a tile: the mean of the ways, (1, C, h, w), and the local mean of their variance, (1, 1, h, w)."""
    images = torch.cat([restored.of(tile) for restored, _ in ways])
    shares = images.new_tensor([share for _, share in ways])
    weights = (shares / shares.sum())[:, None, None, None]
    mean = (weights * images).sum(dim=0, keepdim=True)
    return mean, _local((weights * (images - mean).square()).sum(dim=0, keepdim=True))


def _bands(photo: Pixels) -> Iterator[tuple[Tile, slice]]:
    """Bands of rows with what a window reaches beyond them, and which of their rows they are for."""
    for top in range(0, photo.height, BAND):
        first, last = max(0, top - WINDOW), min(photo.height, top + BAND + WINDOW)
        yield Tile(first, 0, last - first, photo.width), slice(top - first, min(photo.height, top + BAND) - first)


def _local(squares: Tensor) -> Tensor:
    """The local mean over all channels, (1, 1, h, w)."""
    return local_mean(squares.mean(dim=1, keepdim=True), WINDOW)
