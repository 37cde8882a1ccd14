"""The command sample as people use it: files out of nothing but a prior, and words for all that can go wrong."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from blinddeblur.cli import app
from blinddeblur.files import decoding, kernel_files
from blinddeblur.priors.kolmogorov import CORRELATION_LENGTH, TYPICAL_STRENGTH, KolmogorovTilt

QUICK = ["--steps", "2", "--device", "cpu"]
FILES = {
    "image": ["sample-1.png"],
    "kernel": ["sample-1.npy", "sample-1.png"],
    "tilt": ["sample-1.npz", "sample-1.png"],
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["sample", *arguments])


def contents(folder: str = "out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_images() -> None:
    result = run("image", "-o", "out", "--number", "2", "--size", "40", "--steps", "12", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert list(contents()) == ["sample-1.png", "sample-2.png"]
    assert "out/sample-1.png (" in result.stdout
    assert "sample-2: step " in result.stderr
    first, second = (decoding.read(Path(f"out/sample-{n}.png")) for n in (1, 2))
    assert first.stored.shape == (40, 40, 3)
    assert np.abs(first.pixels - second.pixels).mean() > 0.02  # samples, not one answer
    # The noise they came out of is gone: neighbours resemble each other.
    assert np.abs(np.diff(first.pixels, axis=0)).mean() < 0.5 * np.abs(first.pixels - first.pixels.mean()).mean()


def test_kernels_are_kernels_that_restore_takes() -> None:
    assert run("kernel", "-o", "out", "--steps", "20", "--device", "cpu", "-q").output == ""
    assert list(contents()) == FILES["kernel"]
    kernel = np.load("out/sample-1.npy")
    assert (kernel.shape, kernel.dtype) == ((63, 63), np.float32)
    assert kernel.sum() == pytest.approx(1, abs=1e-4)
    assert kernel.min() >= 0
    assert np.sort(kernel.ravel())[-400:].sum() > 0.9  # a tenth of the array at most holds nearly all
    np.testing.assert_allclose(kernel_files.read_kernel(Path("out/sample-1.png")), kernel, atol=2e-5)


def test_tilts_have_the_strength_of_their_prior() -> None:
    number, lag, prior = 8, 8, KolmogorovTilt(TYPICAL_STRENGTH, CORRELATION_LENGTH)
    result = run("tilt", "-o", "out", "--number", str(number), "--size", "32")
    assert result.exit_code == 0, result.output
    fields = []
    for index in range(1, number + 1):
        with np.load(f"out/sample-{index}.npz") as file:
            assert int(file["spacing"]) == 1
            fields.append(file["tilts"][0])
    tilts = np.stack(fields)
    assert (tilts.shape, tilts.dtype) == ((number, 2, 32, 32), np.float32)
    apart = [np.square(tilts[..., lag:, :] - tilts[..., :-lag, :]), np.square(tilts[..., lag:] - tilts[..., :-lag])]
    assert np.mean([part.mean() for part in apart]) == pytest.approx(prior.structure(lag), rel=0.3)
    assert decoding.read(Path("out/sample-1.png")).stored.shape[2] == 3


@pytest.mark.parametrize("kind", FILES)
def test_finished_samples_are_skipped_and_more_are_the_same_as_at_once(kind: str) -> None:
    options = {"image": ["--size", "16", *QUICK], "kernel": QUICK, "tilt": ["--size", "16"]}[kind]
    assert run(kind, "-o", "out", *options).exit_code == 0
    before = contents()
    assert list(before) == FILES[kind]
    again = run(kind, "-o", "out", *options)
    assert again.exit_code == 0
    assert "sample-1: finished already, in out/sample-1.png" in again.stdout
    assert "step" not in again.stderr
    stamps = [path.stat().st_mtime_ns for path in Path("out").iterdir()]
    assert run(kind, "-o", "out", "--number", "2", *options).exit_code == 0
    assert set(stamps) <= {path.stat().st_mtime_ns for path in Path("out").iterdir()}
    assert run(kind, "-o", "other", "--number", "2", *options).exit_code == 0
    assert contents() == contents("other")
    replaced = run(kind, "-o", "out", "--overwrite", "--seed", "7", *options)
    assert replaced.exit_code == 0, replaced.output
    assert contents()[FILES[kind][0]] != before[FILES[kind][0]]
    assert contents()["sample-2.png"] == contents("other")["sample-2.png"]


def test_a_file_of_the_users_own_is_kept() -> None:
    Path("out").mkdir()
    Path("out/sample-2.npy").write_text("precious")
    result = run("kernel", "-o", "out", "--number", "2", *QUICK)
    assert result.exit_code == 1
    assert "out/sample-2.npy: The file exists already" in result.stderr
    assert "step" not in result.stderr  # no minutes were spent before saying so
    assert contents() == {"sample-2.npy": b"precious"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["blur"], 2, "Choose one of image, kernel, tilt"),
        (["image", "--number", "0"], 2, "number of samples must lie between 1 and"),
        (["image", "--steps", "1"], 2, "number of steps must lie between 2 and 1000"),
        (["image", "--size", "0"], 2, "size must lie between 16 and 1024"),
        (["image", "--size", "5000"], 2, "size must lie between 16 and 1024"),
        (["image", "--seed", "-1"], 2, "seed must lie between 0 and"),
        (["image", "--prior", "kernel"], 2, "of kind kernel"),
        (["image", "--prior", "nothing"], 2, "no weights named"),
        (["image", "--prior", "ffhq-256"], 3, "`blinddeblur download-weights ffhq-256`"),
        (["tilt", "--prior", "photo"], 2, "of kind image"),
        (["tilt"], 2, "Leave out --steps"),
        (["kernel", "--prior", "photo-kernel"], 2, "only of a photo that it is shown"),
        (["kernel", "--size", "32"], 2, "only arrays of 64 pixels"),
        (["image", "--device", "cuda:9"], 2, "cannot be used here"),
        (["image", "-o", "-"], 2, "Give a folder as -o"),
        (["image", "-o", "a.png"], 2, "Give a folder as -o"),
        (["image", "-o", "file/below"], 1, "is a file and no folder"),
        (["image", "--nonsense"], 2, "No such option"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_done_is_said_before_it_begins(arguments: list[str], code: int, words: str) -> None:
    Path("file").write_text("precious")
    result = run("-o", "out", *QUICK, *arguments)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert "step " not in result.stderr
    assert [path.name for path in Path().iterdir()] == ["file"]
    assert Path("file").read_text() == "precious"


def test_the_folder_has_to_be_named() -> None:
    result = run("image")
    assert result.exit_code == 2
    assert "Missing option" in result.stderr


def test_an_interrupt_keeps_what_is_complete_and_nothing_else() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "blinddeblur", "sample", "kernel", "-o", "out", "--number", "99", *QUICK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it for background jobs
    )
    assert process.stdout is not None
    assert "sample-1.png" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in said
    assert "Traceback" not in said
    numbers = {int(path.stem.removeprefix("sample-")) for path in Path("out").iterdir()}
    assert numbers == set(range(1, len(numbers) + 1))
    assert len(list(Path("out").iterdir())) == 2 * len(numbers) < 198
