"""Before, after and kernel in one picture."""

import numpy as np
import pytest
from scenes import sharp, streak

from blinddeblur.pictures.canvas import GAP
from blinddeblur.pictures.comparison import LINE, compare, drawn

KERNEL = np.array([[0, 0, 0], [0.1, 0.4, 0.3], [0, 0, 0.2]], np.float32)


def test_photos_and_kernel_stand_side_by_side() -> None:
    before, after = sharp(30, 50, 3), sharp(30, 50, 3, seed=1)
    picture = compare(before, after, KERNEL)
    assert picture.dtype == np.uint8
    assert picture.shape == (30, 50 + GAP + 50 + GAP + 30, 3)
    assert np.array_equal(picture[:, :50], np.rint(255 * before))
    assert np.array_equal(picture[:, 50 + GAP : 100 + GAP], np.rint(255 * after))
    assert (picture[:, 50 : 50 + GAP] == 255).all()
    shown = picture[:, -30:].reshape(3, 10, 3, 10, 3)  # each pixel of the kernel is a square of ten
    assert (shown == shown[:, :1, :, :1]).all()
    assert shown[:, 0, :, 0, 0].tolist() == [[0, 0, 0], [64, 255, 191], [0, 0, 128]]


@pytest.mark.parametrize(("height", "width"), [(3000, 40), (40, 3000), (1200, 800)])
def test_large_photos_are_shrunk_and_never_stretched(height: int, width: int) -> None:
    photo = np.full((height, width, 1), 0.5, np.float32)
    picture = compare(photo, photo, streak(), side=120)
    scale = 120 / max(height, width)
    shown = (round(scale * height), round(scale * width))
    grey = picture[..., 0] == 128
    assert picture.shape[2] == 1
    assert (grey.any(axis=1).sum(), grey[:, : shown[1] + GAP].any(axis=0).sum()) == shown


def test_a_kernel_larger_than_the_shrunk_photo_keeps_all_its_pixels() -> None:
    photo = np.zeros((40, 3000, 3), np.float32)
    picture = compare(photo, photo, np.eye(31), side=120)
    assert picture.shape == (31, 120 + GAP + 120 + GAP + 31, 3)
    assert np.array_equal(picture[:, -31:, 0], 255 * np.eye(31))


def test_every_depth_looks_the_same() -> None:
    photo = np.linspace(0, 255, 40 * 60).reshape(40, 60).astype(np.uint8)
    same = photo.astype(np.uint16) * 257, photo / 255, (photo / 255).astype(np.float32)[..., np.newaxis]
    for other in same:
        assert np.array_equal(compare(photo, photo, KERNEL), compare(other, other, KERNEL))


def test_what_lies_outside_the_range_is_clipped() -> None:
    photo = np.array([[-0.5, 0.0], [1.0, 1.5]], np.float32)
    assert compare(photo, photo, KERNEL)[:2, :2, 0].tolist() == [[0, 0], [255, 255]]


def test_a_map_of_kernels_is_drawn_as_it_lies_in_the_photo() -> None:
    kernel_map = np.zeros((2, 3, 5, 5), np.float32)
    kernel_map[:, :, 2, 2], kernel_map[1, 2] = 1, 0
    kernel_map[1, 2, 0, 4] = 0.1  # faint, but white all the same
    picture = drawn(kernel_map, 3 * (10 + LINE))
    assert picture.shape == (2 * 10 + LINE, 3 * 10 + 2 * LINE, 1)
    assert (picture[:, 10 : 10 + LINE] == 255).all()
    assert (picture[4:6, 4:6] == 255).all()
    assert (picture[-10:-8, -2:] == 255).all()
    assert picture[-6:-4, -6:-4].max() == 0
