"""The generator of random kernels: what holds for every kind, and the physics of each."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import blinddeblur
from blinddeblur.errors import KernelError, UsageError
from blinddeblur.training.random_kernels import (
    LARGEST,
    SHARES,
    defocus,
    double,
    exposed,
    gaussian,
    line,
    random_kernel,
    random_kind,
    shake,
)

ODD = st.integers(3, 40).map(lambda half: 2 * half + 1)
SEEDS = st.integers(0, 2**32 - 1)
CENTRED = np.zeros(2)


def centre_of_mass(kernel: NDArray[np.float32]) -> NDArray[np.float64]:
    positions = np.arange(len(kernel)) - len(kernel) // 2
    return np.array([kernel.sum(axis=1) @ positions, kernel.sum(axis=0) @ positions])


def reach(kernel: NDArray[np.float32], threshold: float = 0.02) -> int:
    """The larger side of the box around what is above `threshold` of the maximum."""
    used = kernel > threshold * kernel.max()
    return int(max(np.ptp(np.nonzero(used.any(axis=axis))[0]) + 1 for axis in (0, 1)))


def rim(kernel: NDArray[np.float32]) -> float:
    return float(max(kernel[[0, -1]].max(), kernel[:, [0, -1]].max()))


@pytest.mark.parametrize("kind", SHARES)
@given(size=ODD, seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_every_kernel_is_a_kernel(kind: str, size: int, seed: int) -> None:
    kernel = random_kernel(np.random.default_rng(seed), size, kind=kind)
    assert kernel.shape == (size, size)
    assert kernel.dtype == np.float32
    assert np.isfinite(kernel).all()
    assert (kernel >= 0).all()
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert np.abs(centre_of_mass(kernel)).max() <= 1
    assert rim(kernel) <= 0.02 * kernel.max()


@pytest.mark.parametrize("kind", SHARES)
@given(seed=SEEDS, extent=st.floats(3, 57))
@settings(max_examples=30, deadline=None)
def test_no_kernel_reaches_further_than_asked(kind: str, seed: int, extent: float) -> None:
    kernel = random_kernel(np.random.default_rng(seed), 65, extent, kind)
    assert reach(kernel) <= 1.2 * extent + 8  # the tails of a Gaussian, and softness on both sides


@pytest.mark.parametrize("extent", [5.0, 20.0, 50.0])
@pytest.mark.parametrize("path", [shake, line, double])
def test_paths_reach_as_far_as_asked(path, extent: float) -> None:  # type: ignore[no-untyped-def]
    kernel = exposed(path(np.random.default_rng(3)), 127, extent, 0.3, CENTRED)
    assert reach(kernel, 1e-4) == pytest.approx(extent + 2, abs=2)


def test_a_lopsided_path_is_drawn_smaller_rather_than_cut() -> None:
    rest_and_dash = np.concatenate([np.zeros((900, 2)), np.linspace([0, 0], [0, 1], 100)])
    kernel = exposed(rest_and_dash, 31, 27.0, 0.5, CENTRED)
    assert np.abs(centre_of_mass(kernel)).max() < 0.1
    assert rim(kernel) < 1e-3 * kernel.max()
    assert kernel[15, 15:28].min() > 1e-3 * kernel.max()  # its far end is still there
    assert 12 < reach(kernel, 1e-3) < 18


def test_the_same_seed_draws_the_same_kernel() -> None:
    first, second, other = (random_kernel(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_kinds_come_in_their_shares() -> None:
    rng = np.random.default_rng(0)
    drawn = [random_kind(rng) for _ in range(4000)]
    for kind, share in SHARES.items():
        assert drawn.count(kind) / len(drawn) == pytest.approx(share, abs=0.03)
    assert sum(SHARES.values()) == pytest.approx(1)


def test_sizes_go_from_a_spot_to_the_whole_array() -> None:
    rng = np.random.default_rng(0)
    reaches = [reach(random_kernel(rng), 0.05) for _ in range(300)]
    assert min(reaches) <= 5
    assert max(reaches) >= 50
    assert 9 < np.median(reaches) < 22  # log-uniform


@pytest.mark.parametrize("size", [0, 1, 5, 20, 64, -7])
def test_sizes_without_a_middle_are_refused(size: int) -> None:
    with pytest.raises(KernelError, match=rf"on {size} x {size} pixels. Give an odd size of 7 or more"):
        random_kernel(np.random.default_rng(0), size)


@pytest.mark.parametrize("extent", [0.0, -3.0, 28.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [*SHARES, None])
def test_extents_that_do_not_fit_are_refused(extent: float, kind: str | None) -> None:
    with pytest.raises(KernelError, match=r"does not fit a kernel of size 31. Give an extent above 0 and up to 27.9"):
        random_kernel(np.random.default_rng(0), 31, extent, kind)
    random_kernel(np.random.default_rng(0), 31, LARGEST * 31, kind)


def test_a_softness_that_fills_the_array_is_refused() -> None:
    with pytest.raises(KernelError, match="softness of 4 pixels does not fit a kernel of size 15"):
        exposed(shake(np.random.default_rng(0)), 15, 5.0, 4.0, CENTRED)
    with pytest.raises(KernelError, match="larger size"):
        defocus(15, 5.0, 4.0)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no kind of kernel called 'wobble'\. Give one of shake, line"):
        random_kernel(np.random.default_rng(0), kind="wobble")


def test_a_rest_leaves_a_bright_spot() -> None:
    path = np.concatenate(
        [np.linspace([0, 0], [0, 1], 500), np.tile([0, 1], (500, 1)), np.linspace([0, 1], [1, 1], 500)]
    )
    kernel = exposed(path, 41, 20.0, 0.4, CENTRED)
    brightest = np.unravel_index(kernel.argmax(), kernel.shape)
    window = tuple(slice(i - 2, i + 3) for i in brightest)
    assert kernel[window].sum() > 1 / 3


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_a_steady_line_is_even(angle: float) -> None:
    direction = np.array([np.sin(angle), np.cos(angle)])
    kernel = exposed(np.linspace(-0.5, 0.5, 400)[:, None] * direction, 41, 25.0, 0.5, CENTRED)
    along = kernel.sum(axis=0)[12:29]
    assert np.ptp(along) < 0.1 * along.mean()


def test_shakes_are_one_trace_and_doubles_often_two() -> None:
    def pieces(path: NDArray[np.float64]) -> int:
        kernel = exposed(path, 63, 40.0, 0.5, CENTRED)
        return cv2.connectedComponents((kernel > 1e-3 * kernel.max()).astype(np.uint8))[0] - 1

    rng = np.random.default_rng(0)
    assert [pieces(shake(rng)) for _ in range(40)].count(1) >= 38
    assert max(pieces(double(rng)) for _ in range(40)) >= 2


def test_defocus_is_a_disc_or_a_polygon() -> None:
    disc, hexagon = defocus(31, 8.0, 0.3), defocus(31, 8.0, 0.3, blades=6, turn=0.2)
    assert (disc > disc.max() / 2).sum() == pytest.approx(np.pi * 64, rel=0.05)
    assert (hexagon > hexagon.max() / 2).sum() == pytest.approx(1.5 * 3**0.5 * 64, rel=0.05)


@pytest.mark.parametrize("brightness", [-1.0, -0.5, 0.7])
def test_the_rim_of_a_defocus_can_differ(brightness: float) -> None:
    kernel = defocus(31, 10.0, 0.3, rim=brightness)
    assert (kernel[15, 15] < kernel[15, 23]) == (brightness > 0)
    assert (kernel >= 0).all()
    assert kernel.sum() == pytest.approx(1, abs=1e-5)


def test_gaussian_has_the_asked_width() -> None:
    kernel = gaussian(63, 4.0, elongation=2.0)
    positions = np.arange(63) - 31
    assert (kernel.sum(axis=0) * positions**2).sum() == pytest.approx(16, rel=0.01)
    assert (kernel.sum(axis=1) * positions**2).sum() == pytest.approx(4, rel=0.01)


def test_it_is_public_and_needs_no_torch() -> None:
    assert blinddeblur.random_kernel is random_kernel, random_kind
    code = "import sys; from blinddeblur import random_kernel; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
