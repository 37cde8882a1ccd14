"""Training in seconds: the loss falls, a stopped run goes on, what is damaged is refused, every photo is seen."""

import functools
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blinddeblur.errors import EstimationError, OutputError, PhotoError, UsageError, WeightsError
from blinddeblur.priors.compact import CompactUNet
from blinddeblur.training.data import find_photos, read_pixels
from blinddeblur.training.loop import TrainingStatus, read_checkpoint, train
from blinddeblur.training.losses import SIGMA_RANGE, DenoisingLoss, draw_noise, draw_sigmas
from blinddeblur.training.muon import Muon, optimisers, orthogonalise
from blinddeblur.training.photo_crops import Group, PhotoCrops


def discs(seed: int) -> Iterator[Tensor]:
    """Batches (8, 1, 16, 16) of white discs: something that can be learned quickly."""
    rng = np.random.default_rng(seed)
    while True:
        images = np.zeros((8, 16, 16), np.uint8)
        for image in images:
            cv2.circle(image, tuple(int(c) for c in rng.integers(4, 12, 2)), int(rng.integers(2, 5)), 255, -1)
        yield torch.from_numpy(images)[:, None] / 255


def tiny() -> CompactUNet:
    torch.manual_seed(0)
    return CompactUNet(1, widths=(8, 16), blocks=1)


def run(checkpoint: Path, **options: Any) -> nn.Module:
    return train(tiny(), discs(0), DenoisingLoss(), checkpoint, **options)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# The loop


def test_a_denoiser_is_learned(tmp_path: Path) -> None:
    average = run(tmp_path / "checkpoint.pt", steps=250, learning_rate=5e-3)
    clean = next(discs(9))
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = (average(noisy, torch.full((8,), 0.3)) - clean).square().mean()
    assert error < 0.5 * 0.3**2
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    first, second, other = (run(tmp_path / f"{i}.pt", steps=12, seed=seed) for i, seed in enumerate((1, 1, 2)))
    assert same(first, second)
    assert not same(first, other)


def test_a_run_goes_on(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    run(checkpoint, steps=10, about={"kind": "discs"})
    reports: list[TrainingStatus] = []
    average = run(checkpoint, steps=15, report=reports.append, about={"kind": "discs"})
    assert (reports[-1].step, reports[-1].examples) == (15, 120)
    content = read_checkpoint(checkpoint)
    assert (content["step"], content["about"]) == (15, {"kind": "discs"})
    assert content["seconds"] > 0
    finished = run(checkpoint, steps=15, report=reports.append)  # nothing is left to do
    assert same(average, finished)
    assert len(reports) == 1


def test_minutes_count_earlier_runs(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    run(checkpoint, steps=5)
    spent = read_checkpoint(checkpoint)["seconds"]
    run(checkpoint, minutes=0.99 * spent / 60)
    assert read_checkpoint(checkpoint)["step"] == 5
    run(checkpoint, minutes=(spent + 0.2) / 60)
    assert read_checkpoint(checkpoint)["seconds"] == pytest.approx(spent + 0.2, abs=0.3)


def learning_rates(checkpoint: Path, steps: int, warm_up: int) -> list[float]:
    """Those of a training, as shares of the largest."""
    reports: list[TrainingStatus] = []
    options: dict[str, Any] = {"steps": steps, "warm_up": warm_up, "report_every": 0.0, "learning_rate": 1e-3}
    run(checkpoint, report=reports.append, **options)
    return [1e3 * status.learning_rate for status in reports[:steps]]


def test_the_learning_rate_rises_and_falls(tmp_path: Path) -> None:
    rates = learning_rates(tmp_path / "checkpoint.pt", steps=60, warm_up=5)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert rates[30] == pytest.approx(1)
    assert rates[45] == pytest.approx(0.5)
    assert rates[59] == pytest.approx(1 / 30)


def test_a_short_training_does_not_rise_for_long(tmp_path: Path) -> None:
    assert learning_rates(tmp_path / "checkpoint.pt", steps=20, warm_up=200)[:3] == pytest.approx([0.005, 0.5, 1])


def test_batches_of_several_parts_and_a_loss_of_ones_own(tmp_path: Path) -> None:
    network = nn.Linear(3, 1)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        inputs, targets = batch
        return (network(inputs) - targets).square().mean()

    rng = torch.Generator().manual_seed(0)
    inputs = (torch.randn(32, 3, generator=rng) for _ in itertools.count())
    pairs = ((x, x.sum(dim=1, keepdim=True)) for x in inputs)
    reports: list[TrainingStatus] = []
    train(network, pairs, loss, tmp_path / "c.pt", steps=300, learning_rate=0.05, report=reports.append)
    assert reports[-1].loss < 0.01
    assert reports[-1].examples == 300 * 32


def test_saved_gets_the_average(tmp_path: Path) -> None:
    calls: list[tuple[nn.Module, TrainingStatus]] = []
    average = run(tmp_path / "c.pt", steps=6, save_every=0.0, saved=lambda *call: calls.append(call))
    assert [status.step for _, status in calls] == [1, 2, 3, 4, 5, 6, 6]
    assert calls[-1][0] is average


def test_an_interrupt_saves(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"

    def interrupted() -> Iterator[Tensor]:
        yield from itertools.islice(discs(0), 7)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny(), interrupted(), DenoisingLoss(), checkpoint, steps=100)
    assert read_checkpoint(checkpoint)["step"] == 7


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(tmp_path: Path, bad: float) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    run(checkpoint, steps=5)
    before = checkpoint.read_bytes()
    calls, loss_of = itertools.count(), DenoisingLoss()

    def loss(network: Any, batch: Any, generator: torch.Generator) -> Tensor:
        return loss_of(network, batch, generator) * (bad if next(calls) == 3 else 1.0)

    with pytest.raises(EstimationError, match="lower --learning-rate"):
        train(tiny(), discs(0), loss, checkpoint, steps=50)
    assert checkpoint.read_bytes() == before


def test_data_that_ends(tmp_path: Path) -> None:
    with pytest.raises(EstimationError, match="come to an end at step 3"):
        train(tiny(), itertools.islice(discs(0), 3), DenoisingLoss(), tmp_path / "c.pt", steps=10)


def other_network(path: Path) -> None:
    train(CompactUNet(1, widths=(8, 24), blocks=1), discs(0), DenoisingLoss(), path, steps=1)


DAMAGE = {
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "garbage": (lambda path: path.write_bytes(b"not a checkpoint"), "damaged"),
    "cut off": (lambda path: (run(path, steps=1), path.write_bytes(path.read_bytes()[:-100])), "damaged"),
    "a list": (lambda path: torch.save([1, 2], path), "damaged"),
    "another file of torch": (lambda path: torch.save({"weight": torch.zeros(1)}, path), "it lacks about, average"),
    "another network": (other_network, "belongs to another network"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    make, words = DAMAGE[damage]
    make(checkpoint)
    before = checkpoint.read_bytes()
    with pytest.raises(WeightsError, match=words):
        run(checkpoint, steps=5)
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="is a file and no folder"):
        run(tmp_path / "file" / "checkpoint.pt", steps=5)


def test_where_compiling_fails_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(network: nn.Module) -> Any:
        def forward(*arguments: Any) -> Tensor:
            raise RuntimeError("no compiler\nand a long story")

        forward.sigma_data = 0.25  # type: ignore[attr-defined]
        return forward

    monkeypatch.setattr(torch, "compile", broken)
    warnings: list[str] = []
    average = run(tmp_path / "a.pt", steps=5, compiled=True, warn=warnings.append)
    assert len(warnings) == 1
    assert "torch.compile does not work here (RuntimeError: no compiler)" in warnings[0]
    assert same(average, run(tmp_path / "b.pt", steps=5))


def test_a_compiled_network_shares_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # traced, not translated
    warnings: list[str] = []
    average = run(tmp_path / "a.pt", steps=5, learning_rate=1e-5, compiled=True, warn=warnings.append)
    assert not warnings
    plain = run(tmp_path / "b.pt", steps=5, learning_rate=1e-5)
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(average.parameters(), plain.parameters(), strict=True))
    assert read_checkpoint(tmp_path / "a.pt")["network"].keys() == plain.state_dict().keys()


def test_half_precision_keeps_master_weights(tmp_path: Path) -> None:
    average = run(tmp_path / "c.pt", steps=3, precision=torch.bfloat16)
    assert {tensor.dtype for tensor in average.state_dict().values()} == {torch.float32}


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    reports: list[TrainingStatus] = []
    options: dict[str, Any] = {"precision": torch.bfloat16, "compiled": True, "learning_rate": 5e-3}
    network = tiny().to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]
    warnings: list[str] = []
    train(network, discs(0), DenoisingLoss(), tmp_path / "c.pt", steps=400, warn=warnings.append, **options)
    assert not warnings
    average = run(tmp_path / "c.pt", steps=401, report=reports.append)  # goes on on the CPU
    clean = next(discs(9))
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (average(noisy, torch.full((8,), 0.3)) - clean).square().mean() < 0.5 * 0.3**2


# Muon


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8), (3, 8, 40)])
def test_orthogonal_updates(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalise(matrices))
    assert singular.min() > 0.3  # the smallest of a square matrix are nearly zero, and reached last
    assert singular.max() < 1.3
    assert orthogonalise(matrices).shape == shape


def test_orthogonalise_keeps_the_singular_vectors() -> None:
    u, _, v = torch.linalg.svd(torch.randn(6, 20, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(0.5, 2, 6)) @ v
    core = u.T @ orthogonalise(matrix) @ v.T
    assert torch.allclose(core, torch.diag(core.diagonal()), atol=1e-4)


def test_hidden_convolutions_go_to_muon() -> None:
    network = CompactUNet(1, widths=(8, 16), blocks=1)
    muon, adam = optimisers(network, torch.float32)
    assert isinstance(muon, Muon)
    names = {id(p): name for name, p in network.named_parameters()}
    hidden = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    rest = {names[id(p)] for group in adam.param_groups for p in group["params"]}
    assert hidden | rest == set(names.values())
    assert not hidden & rest
    assert "down.0.0.first.weight" in hidden
    assert {"head.weight", "tail.weight", "down.0.0.first.bias", "embedding.layers.0.weight"} <= rest


# The loss


def test_sigmas_cover_the_range() -> None:
    sigmas = draw_sigmas(20000, torch.Generator().manual_seed(0))
    assert sigmas.min() >= SIGMA_RANGE[0]
    assert sigmas.max() <= SIGMA_RANGE[1]
    assert ((sigmas > 0.01) & (sigmas < 0.5)).float().mean() > 0.7
    assert (sigmas > 5).float().mean() > 0.03


def test_grey_images_get_grey_noise() -> None:
    clean = torch.rand(2, 3, 8, 8)
    clean[0] = clean[0, :1]
    noise = draw_noise(clean, torch.Generator().manual_seed(0))
    assert torch.equal(noise[0, 0], noise[0, 2])
    assert not torch.equal(noise[1, 0], noise[1, 2])


def test_the_loss_is_of_order_one_before_training() -> None:
    # The network starts as the best linear denoiser of data with its mean and deviation.
    clean = (0.5 + 0.25 * torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    loss = DenoisingLoss()(CompactUNet(1, widths=(8,), blocks=1), clean, torch.Generator().manual_seed(0))
    assert 0.7 < loss.item() < 1.3


def test_every_noise_level_counts_the_same() -> None:
    # An error a hundred times as large at one of two levels brings no more than the other.
    alternating = torch.tensor([0.01, 1.0]).repeat(8)
    loss, generator = DenoisingLoss(lambda number, generator: alternating), torch.Generator().manual_seed(0)
    clean = torch.full((16, 1, 8, 8), 0.5)

    class Wrong(torch.nn.Module):
        sigma_data = 0.25

        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            weight = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
            size = torch.where(sigma < 0.1, 10.0, 1.0) / weight.sqrt()
            return clean + self.scale * size[:, None, None, None]

        scale = torch.nn.Parameter(torch.ones(16, 1, 1, 1))

    network: Any = Wrong()
    for _ in range(300):
        value = loss(network, clean, generator)
    value.backward()
    low, high = (float(network.scale.grad[i::2].mean()) for i in (0, 1))
    assert low == pytest.approx(high, rel=0.05)


# Photos


def photos(folder: Path, number: int, side: int = 64) -> list[Path]:
    """Photos of one grey level each, 10, 20, 30..., so that a crop says which photo it is from."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(number)]
    for i, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((side, side, 3), 10 * (i + 1), np.uint8))
    return paths


def crops_of(groups: list[Group], *arguments: Any, **options: Any) -> PhotoCrops:
    return PhotoCrops(groups, read_pixels, *arguments, **options)


def levels(crops: Tensor) -> set[int]:
    return {round(255 * float(crop.mean())) for crop in crops}


def test_crops_of_photos(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photos(tmp_path / "calm", 1)
    (tmp_path / "busy").mkdir()
    cv2.imwrite(str(tmp_path / "busy" / "photo.png"), rng.integers(0, 256, (90, 120, 3), np.uint8))
    crops, unreadable = next(iter(crops_of(find_photos(tmp_path, {"calm": 1.0}), 32, 4, (0,), grey=0.0)))
    assert crops.shape == (4, 3, 32, 32)
    assert crops.dtype == torch.float32
    assert levels(crops) == {10}
    assert unreadable == []
    crops, _ = next(iter(crops_of(find_photos(tmp_path), 32, 60, (0,), grey=1.0)))
    assert torch.equal(crops[:, 0], crops[:, 2])
    assert (crops.std(dim=(1, 2, 3)) > 0.05).sum() > 36  # of two candidates the one with texture is kept


def test_crops_are_reproducible(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    first, again, other = (
        next(iter(crops_of(find_photos(tmp_path), 16, 4, seed)))[0] for seed in ((3, 0), (3, 0), (3, 8))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_shares(tmp_path: Path) -> None:
    photos(tmp_path / "many", 20)
    one = tmp_path / "one"
    one.mkdir()
    cv2.imwrite(str(one / "one.png"), np.full((64, 64, 3), 255, np.uint8))
    photos(tmp_path / "none", 3)
    crops, _ = next(iter(crops_of(find_photos(tmp_path, {"many": 1, "one": 3}), 16, 400, (0,))))
    white = sum(round(255 * float(crop.mean())) == 255 for crop in crops)
    assert white == pytest.approx(300, abs=40)
    with pytest.raises(UsageError, match="no photo in"):
        find_photos(tmp_path, {"many": 1, "absent": 1})


def test_more_photos_than_memory_take_turns(tmp_path: Path) -> None:
    paths = photos(tmp_path, 20)
    held = 4
    batches = iter(crops_of([Group(1.0, paths)], 16, 32, (0,), memory=held * 64 * 64 * 3))
    seen: set[int] = set()
    for crops, _ in itertools.islice(batches, 20):
        assert len(levels(crops)) <= held
        seen |= levels(crops)
    assert seen == {10 * (i + 1) for i in range(20)}


def test_a_photo_larger_than_the_memory_is_still_used(tmp_path: Path) -> None:
    batches = iter(crops_of([Group(1.0, photos(tmp_path, 3))], 16, 32, (0,), memory=1))
    seen: set[int] = set()
    for crops, _ in itertools.islice(batches, 6):
        assert len(levels(crops)) == 1
        seen |= levels(crops)
    assert seen == {10, 20, 30}


def test_unreadable_photos_are_left_out(tmp_path: Path) -> None:
    photos(tmp_path, 2)
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    (tmp_path / "empty.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((8, 8, 3), np.uint8))
    batches = iter(crops_of(find_photos(tmp_path), 16, 64, (0,)))
    crops, unreadable = next(batches)
    assert levels(crops) == {10, 20}
    assert {Path(problem.split(": ")[0]).name for problem in unreadable} == {"broken.jpg", "empty.png", "small.png"}
    assert next(batches)[1] == []


def test_folders_nothing_can_be_learned_from(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="no photo in"):
        find_photos(tmp_path)
    with pytest.raises(PhotoError, match="is no folder"):
        find_photos(tmp_path / "absent")
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    assert list(crops_of(find_photos(tmp_path), 16, 4, (0,))) == []


def test_pixels(tmp_path: Path) -> None:
    deep = np.full((40, 50), 257 * 77, np.uint16)
    cv2.imwrite(str(tmp_path / "grey.png"), deep)
    pixels = read_pixels(tmp_path / "grey.png")
    assert (pixels.shape, pixels.dtype) == ((40, 50, 3), np.uint8)
    assert (pixels == 77).all()
