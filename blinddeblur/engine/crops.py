"""Where to look: the parts of a photo that tell most of its blur."""

from torch import Tensor

from blinddeblur.engine.pixels import Pixels
from blinddeblur.errors import UsageError
from blinddeblur.physics.measurement import cut_off
from blinddeblur.tiles import Tile, grid, spread

MOST_CROPS = 100  # parts that are compared, spread over the photo


def informative_crop(photo: Pixels, side: int, region: Tile | None = None) -> Tile:
    """The part of a photo that tells most of its blur: edges in all directions, nothing clipped.

    Args:
        photo: to look at.
        side: of the square, in pixels.
        region: of the photo in which to look, by default all of it; where it is smaller, it is taken whole.
    """
    region = region or Tile(0, 0, photo.height, photo.width)
    candidates = grid(region.height, region.width, side, overlap=side // 2)
    thinned = candidates[:: -(-len(candidates) // MOST_CROPS)]
    moved = [tile.within(region) for tile in thinned]
    return max(moved, key=lambda tile: _information(photo.of(tile))) if len(moved) > 1 else moved[0]


def informative_regions(photo: Pixels, rows: int, columns: int, side: int) -> list[Tile]:
    """The most telling square of `side` pixels in each of so many parts that cover the photo evenly."""
    side = min(side, photo.height, photo.width)
    parts = spread(photo.height, photo.width, rows, columns, side)
    return [informative_crop(photo, side, part) for part in parts]


def asked_region(crop: tuple[int, int, int, int], photo: Pixels) -> Tile:
    """The tile of x, y, width and height. Raises UsageError where it reaches beyond the photo."""
    left, top, width, height = crop
    if left + width > photo.width or top + height > photo.height:
        raise UsageError(
            f"The crop {left},{top},{width},{height} reaches beyond the photo, which is {photo.width}x{photo.height}."
        )
    return Tile(top, left, height, width)


def _information(y: Tensor) -> float:
    """The smaller eigenvalue of the structure tensor of (1, C, H, W): texture in one direction leaves the blur open."""
    grey = y.mean(dim=1)[0]
    usable = ~cut_off(y).any(dim=1)[0]
    across = (grey[:-1, 1:] - grey[:-1, :-1]) * usable[:-1, :-1]
    down = (grey[1:, :-1] - grey[:-1, :-1]) * usable[:-1, :-1]
    xx, yy, xy = (float((a * b).sum()) for a, b in ((across, across), (down, down), (across, down)))
    return (xx + yy) / 2 - (((xx - yy) / 2) ** 2 + xy**2) ** 0.5
