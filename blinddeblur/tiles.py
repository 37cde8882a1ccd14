"""Overlapping tiles over an image, and their seamless sum. Knows nothing of what is done inside a tile."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: Tensor) -> Tensor:
        """The part (..., height, width) of an image that lies under the tile; a view, not a copy."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]


def grid(height: int, width: int, side: int, overlap: int) -> list[Tile]:
    """Tiles of at most `side` x `side` pixels, neighbours overlapping by at least `overlap`, row by row.

    All tiles have the same size, so that a network sees no odd remainders: the overlap is spread evenly instead.
    """
    rows, columns = _starts(height, side, overlap), _starts(width, side, overlap)
    return [Tile(top, left, min(side, height), min(side, width)) for top in rows for left in columns]


def _starts(extent: int, side: int, overlap: int) -> list[int]:
    if extent <= side:
        return [0]
    number = 1 + -(-(extent - side) // (side - overlap))
    return [round(index * (extent - side) / (number - 1)) for index in range(number)]


def blend(pieces: Iterable[tuple[Tile, Tensor]], height: int, width: int, rim: int = 0) -> Tensor:
    """One image (1, C, height, width) of restored tiles, each fading into its neighbours over their overlap.

    Args:
        pieces: tiles with their pixels (1, C, h, w); together they cover the image.
        height, width: of the image.
        rim: pixels along a tile's edge inside the image that count for nothing, because the tile knew too little
            there; at most a third of the overlap.
    """
    total: Tensor | None = None
    for tile, pixels in pieces:
        if total is None:
            total = pixels.new_zeros(1, pixels.shape[1], height, width)
            weights = pixels.new_zeros(1, 1, height, width)
        rows = _ramp(tile.top, tile.height, height, rim).to(pixels)
        columns = _ramp(tile.left, tile.width, width, rim).to(pixels)
        weight = rows[:, None] * columns[None]
        tile.of(total).add_(weight * pixels)
        tile.of(weights).add_(weight)
    if total is None:
        raise ValueError("there are no tiles to blend")
    return total / weights


def _ramp(start: int, length: int, extent: int, rim: int) -> Tensor:
    """Weights along one side: rising from the rim to the middle, but flat towards an edge of the image itself."""
    positions = torch.arange(length, dtype=torch.float32)
    before = positions - rim + 0.5 if start > 0 else torch.full((length,), float(length))
    after = length - positions - rim - 0.5 if start + length < extent else torch.full((length,), float(length))
    return torch.minimum(before, after).clamp(min=1e-6)
