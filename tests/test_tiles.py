"""Tiles cover the image, and blending them gives it back."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blinddeblur.errors import EstimationError
from blinddeblur.samplers.white_noise import white_noise
from blinddeblur.tiles import Tile, Tiling, bands, blend, grid

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


@given(extents, extents, st.integers(20, 64), st.integers(2, 18), st.booleans())
@settings(max_examples=50, deadline=None)
def test_tiles_of_a_tiling_are_no_larger_than_they_need_to_be(
    height: int, width: int, side: int, overlap: int, exact: bool
) -> None:
    tiles = Tiling(side, overlap, 0, exact).tiles(height, width)
    whole = grid(height, width, side, overlap)
    assert len(tiles) == len(whole)
    (high, wide), *others = {(t.height, t.width) for t in tiles}
    assert not others
    for start, length, extent in (("top", high, height), ("left", wide, width)):
        starts = sorted({getattr(t, start) for t in tiles})
        assert starts[0] == 0
        assert starts[-1] + length == extent
        assert all(following - before <= length - overlap for before, following in itertools.pairwise(starts))
        needed = -(-(extent + (len(starts) - 1) * overlap) // len(starts))
        assert length == (min(side, extent) if exact else needed) <= side


@given(extents, extents, st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_blending_the_tiles_of_images_gives_them_back(height: int, width: int, rim: int) -> None:
    images = torch.rand(2, 3, height, width)
    whole = blend(((t, t.of(images)) for t in grid(height, width, 40, 10)), height, width, rim)
    torch.testing.assert_close(whole, images)


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


def test_bands_come_as_soon_as_they_are_finished() -> None:
    image = torch.rand(1, 3, 150, 70)
    begun = []

    def pieces():  # type: ignore[no-untyped-def]
        for tile in grid(150, 70, 40, 10):
            begun.append(tile.top)
            yield tile, tile.of(image)

    rows = 0
    for top, band in bands(pieces(), 150, 70):
        assert top == rows
        assert max(begun) <= top + band.shape[-2]
        torch.testing.assert_close(band, image[..., top : top + band.shape[-2], :])
        rows += band.shape[-2]
    assert rows == 150


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_tiles_are_halved_where_memory_ends(error: Exception) -> None:
    image, sides = torch.rand(1, 3, 230, 150), []

    def work(index: int, tile: Tile) -> torch.Tensor:
        sides.append(max(tile.height, tile.width))
        if sides[-1] > 40:
            raise error
        return tile.of(image)

    whole = torch.cat([band for _, band in Tiling(120, 10, 2).bands(230, 150, work)], dim=-2)
    torch.testing.assert_close(whole, image)  # no tile is passed over
    assert sides[:3] == [120, 60, 30]
    assert max(sides[3:]) <= 30  # what was too large is not tried again


def test_too_little_memory_for_any_tile() -> None:
    def work(index: int, tile: Tile) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(EstimationError, match="too little memory"):
        list(Tiling(120, 10, 2).bands(200, 150, work))


def test_other_errors_are_no_lack_of_memory() -> None:
    def work(index: int, tile: Tile) -> torch.Tensor:
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        list(Tiling(120, 10, 2).bands(200, 150, work))


@given(st.integers(-100, 100), st.integers(-100, 100), st.integers(1, 90), st.integers(1, 150))
@settings(max_examples=50, deadline=None)
def test_noise_belongs_to_places(top: int, left: int, height: int, width: int) -> None:
    whole = white_noise((1, 2), -120, -120, (3, 320, 380))
    part = white_noise((1, 2), top, left, (3, height, width))
    assert torch.equal(part, Tile(top + 120, left + 120, height, width).of(whole))


def test_noise_is_white() -> None:
    noise, other = (white_noise((7, key), -30, 40, (3, 400, 400)) for key in (0, 1))
    assert noise.mean().abs() < 0.01
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert (noise * noise.roll(64, dims=-1)).mean().abs() < 0.01
    assert (noise * other).mean().abs() < 0.01
