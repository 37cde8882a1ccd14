"""The trainings of the judge and of spectra: photos are degraded as they say, examples are kept and learned from."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from commandline import run
from scenes import sharp

from blinddeblur.errors import OutputError, PhotoError, UsageError, WeightsError
from blinddeblur.estimation.hypotheses import simple
from blinddeblur.priors.judgement import FEATURES
from blinddeblur.priors.loading import load_judgement, load_spectra
from blinddeblur.training import judge, judged_crops, spectra
from blinddeblur.training.data import Draw, find_photos, without_held_out
from blinddeblur.training.degraded import KINDS, SIDES, degraded
from blinddeblur.training.judge import fitted, train_judge, validated
from blinddeblur.training.judged_crops import Example, psnr
from blinddeblur.training.options import Options
from blinddeblur.training.spectra import train_spectra

PICTURE = np.rint(255 * sharp(300, 330, 3, seed=1)).astype(np.uint8)


def silent(*told: Any) -> None:
    """Told, and says nothing."""


def photos(folder: Path, number: int, side: int = 240) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        pixels = np.rint(255 * sharp(side, side + 10, 3, seed=i)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
    return folder


# What photos become


def test_every_kind_of_photo_is_made_and_has_its_truth() -> None:
    rng, seen = np.random.default_rng(0), set()
    for _ in range(80):
        made = degraded(PICTURE, rng)
        if made is None:
            continue
        seen.add(made.kind)
        assert made.photo.shape[:2] == made.truth.shape
        assert made.photo.shape[0] in SIDES
        assert made.photo.dtype == np.uint8
        assert 0 <= made.truth.min() <= made.truth.max() <= 1
        if made.kind == "sharp":
            grey = made.photo.mean(axis=2) / 255
            assert np.abs(grey - made.truth).mean() < 0.03
    assert seen == set(KINDS)


def test_the_same_seed_makes_the_same_photo_and_small_pictures_make_none() -> None:
    first, again = (degraded(PICTURE, np.random.default_rng(4)) for _ in range(2))
    assert first is not None
    assert again is not None
    assert np.array_equal(first.photo, again.photo)
    assert degraded(PICTURE[:60, :60], np.random.default_rng(5)) is None


def test_a_shift_costs_nothing_and_an_error_what_it_is() -> None:
    truth = torch.from_numpy(sharp(100, 100, 1, seed=2)[..., 0].copy())
    moved = torch.roll(truth, (2, -3), (0, 1))
    assert psnr(truth, truth) == pytest.approx(80)
    assert psnr(moved, truth) > 45
    noisy = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    assert psnr(noisy, truth) == pytest.approx(20, abs=0.5)


# What is learned


def told(number: int, seed: int) -> list[Example]:
    """Examples whose gain is the third of what is seen of them."""
    generator, made = torch.Generator().manual_seed(seed), []
    for _ in range(number):
        seen = torch.randn(6, FEATURES, generator=generator)
        gains = 3 * seen[:, 2]
        made.append(Example(seen, seen, gains, gains, torch.ones(6, dtype=torch.bool), 0.01, "mild", False, 1.0))
    return made


def test_gains_and_probabilities_are_learned() -> None:
    judgement, fresh = fitted(told(60, 0)), told(30, 1)
    figures = validated(judgement, fresh)
    assert figures["loss_of_choice"] < 1
    assert figures["area_under_curve"] > 0.95
    assert figures["calibration"][0]["came_true"] < 0.3
    assert figures["calibration"][-1]["came_true"] > 0.8
    assert torch.equal(fitted(told(12, 0)).weights, fitted(told(12, 0)).weights)


def test_the_area_under_the_curve_counts_pairs() -> None:
    score, positive = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True])
    assert judge._area(score, positive) == pytest.approx(0.75)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small photos and few kernels."""
    monkeypatch.setattr("blinddeblur.training.degraded.SIDES", {48: 1.0})
    few = simple(torch.device("cpu"))[:4]
    monkeypatch.setattr(judged_crops, "hypotheses", lambda *arguments: list(few))
    monkeypatch.setattr(judged_crops, "refined", lambda denoise, y, kernel, sigma: kernel)
    monkeypatch.setattr(judge, "FEW", 2)
    monkeypatch.setattr(judge, "VALIDATED", 3)
    # Three seconds for each photo, however busy the machine is.
    monkeypatch.setattr(judged_crops, "time", SimpleNamespace(monotonic=itertools.count(0, 3).__next__))


def test_examples_are_kept_and_learned_from(tmp_path: Path, quick: None) -> None:
    folder, out = photos(tmp_path / "photos", 3), tmp_path / "mine"
    with pytest.raises(UsageError, match="Give more --minutes"):
        train_judge(folder, Options(output=out, minutes=1e-9), silent, silent)
    figures, paths = train_judge(folder, Options(output=out, minutes=0.19), silent, silent)
    made = sorted((out / "examples").iterdir())
    assert len(made) == 4
    assert figures["photos"] == 2
    assert {path.name for path in paths} == {"mine.safetensors", "weights.toml", "validation.json"}
    times = [path.stat().st_mtime_ns for path in made]
    train_judge(folder, Options(output=out, minutes=0.19), silent, silent)  # nothing is left to do
    assert [path.stat().st_mtime_ns for path in made] == times
    gains, probabilities = load_judgement(str(out))(torch.zeros(2, FEATURES))
    assert gains.shape == probabilities.shape == (2,)
    made[0].write_bytes(b"broken")
    with pytest.raises(WeightsError, match="damaged"):
        train_judge(folder, Options(output=out, minutes=0.19), silent, silent)


def test_the_folder_of_another_training_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "weights.toml").write_text("")
    with pytest.raises(OutputError, match=r"holds weights\.toml"):
        train_judge(photos(tmp_path / "photos", 2), Options(output=out), silent, silent)


# Spectra


@pytest.fixture
def few_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "CROPS", 12)
    monkeypatch.setattr(spectra, "FEWEST", 10)
    monkeypatch.setattr(spectra, "VALIDATED", 4)
    monkeypatch.setattr(spectra, "SCALES", (1.0,))


def test_spectra_are_learned_and_used(tmp_path: Path, few_crops: None) -> None:
    out = tmp_path / "mine"
    result = run("train", "spectra", photos(tmp_path / "photos", 6), "-o", out)
    assert result.exit_code == 0, result.output
    assert json.loads((out / "validation.json").read_text())["crops"] == 4
    first = (out / "mine.safetensors").read_bytes()
    assert load_spectra(str(out)).mean.isfinite().all()
    result = run("train", "spectra", tmp_path / "photos", "-o", tmp_path / "again", "--name", "mine")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again" / "mine.safetensors").read_bytes() == first


def test_photos_too_small_for_a_spectrum_are_named(tmp_path: Path, few_crops: None) -> None:
    warned: list[str] = []
    with pytest.raises(PhotoError, match="0 crops of 224x224"):
        train_spectra(photos(tmp_path / "photos", 3, 100), Options(output=tmp_path / "mine"), silent, warned.append)
    assert any("were passed over" in sentence for sentence in warned)


@pytest.mark.parametrize("kind", ["spectra", "judge"])
def test_without_photos_nothing_begins(tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty").mkdir()
    result = run("train", kind, tmp_path / "empty", "-o", tmp_path / "mine")
    assert result.exit_code == 1
    assert "There is no photo" in result.stderr


def test_photos_are_drawn_by_the_shares_and_unreadable_ones_named_once(tmp_path: Path) -> None:
    photos(tmp_path / "much", 2, 80)
    photos(tmp_path / "little", 6, 90)
    (tmp_path / "little" / "0.png").write_bytes(b"broken")
    warned: list[str] = []
    shares = {"much": 9.0, "little": 1.0}
    kept, held_out = without_held_out(tmp_path, Options(output=tmp_path / "mine", shares=shares), warned.append)
    assert kept.number + held_out.number in (8, 16)  # where none is held out, both are all
    warned.clear()
    rng = np.random.default_rng(0)
    draw = Draw(find_photos(tmp_path, shares), warned.append)
    drawn = [draw.photo(rng) for _ in range(600)]
    assert 0.85 < np.mean([pixels is not None and len(pixels) == 80 for pixels in drawn]) < 0.95
    assert any(pixels is None for pixels in drawn)
    assert len(warned) == 1
    assert "0.png" in warned[0]


def test_photos_that_cannot_be_used_end_the_training(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="none could be used"):
        train_judge(photos(tmp_path / "photos", 2, 30), Options(output=tmp_path / "mine"), silent, silent)
