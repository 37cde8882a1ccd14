"""Tiles cover the image, and blending them gives it back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blinddeblur.tiles import blend, grid

extents = st.integers(16, 150)


@given(extents, extents, st.integers(20, 64), st.integers(2, 18))
@settings(max_examples=50, deadline=None)
def test_tiles_cover_and_overlap(height: int, width: int, side: int, overlap: int) -> None:
    tiles = grid(height, width, side, overlap)
    assert {(t.height, t.width) for t in tiles} == {(min(side, height), min(side, width))}
    for start, length, extent in (("top", "height", height), ("left", "width", width)):
        starts = sorted({getattr(t, start) for t in tiles})
        ends = [s + min(side, extent) for s in starts]
        assert starts[0] == 0
        assert ends[-1] == extent
        assert all(end - following >= overlap for end, following in zip(ends, starts[1:], strict=False)), length


@given(extents, extents, st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_blending_the_tiles_of_an_image_gives_it_back(height: int, width: int, rim: int) -> None:
    image = torch.rand(1, 3, height, width)
    whole = blend(((t, t.of(image)) for t in grid(height, width, 40, 10)), height, width, rim)
    torch.testing.assert_close(whole, image)


def test_the_rim_of_a_tile_does_not_count() -> None:
    image = torch.zeros(1, 1, 40, 100)
    pieces = []
    for tile in grid(40, 100, 60, 20):
        pixels = tile.of(image).clone()
        if tile.left:
            pixels[..., :5] = 1
        else:
            pixels[..., -5:] = 1
        pieces.append((tile, pixels))
    assert blend(pieces, 40, 100, rim=5).max() < 1e-4
    assert blend(pieces, 40, 100, rim=0).max() > 0.05


def test_neighbours_fade_into_each_other() -> None:
    tiles = grid(40, 100, 60, 20)
    whole = blend(((t, torch.full((1, 1, 40, 60), float(i))) for i, t in enumerate(tiles)), 40, 100)
    assert whole[0, 0, 20].diff().abs().max() < 0.06


def test_no_tiles() -> None:
    with pytest.raises(ValueError, match="no tiles"):
        blend([], 10, 10)
