"""Blur that varies: the operator and its adjoint, kernels between nodes, and a camera that turns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import blurred, psnr, streak
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.engine.pipeline import Engine
from blinddeblur.estimation import varying
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import Blur, Convolution, blur
from blinddeblur.physics.kernel_map import KernelMap
from blinddeblur.physics.measurement import Measurement, model_error
from blinddeblur.samplers.proximal import image_step
from blinddeblur.settings import Settings
from blinddeblur.tiles import Tile, spread


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_map(rows: int = 3, columns: int = 4, size: int = 5) -> KernelMap:
    nodes = kernels.normalise(random(rows, columns, size, size))
    return KernelMap(nodes, 20 * torch.arange(rows).double(), 15 + 20 * torch.arange(columns).double())


def test_adjoint_of_varying_blur() -> None:
    mixture = random_map().of(Tile(7, 11, 26, 33))
    x, y = random(1, 3, 30, 37, seed=1), random(1, 3, 26, 33, seed=2)
    forward = Convolution(mixture, (30, 37))
    torch.testing.assert_close((forward.forward(x) * y).sum(), (x * forward.adjoint(y)).sum())


def test_each_pixel_has_its_kernel() -> None:
    nodes = random_map()
    x = random(1, 1, 54, 94, seed=1)
    y = nodes.of(Tile(0, 0, 50, 90), tolerance=0).of(x)
    for row, column, kernel in (
        (20, 35, nodes.kernels[1, 1]),  # at a node
        (25, 35, (3 * nodes.kernels[1, 1] + nodes.kernels[2, 1]) / 4),  # between two
        (49, 0, nodes.kernels[2, 0]),  # beyond the outermost
    ):
        torch.testing.assert_close(y[..., row, column], blur(x, kernel)[..., row, column])


def test_the_kernels_of_a_tile_sum_to_one_and_hardly_differ_by_being_fewer() -> None:
    nodes = random_map(7, 7)
    mixture = nodes.of(Tile(0, 0, 60, 80))
    sums = torch.einsum("jhw,j->hw", mixture.weights, mixture.kernels[:, 0].sum(dim=(-2, -1)))
    torch.testing.assert_close(sums, torch.ones_like(sums))
    assert len(mixture.kernels) < 20


def test_one_kernel_everywhere_is_one_convolution() -> None:
    kernel = kernels.normalise(random(5, 5))
    nodes = KernelMap(kernel.expand(2, 2, 5, 5), torch.tensor([0.0, 30]).double(), torch.tensor([0.0, 30]).double())
    mixture = nodes.of(Tile(0, 0, 20, 24))
    assert len(mixture.kernels) == 1
    x = random(1, 2, 24, 28)
    torch.testing.assert_close(mixture.of(x), blur(x, kernel))
    assert KernelMap.uniform(kernel).of(Tile(3, 4, 20, 24)).of(x).equal(blur(x, kernel))
    varying, plain = Convolution(mixture, (24, 28)), Convolution(Blur.uniform(kernel), (24, 28))
    torch.testing.assert_close(varying.power, plain.power)


def test_image_step_undoes_varying_blur() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 34, 44, generator=generator, dtype=torch.float64)
    mixture = random_map().of(Tile(0, 0, 30, 40))
    y = Measurement.of(mixture.of(x) / 2, linear=False)
    found = image_step(torch.zeros_like(x), y, mixture, 1e-3)
    assert (mixture.of(found) - y.y).square().mean() < 1e-3 * y.y.square().mean()


def turned(moves: Tensor, turns: Tensor, place: Tensor, size: int = 31) -> Tensor:
    """The kernel of single poses at a place."""
    kernel = torch.zeros(1, size, size)
    for (down, across), turn in zip(moves.tolist(), turns.tolist(), strict=True):
        row, column = down - turn * float(place[1]), across + turn * float(place[0])
        kernel[0, round(row) + size // 2, round(column) + size // 2] += 1 / len(turns)
    return F.avg_pool2d(kernel, 3, stride=1, padding=1)[0]


def exposure(turn: float) -> tuple[Tensor, Tensor]:
    """Poses of one exposure: moves (60, 2) in pixels, turns (60,) with this one from start to end."""
    time = torch.linspace(-0.5, 0.5, 60)
    return torch.stack([6 * time, 8 * time**2 - 0.7], dim=1), turn * time


def test_a_turning_camera_is_found_from_a_few_kernels_one_of_them_wrong() -> None:
    moves, turns = exposure(0.08)
    places = torch.cartesian_prod(torch.tensor([-100.0, 0, 100]), torch.tensor([-150.0, 0, 150]))
    found = torch.stack([turned(moves, turns, place) for place in places])
    moved = torch.stack([torch.roll(k, (i % 3 - 1, i % 2), (0, 1)) for i, k in enumerate(found)])
    moved[7] = torch.from_numpy(streak(31, 12)).T
    poses = varying.consensus(moved, places, torch.linspace(-0.06, 0.06, 17))
    turning = float((poses.density.sum(dim=(-2, -1)) * poses.turns**2).sum().sqrt())
    assert 0.7 < turning / 0.023 < 1.3
    elsewhere = torch.tensor([[-130.0, 180], [60, 70], [100, 0]])
    expected = torch.stack([turned(moves, turns, place) for place in elsewhere])
    assert kernels.agreement(poses.kernels(elsewhere), expected).min() > 0.8
    assert kernels.agreement(found[4].expand(3, -1, -1), expected).min() < 0.7  # that of the middle


@pytest.mark.parametrize(("turn", "varies"), [(0.08, True), (0.0, False)])
def test_only_a_camera_that_turned_is_taken_for_one(turn: float, varies: bool) -> None:
    places = torch.cartesian_prod(torch.tensor([-120.0, 0, 120]), torch.tensor([-150.0, -50, 50, 150]))
    kernel = torch.stack([turned(*exposure(turn), place) for place in places])
    generator = torch.Generator().manual_seed(0)
    noisy = kernels.normalise(kernel + 0.2 * kernel.max() * torch.randn(kernel.shape, generator=generator).clamp(-1, 1))
    cleaned = torch.stack([kernels.clean(k, 0.3) for k in noisy])
    gain = varying.gain_by_turning(cleaned, places, torch.linspace(-0.06, 0.06, 17))
    assert (gain > varying.LEAST_GAIN) == varies


def test_the_engine_restores_with_the_map_and_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two halves of a photo under opposite blurs, which no single kernel explains."""
    monkeypatch.setattr("blinddeblur.estimation.candidates.LEAST_GAIN", -np.inf)  # whatever is expected of one kernel
    one, other = streak(15, 9), np.ascontiguousarray(streak(15, 9)[:, ::-1])
    x, left = blurred(70, 140, 1, one)
    _, right = blurred(70, 140, 1, other)
    share = np.clip((np.arange(140) - 60) / 20, 0, 1)[None, :, None].astype(np.float32)
    y = (1 - share) * left + share * right
    nodes = torch.from_numpy(np.stack([one, other])[None])
    found = KernelMap(nodes, torch.tensor([35.0]), torch.tensor([60.0, 80.0]))
    engine = Engine(Settings(steps=2, device="cpu", samples=2), least_varying_side=0, sample_steps=3)
    alone, several = (replace(engine, find_varying=lambda *told, answer=answer: answer) for answer in (None, found))
    single, result = alone.restore(y), several.restore(y)
    assert single.kernel_map is None
    np.testing.assert_array_equal(result.kernel_map, nodes)
    assert psnr(result.image, x) > psnr(single.image, x) + 3
    assert result.residual < model_error(result.sigma)  # so the blur is explained
    assert np.isfinite(result.samples).all()


def test_regions_cover_the_photo_evenly() -> None:
    cells = spread(464, 720, 3, 4, 224)
    assert len(cells) == 12
    assert {(cell.height, cell.width) for cell in cells} == {(224, 224)}
    assert (cells[-1].top + 224, cells[-1].left + 224) == (464, 720)
    assert {(cell.height, cell.width) for cell in spread(3000, 4000, 3, 4, 224)} == {(1000, 1000)}
