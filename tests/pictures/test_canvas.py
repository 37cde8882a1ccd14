"""Pictures on white: what is laid out lies where it should, whatever the sizes and channels."""

import numpy as np
import pytest

from blinddeblur.pictures.canvas import as_bytes, below, beside, enlarged, fitted, of_kernel, placed, sheet, written


def grey(height: int, width: int, channels: int = 1) -> np.ndarray:
    return np.full((height, width, channels), 7, np.uint8)


@pytest.mark.parametrize(("at", "top"), [(0, 0), (0.5, 3)])
def test_lower_pictures_stand_where_they_are_asked_to(at: float, top: int) -> None:
    row = beside([grey(9, 4), grey(2, 5, 3)], gap=6, at=at)
    assert row.shape == (9, 15, 3)
    shown = (row == 7).all(axis=2)
    assert shown[:, :4].all()
    assert shown[top : top + 2, 10:].all()
    assert shown.sum() == 9 * 4 + 2 * 5
    assert np.isin(row, (7, 255)).all()


def test_rows_and_columns_are_each_other_turned() -> None:
    pictures = [grey(9, 4), grey(2, 5)]
    turned = [picture.swapaxes(0, 1) for picture in pictures]
    assert np.array_equal(below(pictures), beside(turned).swapaxes(0, 1))


def test_a_row_may_be_shorter() -> None:
    picture = sheet([[grey(4, 4)] * 3, [grey(4, 4)]], gap=1, at=0)
    assert picture.shape == (9, 14, 1)
    assert (picture[5:, :4] == 7).all()
    assert (picture[5:, 4:] == 255).all()


def test_grey_alone_stays_grey() -> None:
    assert beside([grey(3, 3)], gap=0).shape == (3, 3, 1)
    assert placed(grey(3, 3), 5, 6).shape == (5, 6, 1)


def test_what_is_no_number_is_black_and_what_is_too_much_is_white() -> None:
    assert as_bytes(np.float32([-1, 0.5, 1, np.inf, -np.inf, np.nan])).tolist() == [0, 128, 255, 255, 0, 0]


def test_a_kernel_of_zeros_is_black() -> None:
    assert of_kernel(np.zeros((3, 3), np.float32)).tolist() == [[[0]] * 3] * 3


@pytest.mark.parametrize(("side", "shape"), [(30, (24, 30)), (14, (8, 10)), (5, (4, 5))])
def test_pixels_become_squares_and_are_never_lost(side: int, shape: tuple[int, int]) -> None:
    picture = np.arange(20, dtype=np.uint8).reshape(4, 5, 1)
    large = enlarged(picture, side)
    assert large.shape == (*shape, 1)
    assert np.array_equal(large[:: shape[0] // 4, :: shape[1] // 5], picture)
    assert fitted(large, 5).shape == picture.shape


def test_text_has_a_line_for_each_and_none_at_all_is_white() -> None:
    text = written(["one", "another"])
    assert text.shape[0] == 2 * written(["one"]).shape[0]
    assert text.shape[1] == written(["another"]).shape[1]
    assert text.min() < 128
    assert (written([""]) == 255).all()
