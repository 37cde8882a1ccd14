"""Seeing through a tilt: its geometry, its derivatives, and its inverse."""

import pytest
import torch
from torch import Tensor

from blinddeblur.physics.convolution import blur
from blinddeblur.physics.tilt import enlarged, inverse, warp, within

SIZES = [(8, 8), (7, 9), (8, 5), (1, 6), (3, 1)]
MARGINS = [0, 1, 3]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def between(*shape: int, seed: int = 1) -> Tensor:
    """Displacements of up to two pixels that stay away from whole ones, where a cubic's second derivative jumps."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(-2, 2, shape, generator=generator)
    return whole + 0.2 + 0.6 * torch.rand(shape, generator=generator, dtype=torch.float64)


def constant(down: float, right: float, height: int, width: int) -> Tensor:
    return torch.tensor([down, right], dtype=torch.float64)[None, :, None, None].expand(1, 2, height, width)


def smooth(height: int, width: int, amplitude: float) -> Tensor:
    """A field that does not fold, (1, 2, height, width): its slope is at most 0.3 * amplitude."""
    row = torch.arange(height, dtype=torch.float64)[:, None]
    column = torch.arange(width, dtype=torch.float64)
    down = torch.sin(0.2 * row + 0.1) * torch.cos(0.15 * column)
    right = torch.cos(0.1 * row) * torch.sin(0.25 * column + 1)
    return amplitude * torch.stack([down, right])[None]


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_no_tilt_shows_the_image_itself(height: int, width: int, margin: int) -> None:
    x = random(2, 3, height + 2 * margin, width + 2 * margin)
    seen = warp(x, constant(0, 0, height, width))
    torch.testing.assert_close(seen, x[..., margin : margin + height, margin : margin + width])


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, -2), (3, 2), (-3, -1)])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_whole_pixels_are_exact(height: int, width: int, down: int, right: int) -> None:
    x = random(1, 2, height + 6, width + 6)
    seen = warp(x, constant(down, right, height, width))
    torch.testing.assert_close(seen, x[..., 3 + down : 3 + down + height, 3 + right : 3 + right + width])


def test_each_point_has_its_displacement() -> None:
    x = random(1, 1, 9, 11)
    tilt = torch.zeros(1, 2, 5, 7, dtype=torch.float64)
    tilt[0, :, 1, 4] = torch.tensor([2.0, -1.0])
    expected = x[..., 2:7, 2:9].clone()
    expected[..., 1, 4] = x[..., 2 + 1 + 2, 2 + 4 - 1]
    torch.testing.assert_close(warp(x, tilt), expected)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10)])
def test_a_slope_is_continued_between_the_pixels(height: int, width: int) -> None:
    row = torch.arange(height + 8, dtype=torch.float64)[:, None]
    column = torch.arange(width + 8, dtype=torch.float64)
    tilt = between(1, 2, height, width)
    expected = (2 * (row[4:-4] + tilt[0, 0]) - (column[4:-4] + tilt[0, 1]))[None, None]
    # torch's cubic, of parameter -0.75, bends a slope by up to 0.048 of it; with -0.5 it would not
    torch.testing.assert_close(warp((2 * row - column)[None, None], tilt), expected, rtol=0, atol=3 * 0.0485)


def test_beyond_the_image_its_edge_goes_on() -> None:
    x = random(1, 1, 6, 7)
    for down, right in ((20, 0), (-20, 0), (0, 20), (0, -20), (20, -20)):
        rows, columns = (torch.arange(n) + offset for n, offset in ((6, down), (7, right)))
        expected = x[..., rows.clamp(0, 5), :][..., columns.clamp(0, 6)]
        torch.testing.assert_close(warp(x, constant(down, right, 6, 7)), expected)


@pytest.mark.parametrize("margin", [0, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (1, 6)])
def test_what_lies_within_is_seen_without_the_edge_that_goes_on(height: int, width: int, margin: int) -> None:
    inside = within(constant(0, 0, height, width), margin)
    assert torch.equal(inside, torch.ones(1, 1, height, width, dtype=torch.float64))
    for down, right in ((3, 0), (-3, 0), (0, 2), (0, -2), (3, -2), (20, 20), (0.5, -0.5)):
        inside = within(constant(down, right, height, width), margin)
        rows = [-margin <= row + down <= height - 1 + margin for row in range(height)]
        columns = [-margin <= column + right <= width - 1 + margin for column in range(width)]
        expected = torch.tensor(rows)[:, None] & torch.tensor(columns)
        assert torch.equal(inside[0, 0], expected.double())


def test_batches_meet_single_ones() -> None:
    x, tilt = random(2, 3, 8, 9), between(2, 2, 6, 7)
    both = warp(x, tilt)
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], warp(x[i : i + 1], tilt[i : i + 1]))
    torch.testing.assert_close(warp(x, tilt[:1])[1], warp(x[1:], tilt[:1])[0])
    torch.testing.assert_close(warp(x[:1], tilt)[1], warp(x[:1], tilt[1:])[0])


@pytest.mark.parametrize("margin", [0, 2])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 3)])
def test_derivatives_with_respect_to_image_and_tilt(height: int, width: int, margin: int) -> None:
    x = random(1, 2, height + 2 * margin, width + 2 * margin).requires_grad_()
    tilt = between(1, 2, height, width).requires_grad_()
    assert torch.autograd.gradcheck(warp, (x, tilt))


def test_derivatives_of_batches_that_share_image_or_tilt() -> None:
    x, tilt = random(2, 1, 5, 6).requires_grad_(), between(1, 2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(warp, (x, tilt))
    assert torch.autograd.gradcheck(warp, (x.detach()[:1].requires_grad_(), between(2, 2, 3, 4).requires_grad_()))


def test_derivatives_of_the_blurred_view() -> None:
    """y = k * T_phi(x), in all three."""
    x, tilt = random(1, 2, 9, 8).requires_grad_(), between(1, 2, 7, 6).requires_grad_()
    kernel = random(3, 3).abs().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, tilt, kernel: blur(warp(x, tilt), kernel), (x, tilt, kernel))


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_view_is_linear_in_the_image_and_has_an_adjoint(height: int, width: int, margin: int) -> None:
    tilt = 3 * random(1, 2, height, width)
    x = random(1, 2, height + 2 * margin, width + 2 * margin, seed=2).requires_grad_()
    y = random(1, 2, height, width, seed=3)
    (adjoint,) = torch.autograd.grad(warp(x, tilt), x, y)
    other = random(*x.shape, seed=4)  # the adjoint of a linear map is the same wherever it was taken
    torch.testing.assert_close((warp(other, tilt) * y).sum(), (other * adjoint).sum())
    torch.testing.assert_close(warp(x + 2 * other, tilt), warp(x, tilt) + 2 * warp(other, tilt))


@pytest.mark.parametrize(("height", "width"), [(40, 40), (41, 36)])
def test_a_tilt_and_its_inverse_leave_the_image(height: int, width: int) -> None:
    x = 2 * smooth(height, width, 1.0)[:, :1]
    tilt = smooth(height, width, 1.5)
    back = inverse(tilt)
    inner = (..., slice(5, -5), slice(5, -5))
    torch.testing.assert_close((warp(tilt, back) + back)[inner], torch.zeros_like(tilt)[inner], rtol=0, atol=2e-3)
    assert float((warp(x, tilt) - x)[inner].abs().max()) > 0.3
    torch.testing.assert_close(warp(warp(x, tilt), back)[inner], x[inner], rtol=0, atol=0.02)


def test_the_inverse_of_a_shift_is_exact() -> None:
    torch.testing.assert_close(inverse(constant(1.25, -2, 6, 7)), constant(-1.25, 2, 6, 7))


@pytest.mark.parametrize("cell", [2, 4])
def test_the_inverse_of_cells_is_that_of_pixels(cell: int) -> None:
    cells = torch.nn.functional.avg_pool2d(smooth(40, 48, 1.2), cell)
    back = enlarged(inverse(cells, cell), 40, 48, cell)
    expected = inverse(enlarged(cells, 40, 48, cell))
    confused = enlarged(inverse(cells), 40, 48, cell)  # as if displacements were counted in cells

    def off(field: Tensor) -> float:
        return float((field - expected)[..., 6:-6, 6:-6].square().mean().sqrt())

    assert off(back) < 0.03
    assert off(confused) > 3 * off(back)


@pytest.mark.parametrize("cell", [2, 4, 5])
def test_a_field_of_cells_becomes_one_of_pixels(cell: int) -> None:
    """What is linear in the place stays so, if the value of a cell belongs to its middle and not to its first pixel."""
    middle = cell * torch.arange(6, dtype=torch.float64) + (cell - 1) / 2
    field = torch.stack([middle[:, None] - 3 * middle, middle[:, None] + middle])[None]
    pixel = torch.arange(6 * cell, dtype=torch.float64)
    expected = torch.stack([pixel[:, None] - 3 * pixel, pixel[:, None] + pixel])[None]
    inner = (..., slice(cell, -cell), slice(cell, -cell))  # up to the outer middles; beyond, the outer cells go on
    torch.testing.assert_close(enlarged(field, 6 * cell, 6 * cell, cell)[inner], expected[inner])
    part = enlarged(field, 6 * cell - 1, 5 * cell, cell)  # a frame that is no whole number of cells
    assert torch.equal(part, enlarged(field, 6 * cell, 6 * cell, cell)[..., :-1, : 5 * cell])
