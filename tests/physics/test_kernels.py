"""Kernels: their constraints, their cleaning, their passage to the domain of a prior."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blinddeblur.errors import EstimationError
from blinddeblur.physics import kernels
from blinddeblur.training.random_kernels import gaussian


def bell(size: int, sigma: float, row: float = 0, column: float = 0) -> torch.Tensor:
    return torch.from_numpy(gaussian(size, sigma, shift=np.array([row, column])))


def test_normalise_is_for_each_kernel_alone() -> None:
    pair = torch.stack([torch.eye(3), 5 * torch.eye(3) - 1])[:, None]
    result = kernels.normalise(pair)
    assert (result >= 0).all()
    torch.testing.assert_close(result.sum(dim=(-2, -1)), torch.ones(2, 1))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, -3), (-0.5, 1.25), (2.75, 0.25)])
def test_aligned_undoes_a_shift_by_fractions_of_a_pixel(row: float, column: float) -> None:
    reference = 0.6 * bell(21, 1.2) + 0.4 * bell(21, 1.2, 3, 2)
    moved = 0.6 * bell(21, 1.2, row, column) + 0.4 * bell(21, 1.2, 3 + row, 2 + column)
    result = kernels.aligned(moved, reference)
    torch.testing.assert_close(result, reference, atol=3e-4, rtol=0)
    assert (result >= 0).all()
    assert float(result.sum()) == pytest.approx(1, abs=1e-5)


def test_clean_drops_faint_grain_and_small_islands() -> None:
    kernel = torch.zeros(15, 15)
    kernel[7, 3:12] = 1.0
    kernel[1, 1] = 0.6  # an island with less than a tenth of the mass
    kernel[12, 5:9] = 0.04  # grain under a twentieth of the maximum
    cleaned = kernels.clean(kernel)
    assert cleaned[1, 1] == 0
    assert cleaned[12].sum() == 0
    torch.testing.assert_close(cleaned[7, 3:12], torch.full((9,), 1 / 9))


def walk(size: int, steps: int, seed: int) -> np.ndarray:
    """Where a random walk, and another one far from it, have been."""
    rng = np.random.default_rng(seed)
    lit = np.zeros((size, size), np.uint8)
    for start in (size // 4, 3 * size // 4):
        place = np.array([start, start])
        for _ in range(steps):
            lit[tuple(place)] = 1
            place = np.clip(place + rng.integers(-1, 2, 2), 0, size - 1)
    return lit


def spiral(size: int) -> np.ndarray:
    """One trace as long as it can be on (size, size), two pixels between its turns."""
    lit = np.zeros((size, size), np.uint8)
    place, step, length = [0, 0], (0, 1), size - 1
    for turn in range(2 * (size // 3)):
        for _ in range(length):
            lit[tuple(place)] = 1
            place = [place[0] + step[0], place[1] + step[1]]
        step = (step[1], -step[0])
        length -= 3 if turn > 1 and turn % 2 == 0 else 0
        if length <= 0:
            break
    return lit


@pytest.mark.parametrize("lit", [*(walk(127, 1500, seed) for seed in range(5)), walk(15, 20, 0), spiral(127)])
def test_pieces_are_those_of_opencv(lit: np.ndarray) -> None:
    count, labels = cv2.connectedComponents(lit, connectivity=8)
    found = kernels._pieces(torch.from_numpy(lit > 0)[None])[0].numpy()
    pairs = set(zip(labels[lit > 0].tolist(), found[lit > 0].tolist(), strict=True))
    assert len(pairs) == count - 1 == len({number for _, number in pairs})


def test_clean_never_drops_everything() -> None:
    kernel = torch.zeros(15, 15)
    kernel[::3, ::3] = 1.0  # 25 islands, none with a tenth of the mass
    assert kernels.clean(kernel).sum() == pytest.approx(1)


def test_kernels_are_cleaned_centred_and_resized_each_on_its_own() -> None:
    several = torch.stack([bell(21, 2.0, 3, -1), bell(21, 1.0, -2, 4), torch.full((21, 21), torch.nan), torch.eye(21)])
    several[1, 0, 0] = several[1].max() / 2  # an island
    cleaned = kernels.clean(several)
    assert kernels.remains(cleaned).tolist() == [True, True, False, True]
    centred, moved = kernels.centre(cleaned)
    smaller = kernels.resized(centred, 15, 0.7)
    for index in (0, 1, 3):
        alone, by = kernels.centre(kernels.clean(several[index]))
        torch.testing.assert_close(centred[index], alone)
        assert torch.equal(moved[index], by)
        torch.testing.assert_close(smaller[index], kernels.resized(alone, 15, 0.7))
    assert moved[:2].tolist() == [[-3, 1], [2, -4]]


@pytest.mark.parametrize("kernel", [torch.zeros(5, 5), -torch.ones(5, 5), torch.full((5, 5), float("nan"))])
def test_an_empty_estimate_is_an_error(kernel: torch.Tensor) -> None:
    with pytest.raises(EstimationError, match="came out empty"):
        kernels.required(kernels.clean(kernel))


@given(st.integers(-4, 4), st.integers(-4, 4))
@settings(max_examples=20, deadline=None)
def test_centre_brings_the_mass_to_the_middle(row: int, column: int) -> None:
    kernel = torch.zeros(21, 21)
    kernel[10 + row - 1 : 10 + row + 2, 10 + column - 2 : 10 + column + 3] = 1 / 15
    centred, moved = kernels.centre(kernel)
    assert moved.tolist() == [-row, -column]
    assert kernels.centre_of_mass(centred).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert centred.sum() == pytest.approx(1)


def test_centre_loses_nothing_at_the_rim() -> None:
    kernel = torch.zeros(9, 9)
    kernel[0, 0], kernel[8, 8] = 0.1, 0.9  # fills the array: there is nowhere to go
    centred, moved = kernels.centre(kernel)
    assert moved.tolist() == [0, 0]
    assert torch.equal(centred, kernel)


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.0, 1.41, 2.0])
def test_resized_keeps_the_shape(scale: float) -> None:
    resized = kernels.resized(bell(31, 3.0), 63, scale)
    expected = bell(63, max(3.0 * scale, 0.1))
    correlation = (resized * expected).sum() / (resized.norm() * expected.norm())
    assert correlation > 0.99
    assert resized.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("size", [15, 31, 63])
def test_to_the_prior_and_back(size: int) -> None:
    kernel = bell(size, size / 10, 0.3, -0.2)
    u = kernels.to_prior(kernel)
    assert u.shape == (1, 1, 64, 64)
    assert u.max() == 1
    assert divmod(int(u.argmax()), 64) == (32, 32)
    torch.testing.assert_close(kernels.from_prior(u, size)[0, 0], kernel, atol=1e-6, rtol=1e-4)


def test_larger_kernels_are_shrunk_for_the_prior() -> None:
    u = kernels.to_prior(bell(127, 12.0))
    assert u.shape == (1, 1, 64, 64)
    expected = bell(63, 12.0 * 63 / 127)
    torch.testing.assert_close(u[0, 0, 1:, 1:], expected / expected.max(), atol=0.03, rtol=0)
