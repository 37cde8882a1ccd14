"""Overlapping tiles over an image, and their seamless sum. Knows nothing of what is done inside a tile."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.errors import EstimationError


@dataclass(frozen=True)
class Tile:
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def within(self, region: "Tile") -> "Tile":
        """This tile of a part of an image as one of the whole image."""
        return replace(self, top=region.top + self.top, left=region.left + self.left)

    def of(self, image: Tensor) -> Tensor:
        """The part (..., height, width) of an image that lies under the tile; a view, not a copy."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]


def grid(height: int, width: int, side: int, overlap: int) -> list[Tile]:
    """Tiles of at most `side` x `side` pixels, neighbours overlapping by at least `overlap`, row by row.

    All tiles have the same size, so that a network sees no odd remainders: the overlap is spread evenly instead.
    """
    rows, columns = _starts(height, side, overlap), _starts(width, side, overlap)
    return [Tile(top, left, min(side, height), min(side, width)) for top in rows for left in columns]


def spread(height: int, width: int, rows: int, columns: int, side: int, overlap: int = 0) -> list[Tile]:
    """So many tiles, row by row, that cover an image evenly, neighbours overlapping by at least `overlap`.

    All have the same size: at least `side` x `side` pixels, and no more than that takes.
    """
    high = max(side, -(-(height + (rows - 1) * overlap) // rows))
    wide = max(side, -(-(width + (columns - 1) * overlap) // columns))
    tops, lefts = evenly(height - high, rows), evenly(width - wide, columns)
    return [Tile(top, left, high, wide) for top in tops for left in lefts]


def _starts(extent: int, side: int, overlap: int) -> list[int]:
    if extent <= side:
        return [0]
    number = 1 + -(-(extent - side) // (side - overlap))
    return evenly(extent - side, number)


def evenly(last: int, number: int) -> list[int]:
    """So many positions from 0 to the last; a single one is 0."""
    return [round(index * last / max(1, number - 1)) for index in range(number)]


@dataclass
class Tiling:
    """How an image is worked on in tiles; where memory does not suffice for one, in smaller ones from there on.

    Attributes:
        side: of the largest tile, in pixels.
        overlap: of neighbours, at least; less than side.
        rim: see `bands`.
        exact: whether tiles have that side even where as many smaller ones suffice.
    """

    side: int
    overlap: int
    rim: int
    exact: bool = False

    def tiles(self, height: int, width: int) -> list[Tile]:
        """The tiles of an image, before any turns out to be too large."""
        if self.exact:
            return grid(height, width, self.side, self.overlap)
        rows, columns = (len(_starts(extent, self.side, self.overlap)) for extent in (height, width))
        return spread(height, width, rows, columns, 1, self.overlap)

    def bands(self, height: int, width: int, work: Callable[[int, Tile], Tensor]) -> Iterator[tuple[int, Tensor]]:
        """The image that `work`, which knows what is done there, makes tile by tile, as `bands` yields it.

        Args:
            height, width: of the image.
            work: makes (1, C, h, w) of a tile, given the number of the tile that it is, or is a part of.

        Raises EstimationError where memory does not even suffice for tiles that consist of little but overlap.
        """
        tiles = self.tiles(height, width)
        pieces = ((tile, self._attempt(tile, partial(work, index))) for index, tile in enumerate(tiles))
        return bands(pieces, height, width, self.rim)

    def _attempt(self, tile: Tile, work: Callable[[Tile], Tensor]) -> Tensor:
        if max(tile.height, tile.width) <= self.side:
            try:
                return work(tile)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
            self.side = max(tile.height, tile.width) // 2  # and the memory is free again, now that the error is gone
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self.side <= self.overlap:
                raise EstimationError("There is too little memory, even for small tiles. Close other programs.")
        parts = grid(tile.height, tile.width, self.side, self.overlap)
        pieces = ((part, self._attempt(part.within(tile), work)) for part in parts)
        return blend(pieces, tile.height, tile.width, self.rim)


def _is_out_of_memory(error: Exception) -> bool:
    """Of a GPU, of NumPy, or of PyTorch on a CPU, which has no type of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def blend(pieces: Iterable[tuple[Tile, Tensor]], height: int, width: int, rim: int = 0) -> Tensor:
    """One image (B, C, height, width) of restored tiles: see `bands`."""
    finished = [band for _, band in bands(pieces, height, width, rim)]
    if not finished:
        raise ValueError("there are no tiles to blend")
    return torch.cat(finished, dim=-2)


def bands(pieces: Iterable[tuple[Tile, Tensor]], height: int, width: int, rim: int = 0) -> Iterator[tuple[int, Tensor]]:
    """The image of restored tiles, each fading into its neighbours over their overlap, as it is finished.

    No more of it is held than the tiles of one row.

    Args:
        pieces: tiles with their pixels (B, C, h, w), row by row; together they cover the image.
        height, width: of the image.
        rim: pixels along a tile's edge inside the image that count for nothing, because the tile knew too little
            there; less than half of the overlap.

    Yields:
        the first row and the pixels (B, C, h, width) of each band, from top to bottom.
    """
    top = 0
    total = weights = torch.empty(0)
    for tile, pixels in pieces:
        if not total.numel():
            total = pixels.new_zeros(*pixels.shape[:2], tile.height, width)
            weights = pixels.new_zeros(1, 1, tile.height, width)
        if done := tile.top - top:
            yield top, total[..., :done, :] / weights[..., :done, :]
            total, weights = (F.pad(kept[..., done:, :], (0, 0, 0, done)) for kept in (total, weights))
            top = tile.top
        rows = _ramp(tile.top, tile.height, height, rim).to(pixels)
        columns = _ramp(tile.left, tile.width, width, rim).to(pixels)
        weight = rows[:, None] * columns[None]
        here = Tile(0, tile.left, tile.height, tile.width)
        here.of(total).add_(weight * pixels)
        here.of(weights).add_(weight)
    if total.numel():
        yield top, total / weights


def _ramp(start: int, length: int, extent: int, rim: int) -> Tensor:
    """Weights along one side: rising from the rim to the middle, but flat towards an edge of the image itself."""
    positions = torch.arange(length, dtype=torch.float32)
    before = positions - rim + 0.5 if start > 0 else torch.full((length,), float(length))
    after = length - positions - rim - 0.5 if start + length < extent else torch.full((length,), float(length))
    return torch.minimum(before, after).clamp(min=1e-6)
