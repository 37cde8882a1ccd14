"""`blinddeblur train` as people use it: begun, killed, continued, refused, and its prior put to use."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from commandline import run
from scenes import blurred, sharp, streak
from syrupy.assertion import SnapshotAssertion
from typer.testing import Result

from blinddeblur import load_prior
from blinddeblur.errors import UsageError, WeightsError
from blinddeblur.files import decoding, encoding
from blinddeblur.files.photo import Photo
from blinddeblur.training.data import kernel_data
from blinddeblur.training.loop import read_checkpoint
from blinddeblur.training.options import Options
from blinddeblur.weights.cache import State, status
from blinddeblur.weights.manifest import find, read_manifest, shipped_list

TINY = ["--widths", "8,16", "--device", "cpu", "--batch", "4"]
A_MOMENT = ["--minutes", "0.01"]
UNTRAINED = ["-o", "untrained", *A_MOMENT, "--learning-rate", "1e-9"]
WRITTEN = ["checkpoint.pt", "log.csv", "mine.safetensors", "samples.png", "validation.json", "weights.toml"]


pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of images."""
    out = tmp_path_factory.mktemp("trained") / "mine"
    result = run("train", "image", photos(out.parent / "photos", 2), "-o", out, *TINY, *A_MOMENT)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def tiny_training(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "mine"))


def photos(folder: Path, number: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        pixels = np.rint(255 * sharp(80, 100, 3, seed=i)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name != "training.lock")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def log(folder: Path) -> list[tuple[int, float, float, float]]:
    header, *lines = (folder / "log.csv").read_text().splitlines()
    assert header == "step,minutes,loss,learning_rate"
    return [(int(a), float(b), float(c), float(d)) for a, b, c, d in (line.split(",") for line in lines)]


def start(*arguments: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "blinddeblur", "train", *(str(a) for a in arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it for background jobs
    )


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < end
        time.sleep(0.02)


def psnr(folder: Path, level: int) -> float:
    return float(json.loads((folder / "validation.json").read_text())["levels"][level]["psnr"])


def learn(folder: Path, level: int, *command: str | Path) -> Result:
    """Train until the figure of that level has risen by a decibel, as quickly as this machine allows."""
    for minutes in ("0.04", "0.1", "0.2", "0.4", "0.8"):
        result = run(*command, "-o", folder, "--minutes", minutes, "--learning-rate", "1e-2")
        assert result.exit_code == 0, result.output
        if psnr(folder, level) > psnr(Path("untrained"), level) + 1:
            return result
    pytest.fail("nothing was learned")


def steps(folder: Path) -> int:
    checkpoint = folder / "checkpoint.pt"
    return int(read_checkpoint(checkpoint)["step"]) if checkpoint.exists() else 0


@pytest.mark.parametrize("command", [[], ["image"], ["kernel"]])
def test_help(command: list[str], snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    result = run("train", *command, "--help")
    assert result.exit_code == 0
    assert result.output == snapshot


def test_an_image_prior_is_trained_and_used(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    command = ["train", "image", photos(tmp_path / "photos"), *TINY, "--crop", "32"]
    assert run(*command, *UNTRAINED).exit_code == 0
    result = learn(out, 2, *command, "--licence", "CC0")
    assert files(out) == WRITTEN
    assert "step" in result.stderr  # plain lines of progress
    assert all(str(out / name) in result.stdout for name in WRITTEN)

    rows = log(out)
    assert rows[-1][0] == steps(out) > 10
    validation = json.loads((out / "validation.json").read_text())
    assert set(validation["levels"][0]) == {"sigma", "noisy_psnr", "psnr"}
    assert [round(255 * level["sigma"]) for level in validation["levels"]] == [5, 15, 25, 50, 75, 100, 150]
    assert validation["validated_on"] == "held-out photos"
    samples = decoding.read(out / "samples.png").pixels
    assert samples.shape == (7 * 66 - 2, 9 * 66 - 2, 3)

    (entry,) = read_manifest(out / "weights.toml").values()
    assert (entry.name, entry.kind, entry.licence, entry.bundled) == ("mine", "image", "CC0", False)
    assert entry.parameters == {"channels": 3, "widths": [8, 16], "blocks": 2}
    assert entry.trained_on.startswith("4 photographs of the folder photos, ")
    assert f"{rows[-1][0]:,} steps" in entry.trained_on

    _, y = blurred(48, 52, 3, streak(9, 5))
    encoding.write(Photo(y), tmp_path / "a.png")
    restored = run("restore", "a.png", "--prior", "mine", "--steps", "2", "--kernel-size", "9", "--json")
    assert restored.exit_code == 0, restored.output
    facts = json.loads(restored.stdout)
    assert (facts["prior"], facts["prior_sha256"]) == ("mine", entry.sha256)
    (out / "mine.safetensors").write_bytes((out / "mine.safetensors").read_bytes()[:-2] + b"\xff\xff")
    damaged = run("restore", "a.png", "--prior", out, "--overwrite")
    assert damaged.exit_code == 3
    assert "damaged: its sha256" in damaged.stderr


def test_a_kernel_prior_is_trained_and_used(tmp_path: Path) -> None:
    out = tmp_path / "My Kernels_2"
    command = ["train", "kernel", *TINY]
    assert run(*command, *UNTRAINED).exit_code == 0
    learn(out, 0, *command)
    validation = json.loads((out / "validation.json").read_text())
    assert [level["sigma"] for level in validation["levels"]] == [0.05, 0.2, 0.5]
    assert all(0 < level["correlation"] < 1 for level in validation["levels"])
    prior = load_prior(str(out))
    assert (prior.name, prior.kind) == ("my-kernels-2", "kernel")
    assert prior.denoise(torch.zeros(1, 1, 64, 64), 0.2).shape == (1, 1, 64, 64)
    quiet = run(*command, "-o", out, "-q", *A_MOMENT)
    assert quiet.exit_code == 0
    assert quiet.output == ""


def test_a_kernel_prior_conditioned_on_photos_is_trained_and_used(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    command = ["train", "kernel", photos(tmp_path / "photos"), *TINY]
    assert run(*command, *UNTRAINED).exit_code == 0
    learn(out, 1, *command)
    assert files(out) == WRITTEN
    validation = json.loads((out / "validation.json").read_text())
    assert [level["sigma"] for level in validation["levels"]] == [0.05, 0.2, 0.5, 2.0]
    assert validation["validated_on"] == "held-out photos, blurred by random kernels of another seed"
    assert decoding.read(out / "samples.png").pixels.shape == (4 * 66 - 2, 9 * 66 - 2, 1)
    entry = find("mine")
    assert (entry.kind, entry.architecture) == ("kernel", "conditioned")
    assert entry.parameters["widths"] == entry.parameters["edge_widths"] == [8, 16]
    assert entry.trained_on.startswith("4 photographs of the folder photos, ")
    y = torch.from_numpy(blurred(80, 90, 1, streak())[1].transpose(2, 0, 1))[None]
    kernels = load_prior("mine").given(y, 0.004).denoise(torch.rand(2, 1, 64, 64), 0.2)
    assert kernels.shape == (2, 1, 64, 64)

    reached, spent = steps(out), read_checkpoint(out / "checkpoint.pt")["seconds"] / 60
    assert run(*command, "-o", out, "--minutes", str(spent + 0.01)).exit_code == 0
    assert steps(out) > reached
    result = run(*command, "-o", "second", *A_MOMENT, "--from", "mine", "--learning-rate", "1e-9")
    assert result.exit_code == 0, result.output
    first, second = (
        load_prior(name).given(y, 0.004).denoise(torch.ones(1, 1, 64, 64), 0.2) for name in ("mine", "second")
    )
    assert torch.allclose(first, second, atol=1e-2)


def test_with_photos_and_without_are_different_trainings(tmp_path: Path) -> None:
    with_photos, without = ["train", "kernel", photos(tmp_path / "photos", 2)], ["train", "kernel"]
    assert run(*with_photos, "-o", "with", *TINY, *A_MOMENT).exit_code == 0
    assert run(*without, "-o", "without", *TINY, *A_MOMENT).exit_code == 0
    for command, words in (
        ([*without, "-o", "with"], "of a kernel prior conditioned on photos, not of a kernel prior without photos"),
        ([*with_photos, "-o", "without"], "of a kernel prior without photos, not of a kernel prior conditioned on"),
        ([*without, "-o", "new", "--from", "with"], "architecture conditioned"),
        ([*with_photos, "-o", "new", "--from", "without"], "architecture compact"),
        ([*without, "-o", "new", "--share", "a=1"], "leave out --share"),
    ):
        before = contents(tmp_path / "with"), contents(tmp_path / "without")
        result = run(*command)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
        assert (contents(tmp_path / "with"), contents(tmp_path / "without")) == before


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
@pytest.mark.parametrize("workers", [0, 1])  # a worker lives on for seconds after the kill, and must not hold the lock
def test_a_killed_training_goes_on(workers: int, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    command = ["kernel", "-o", out, *TINY, "--minutes", "0.05", "--save-every", "0.2", "--workers", str(workers)]
    process = start(*command)
    wait_for(lambda: steps(out) > 0, process)
    process.kill()
    process.communicate()
    reached = steps(out)
    assert reached > 0
    result = run("train", *command)
    assert result.exit_code == 0, result.output
    assert steps(out) > reached
    assert set(files(out)) >= set(WRITTEN)
    content = read_checkpoint(out / "checkpoint.pt")
    assert content["seconds"] == pytest.approx(3, abs=2)
    assert log(out)[-1][0] == content["step"]


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("interrupt", [os.kill, os.killpg], ids=["one process", "all, as a terminal does"])
def test_an_interrupt_saves_and_a_second_training_is_kept_out(
    interrupt: Callable[[int, int], None], tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    command = ["image", photos(tmp_path / "photos"), "-o", out, *TINY, "--minutes", "9", "--workers", "1"]
    process = start(*command)
    wait_for(lambda: (out / "log.csv").exists() and (out / "log.csv").stat().st_size > 0, process)
    second = run("train", *command)
    assert second.exit_code == 1
    assert "Another training is just now writing" in second.stderr
    assert steps(out) == 0
    interrupt(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert steps(out) > 0


def test_workers_hand_over_batches_without_a_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An interrupt that breaks one off makes the worker print a traceback, once in a hundred times.
    monkeypatch.setattr("multiprocessing.connection.Client", lambda *address, **key: pytest.fail("a conversation"))
    data = kernel_data(Options(output=tmp_path, batch=2), seed=(0,))
    batches = data.batches(1, torch.device("cpu"), pytest.fail)
    assert [next(batches).shape for _ in range(3)] == 3 * [(2, 1, 64, 64)]


def test_a_finished_training_says_how_to_go_on(tmp_path: Path) -> None:
    command = ["train", "kernel", "-o", tmp_path / "mine", *TINY]
    assert run(*command, *A_MOMENT).exit_code == 0
    (tmp_path / "mine" / "samples.png").unlink()  # as if it had been killed just before the end
    reached = steps(tmp_path / "mine")
    again = run(*command, *A_MOMENT)
    assert again.exit_code == 0
    assert "larger --minutes" in again.stderr
    assert steps(tmp_path / "mine") == reached
    assert files(tmp_path / "mine") == WRITTEN
    more = run("train", "kernel", "-o", tmp_path / "mine", "--minutes", "0.03")  # the widths are known
    assert "larger --minutes" not in more.stderr
    assert steps(tmp_path / "mine") > reached


def test_a_prior_of_grey_images_goes_on_learning_from_photos_in_grey(tmp_path: Path) -> None:
    command = ["train", "image", photos(tmp_path / "photos", 2), "-o", "mine", "--from", "photo-grey", "--crop", "32"]
    result = run(*command, "--batch", "2", *A_MOMENT, "--learning-rate", "1e-9", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert find("mine").parameters == find("photo-grey").parameters
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(load_prior("mine").denoise(x, 0.1), load_prior("photo-grey").denoise(x, 0.1), atol=1e-2)


def test_a_training_from_a_prior(tmp_path: Path) -> None:
    assert run("train", "kernel", "-o", "first", *TINY, "--minutes", "0.03").exit_code == 0
    command = ["train", "kernel", "-o", "second", "--batch", "4", *A_MOMENT, "--device", "cpu"]
    result = run(*command, "--from", "first", "--learning-rate", "1e-9")
    assert result.exit_code == 0, result.output
    first, second = load_prior("first"), load_prior("second")
    assert "started from first" in find("second").trained_on
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(first.denoise(x, 0.1), second.denoise(x, 0.1), atol=1e-3)
    assert not torch.allclose(first.denoise(x, 0.1), x, atol=1e-3)
    other = run(*command, "--from", "kernel")
    assert other.exit_code == 2
    assert "started from first, not from kernel" in other.stderr
    wrong = run("train", "kernel", "-o", "third", "--from", "photo")
    assert wrong.exit_code == 2
    assert "of kind image" in wrong.stderr
    assert not (tmp_path / "third" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["kernel"], 2, "of an image prior, not of a kernel prior"),
        (["image", "photos", "--widths", "8,24"], 2, "has --widths 8,16"),
        (["image", "photos", "--from", "photo"], 2, "started from nothing"),
        (["image", "photos", "--crop", "33"], 2, "multiple of 4"),
    ],
)
def test_a_training_of_another_kind_is_refused(
    tmp_path: Path, tiny_training: Path, arguments: list[str], code: int, words: str
) -> None:
    photos(tmp_path / "photos", 2)
    before = contents(tiny_training)
    result = run("train", *arguments, "-o", tiny_training)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert contents(tiny_training) == before


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_damaged_checkpoints_are_refused(tmp_path: Path, tiny_training: Path, content: bytes | None) -> None:
    checkpoint = tiny_training / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-500] if content is None else content)
    before = contents(tiny_training)
    result = run("train", "image", photos(tmp_path / "photos", 2), "-o", tiny_training)
    assert result.exit_code == 3
    assert "cannot be continued" in result.stderr
    assert contents(tiny_training) == before


@pytest.mark.parametrize("name", ["weights.toml", "samples.png", "validation.json", "log.csv"])
def test_files_of_others_are_never_replaced(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("precious")
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    result = run("train", "kernel", "-o", out, *TINY, *A_MOMENT)
    assert result.exit_code == 1
    assert "no checkpoint to go on from" in result.stderr
    assert {key: value for key, value in contents(out).items() if value} == before


def test_foreign_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert run("train", "kernel", "-o", out, *TINY, *A_MOMENT).exit_code == 0
    assert files(out) == sorted([*WRITTEN, "notes.txt"])
    assert (out / "notes.txt").read_text() == "mine"


def test_unreadable_photos_are_left_out(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 3)
    for i in range(5):
        (folder / f"broken{i}.jpg").write_bytes(b"broken")
    result = run("train", "image", folder, "-o", "mine", *TINY, *A_MOMENT)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("A file was left out.") == 3
    assert "In all, 5 files" in result.stderr
    assert find("mine").trained_on.startswith("3 photographs")
    for path in folder.glob("?.png"):
        path.unlink()
    none = run("train", "image", folder, "-o", "none", *TINY, *A_MOMENT)
    assert none.exit_code == 1
    assert "None of the 5 files" in none.stderr


@pytest.mark.parametrize("readable", ["0.png", "1.png"])
def test_one_readable_photo_is_enough(tmp_path: Path, readable: str) -> None:
    folder = photos(tmp_path / "photos", 2)
    for path in folder.iterdir():
        if path.name != readable:
            path.write_bytes(b"broken")
    result = run("train", "image", folder, "-o", "mine", *TINY, *A_MOMENT)
    assert result.exit_code == 0, result.output
    assert "no second photo to validate on" in result.stderr
    assert "also learned from" in (tmp_path / "mine" / "validation.json").read_text()


def test_results_among_the_photos_are_not_learned_from(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 2)
    for _ in range(2):
        assert run("train", "image", folder, "-o", folder / "mine", *TINY, "--minutes", "0.02").exit_code == 0
    assert find(str(folder / "mine")).trained_on.startswith("2 photographs")


def test_one_photo_in_twenty_is_held_out(tmp_path: Path) -> None:
    for i, name in enumerate("abcd"):  # of one grey level each, as small as photos may be
        (tmp_path / "photos" / name).mkdir(parents=True)
        for j in range(40):
            cv2.imwrite(str(tmp_path / "photos" / name / f"{j}.png"), np.full((32, 32, 3), 50 * (i + 1), np.uint8))
    assert run("train", "image", "photos", "-o", "mine", *TINY, *A_MOMENT).exit_code == 0
    assert json.loads((tmp_path / "mine" / "validation.json").read_text())["validated_on"] == "held-out photos"
    samples = decoding.read(tmp_path / "mine" / "samples.png").pixels
    assert len({round(5 * float(samples[10, 66 * column + 10, 0])) for column in (2, 5, 8)}) > 1  # of several folders


def test_shares(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        photos(tmp_path / "photos" / name, 2)
    command = ["train", "image", "photos", "-o", "mine", *TINY, *A_MOMENT]
    assert run(*command, "--share", "a=2", "--share", "b=0.5").exit_code == 0
    assert find("mine").trained_on.startswith("4 photographs")
    for share, words in (
        ("absent=1", "no photo in"),
        ("a", "FOLDER=WEIGHT"),
        ("a=x", "FOLDER=WEIGHT"),
        ("a=0", "above"),
    ):
        result = run(*command, "--share", share)
        assert result.exit_code == 2
        assert words in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--minutes", "0"], 2, "--minutes"),
        (["--minutes", "nan"], 2, "--minutes"),
        (["--widths", "many"], 2, "whole numbers"),
        (["--widths", "0"], 2, "--widths"),
        (["--batch", "0"], 2, "--batch"),
        (["--learning-rate", "2"], 2, "--learning-rate"),
        (["--save-every", "0"], 2, "--save-every"),
        (["--workers", "-1"], 2, "--workers"),
        (["--seed", "-1"], 2, "--seed"),
        (["--name", "../x"], 2, "--name"),
        (["--licence", "a\nb"], 2, "--licence"),
        (["--device", "cuda:9"], 2, "cannot be used here"),
        (["--from", "absent"], 2, "no weights named"),
        (["-o", "file"], 1, "cannot be written"),
        (["-o", "äöü"], 2, "--name"),
    ],
)
def test_trainings_that_cannot_start(tmp_path: Path, options: list[str], code: int, words: str) -> None:
    (tmp_path / "file").write_text("no folder")
    result = run("train", "kernel", "-o", "out", *options)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_no_photos(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, words in (("empty", "There is no photo in"), ("absent", "is no folder")):
        result = run("train", "image", folder, "-o", "out")
        assert result.exit_code == 1
        assert words in result.stderr


def test_priors_by_path(tmp_path: Path, tiny_training: Path) -> None:
    entry = find(str(tiny_training))
    assert find(str(tiny_training / "weights.toml")) == entry
    assert status(entry).state is State.PRESENT
    with pytest.raises(UsageError, match="holds no trained prior"):
        find(str(tmp_path))
    with pytest.raises(UsageError, match="not the list of one trained prior"):
        find(str(shipped_list()))
    assert run("download-weights", str(tiny_training)).exit_code == 2
    (tiny_training / entry.file).unlink()
    with pytest.raises(WeightsError, match="Run its training again"):
        find(str(tiny_training))
