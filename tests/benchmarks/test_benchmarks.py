"""Methods and programs side by side on a test set: sets, figures, runs and tables mean what they say."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from numpy.typing import NDArray
from scenes import psnr, sharp, streak
from scipy.io import savemat
from typer.testing import CliRunner

from benchmarks import comparison, contenders, metrics, sets, tables, turbulence
from benchmarks.__main__ import main
from benchmarks.comparison import Wanted
from benchmarks.contenders import Contender
from benchmarks.results import Row
from blinddeblur.errors import UsageError
from blinddeblur.files import decoding, encoding, kernel_files
from blinddeblur.files.photo import Photo
from blinddeblur.physics.convolution import blur

ROOT = Path(__file__).parents[2]
SIDE = 64
COPY = ["sh", "-c", "cp {blurred} {output}/same.png"]

Array = NDArray[Any]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        encoding.write(Photo(sharp(150, 160, 3, seed)), folder / f"scene{seed}.png")
    return folder


def peers(folder: Path, **entries: dict[str, Any]) -> Path:
    """A file of contenders; those called fast and fast_known replace methods of ours."""
    lines = []
    for key, entry in entries.items():
        name = key.replace("_", "-")
        lines.append(f"[{'methods' if name.startswith('fast') else 'peers'}.{name}]")
        lines += [f"{field} = {json.dumps(value)}" for field, value in {"result": "*.png", **entry}.items()]
    path = folder / "contenders.toml"
    path.write_text("\n".join(lines))
    return path


def run(photos: Path, output: Path, file: Path | None, names: list[str], **others: Any) -> int:
    recipe = {"number": 2, "side": SIDE, "extent": (3.0, 5.0)}
    options: dict[str, Any] = {"name": "photos", "data": photos, "methods": [], **recipe, **others}
    return comparison.run(Wanted(output=output, contenders=file, peers=names, **options))


def rows(output: Path) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads((output / "results.json").read_text())["rows"]
    return {(row["contender"], row["case"]): row for row in found}


def table(output: Path, heading: str = "|  |") -> dict[str, dict[str, str]]:
    """Name -> heading -> cell, of the first table that begins so."""
    lines = (output / "results.md").read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(heading))
    body = lines[start : lines.index("", start) if "" in lines[start:] else None]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in body]
    return {line[0]: dict(zip(cells[0], line, strict=True)) for line in cells[2:]}


# Figures


def picture(channels: int) -> tuple[Array, Array]:
    """A truth by formula, and the same 3.5 pixels lower, 2 to the left, and rippled."""
    row, column, channel = np.ogrid[:90, :80, :channels]
    truth = 0.5 + 0.25 * np.sin(row / 3 + column / 7 + channel) + 0.2 * np.sign(np.sin(row / 5) * np.sin(column / 4))
    moved = [np.roll(truth, (down, -2), (0, 1)) for down in (3, 4)]
    return truth, (moved[0] + moved[1]) / 2 + 0.03 * np.sin(row * column)


@pytest.mark.parametrize(
    ("of_restored", "of_truth", "expected"),
    # By an independent program: PSNR as it is and after the best shift in quarters of a pixel, and SSIM.
    [(1, 1, (11.448, 28.963, 0.9686)), (3, 3, (11.447, 28.961, 0.9688)), (1, 3, (9.694, 18.864, 0.8001))],
)
def test_figures_are_those_of_another_program(of_restored: int, of_truth: int, expected: tuple[float, ...]) -> None:
    found = metrics.likeness(picture(of_restored)[1], picture(of_truth)[0])
    assert (found.raw, found.psnr) == pytest.approx(expected[:2], abs=0.01)
    assert found.ssim == pytest.approx(expected[2], abs=0.002)
    assert found.psnr == pytest.approx(-10 * np.log10(found.error))


def test_agreement_of_kernels_knows_no_shift_and_no_scale() -> None:
    a, b = np.zeros((9, 9)), np.zeros((7, 7))
    a[4, 2:7], b[1:6, 3], b[3, 3:6] = [1, 2, 3, 2, 1], 1, 2
    assert metrics.agreement(a, b) == pytest.approx(0.80296, abs=1e-5)
    assert metrics.agreement(a, 3 * np.roll(a, (2, 1), (0, 1))) == pytest.approx(1)


# Sets


def test_photos_are_blurred_by_their_kernels_and_noised(photos: Path, tmp_path: Path) -> None:
    cases = sets.photos(photos, tmp_path, sets.Recipe(4, SIDE, (3, 5), noise=0.02))
    assert [case.name for case in cases] == ["000", "001", "002", "003"]
    for case in cases:
        assert case.sharp is not None
        assert case.kernel is not None
        y, x, kernel = (
            decoding.read(case.blurred),
            decoding.read(case.sharp).pixels,
            kernel_files.read_kernel(case.kernel),
        )
        assert y.depth == 8
        assert kernel.shape == (7, 7)
        assert kernel_files.read_kernel(case.kernel.with_suffix(".png")) == pytest.approx(kernel, abs=1e-4)
        made = blur(torch.from_numpy(x).permute(2, 0, 1)[None], torch.from_numpy(kernel).float())[0].permute(1, 2, 0)
        assert np.std(y.pixels[3:-3, 3:-3] - made.numpy()) == pytest.approx(0.02, rel=0.05)
    first = sets.photos(photos, tmp_path, sets.Recipe(1, SIDE, (3, 5), noise=0.02))  # else the files would differ
    assert first == cases[:1]
    with pytest.raises(UsageError, match="another picture"):
        sets.photos(photos, tmp_path, sets.Recipe(1, SIDE, (3, 5), noise=0.01))


def test_photons_make_noise_that_grows_with_the_light(photos: Path) -> None:
    files = sets.sharp_photos(photos)
    clean, noisy = (
        next(sets.blurred_crops(files, sets.Recipe(1, SIDE, (3, 5), noise=0, photons=photons))).blurred
        for photons in (None, 400)
    )
    assert np.std((noisy - clean) / np.sqrt(clean / 400)) == pytest.approx(1, rel=0.05)


def test_the_crop_with_most_texture(tmp_path: Path) -> None:
    flat = np.full((300, 300, 3), 0.5, np.float32)
    flat[200:290, 10:100] = sharp(90, 90, 3)
    encoding.write(Photo(flat), tmp_path / "flat.png")
    spread, texture = (
        next(sets.blurred_crops([tmp_path / "flat.png"], sets.Recipe(1, SIDE, (3, 5), crops=crops)))
        for crops in ("spread", "texture")
    )
    assert spread.sharp.std() == 0
    assert texture.sharp.std() > 0.05


def test_the_array_of_a_kernel_follows_from_its_extent() -> None:
    assert [sets.Recipe(extent=(1, most)).kernel_side for most in (3, 9, 32)] == [7, 13, 47]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"number": 16}, "at most 15 crops"),
        ({"side": 200}, "Lower --side"),
        ({"side": 63}, "--side must be 64"),
        ({"extent": (5, 3)}, "--extent"),
        ({"noise": -1}, "--noise"),
        ({"photons": 0}, "--photons"),
        ({"crops": "middle"}, "spread or texture"),
        ({"crops": "texture", "number": 4}, "at most 3 crops"),
    ],
)
def test_photos_that_cannot_be_made(photos: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        sets.photos(photos, tmp_path, sets.Recipe(**{"number": 1, "side": SIDE, "extent": (3, 5), **options}))


def levin(folder: Path, **changed: Array) -> Path:
    """A set as of Levin et al.: real ones are a convolution with the kernel turned by 180 degrees."""
    folder.mkdir()
    x, kernel = sharp(255 + 14, 255 + 14, 1), streak(15).astype(np.float64)
    kernel[2, 10] = 0.05  # so that it is not its own mirror image
    y = blur(torch.from_numpy(x[..., 0])[None, None], torch.from_numpy(kernel / kernel.sum()).float())[0, 0].numpy()
    arrays = {"x": x[7:-7, 7:-7, 0], "y": np.roll(y, (1, -2), (0, 1)), "f": kernel[::-1, ::-1] * 2, **changed}
    for image in range(5, 9):
        for number in range(1, 9):
            savemat(folder / f"im{image:02}_flit{number:02}.mat", arrays)
    return folder


def test_levin_is_read_from_its_files_for_matlab(tmp_path: Path) -> None:
    case, _ = sets.levin(levin(tmp_path / "data"), tmp_path / "set", number=2)
    assert case.name == "im05_flit01"
    assert decoding.read(case.blurred).depth == 16
    assert case.kernel is not None
    kernel, true = kernel_files.read_kernel(case.kernel), streak(15)
    true[2, 10] = 0.05
    assert kernel == pytest.approx(true / true.sum(), abs=1e-6)  # turned back, and of sum 1
    pictures = tmp_path / "set"
    with pytest.raises(UsageError, match="There are 2 cases, and should be 32"):
        sets.levin(pictures, tmp_path / "again")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"f": streak(15).T}, r"im05_flit01.*is not the blurred one"),
        ({"f": -streak(15)}, r"im05_flit01.*not negative"),
        ({"x": np.zeros((250, 255))}, r"im05_flit01.*255x250 \(sharp\)"),
        ({"y": "text"}, r"im05_flit01.*cannot be read"),
    ],
)
def test_levin_says_which_file_is_wrong(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    data = levin(tmp_path / "data", **changed)
    with pytest.raises(UsageError, match=words):
        sets.levin(data, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_data_that_are_missing_are_told_where_to_get(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such folder.*LevinEtalCVPR09Data.*im05_flit01\.mat to"):
        comparison.run(Wanted("levin", tmp_path / "out", tmp_path / "none"))
    with pytest.raises(UsageError, match=r"no photo.*https://r0k\.us"):
        sets.sharp_photos(tmp_path)
    with pytest.raises(UsageError, match="no test set of this name"):
        comparison.run(Wanted(str(tmp_path / "levine"), tmp_path / "out"))


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (70, 80, 3)).astype(np.uint16)
    alpha = np.full((70, 80), 9, np.uint16)
    encoding.write(Photo(deep, alpha, depth=16), tmp_path / "data" / "a.tiff")
    (plain,) = sets.folder(tmp_path / "data", tmp_path / "set")
    assert (plain.sharp, plain.kernel) == (None, None)
    assert np.array_equal(decoding.read(plain.blurred).stored, deep)
    encoding.write(Photo(sharp(70, 80, 1)), tmp_path / "full" / "blurred" / "a.png")
    encoding.write(Photo(sharp(70, 80, 1)), tmp_path / "full" / "sharp" / "a.bmp")
    (full,) = sets.folder(tmp_path / "full", tmp_path / "other")
    assert full.sharp is not None
    encoding.write(Photo(sharp(70, 81, 1)), tmp_path / "full" / "blurred" / "b.png")
    encoding.write(Photo(sharp(70, 80, 1)), tmp_path / "full" / "sharp" / "b.png")
    with pytest.raises(UsageError, match=r"b\.png has 81x70 pixels, and its truth 80x70"):
        sets.folder(tmp_path / "full", tmp_path / "other")
    encoding.write(Photo(sharp(70, 80, 1)), tmp_path / "data" / "a.png")
    with pytest.raises(UsageError, match="have one name"):
        sets.folder(tmp_path / "data", tmp_path / "set")


# Contenders


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[peers.x]\ncommand = ["a", "{picture}"]\nresult = "*"', r"\{picture\}.*\{blurred\}"),
        ('[peers.x]\ncommand = ["a"]', "peers.x: result is missing"),
        ('[peers.x]\nresult = "*"', "peers.x: command is missing"),
        ('[peers.x]\ncommand = "a"\nresult = "*"', "command must be a list"),
        ('[peers.x]\ncommand = ["a"]\nresult = "*"\ntimeout = -1', "timeout must be"),
        ('[peers.x]\ncommand = ["a"]\nresult = "*"\nresluts = "*"', "no setting resluts"),
        ('[peers."../x"]\ncommand = ["a"]\nresult = "*"', "A folder is named after it"),
        ('[peers.blurred]\ncommand = ["a"]\nresult = "*"', "A folder is named after it"),
        ('[peers.fast]\ncommand = ["a"]\nresult = "*"', "the name of a method and of a peer"),
        ("[others.x]", r"no \[others\]"),
        ("[peers", "is no list of contenders"),
    ],
)
def test_a_file_of_contenders_that_makes_no_sense(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        contenders.load(path)


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["sh", "no-such-program", "python:json", "python:no_such.module", "$THERE/a", "$NOWHERE/a"]
    file = peers(
        tmp_path, x={"command": ["$ELSEWHERE/b"], "needs": needs, "where": "https://x.org"}, y={"command": COPY}
    )
    monkeypatch.setenv("THERE", str(tmp_path))
    known = contenders.load(file)
    told = known.absent()["x"]
    for word in ("no-such-program", "no_such.module", f"{tmp_path}/a", "variable NOWHERE", "variable ELSEWHERE"):
        assert word in told
    assert "json" not in told
    assert told.endswith("Get it from https://x.org.")
    assert "y" in [contender.key for contender in known.chosen([], ["all"])]
    assert "x" not in [contender.key for contender in known.chosen([], ["all"])]
    with pytest.raises(UsageError, match=r"x cannot run: .*no-such-program"):
        known.chosen([], ["x"])
    with pytest.raises(UsageError, match=r"no method slow\. Choose of fast,"):
        known.chosen(["slow"], [])


def test_every_method_of_ours_is_a_command_line_that_exists(photos: Path, tmp_path: Path) -> None:
    file = peers(tmp_path, given={"command": [*COPY, "{kernel}"]})
    known = contenders.load(file)
    assert {"fast", "fast-known", "blinddps", "dps", "ddnm", "diffpir", "dps-poisson-known"} <= known.methods.keys()
    assert all(c.uses("true_kernel") == ("true kernel" in c.told) for c in known.methods.values())
    assert [c.key for c in known.chosen(["fast-known"], ["given"])] == ["fast", "fast-known", "given"]


# Runs


def test_whatever_goes_wrong_stops_nothing_else(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = "print('one'); print('the lens is dirty')"
    file = peers(
        tmp_path,
        same={"command": COPY, "name": "the same", "told": "nothing"},
        broken={"command": ["sh", "-c", "echo one; echo the lens is dirty >&2; exit 3"]},
        killed={"command": [sys.executable, "-c", f"{said}; import os; os.abort()"]},
        late={"command": ["sh", "-c", "sleep 60 & sleep 60"], "timeout": 0.5},
        absent={"command": ["no-such-program"]},
        nothing={"command": ["true"]},
        several={"command": ["sh", "-c", "cp {blurred} {output}/a.png; cp {blurred} {output}/b.png"]},
        larger={"command": ["cp", str(photos / "scene0.png"), "{output}"]},
        damaged={"command": ["sh", "-c", "echo no picture > {output}/a.png"]},
        once={"command": ["sh", "-c", f"mkdir {tmp_path}/once && cp {{blurred}} {{output}}"]},
        kernelless={"command": COPY, "kernel": "*.npy"},
    )
    output = tmp_path / "out"
    names = [key for key in contenders.load(file).peers if key in file.read_text()]
    assert run(photos, output, file, names) == 1
    found = rows(output)
    why = {contender: row["failure"] for (contender, case), row in found.items() if case == "001"}
    assert why["blurred"] is None
    assert why["same"] is None
    assert why["broken"] == "It ended with exit code 3. It said: one / the lens is dirty"
    assert "ended with signal 6" in why["killed"]
    assert why["late"] == "It was ended after 0.5 s. It said nothing."
    assert why["absent"] == "The program no-such-program is missing."
    assert why["nothing"] == "No file matches *.png among its results: there are none."
    assert why["several"] == "2 files match *.png among its results: a.png, b.png."
    assert why["larger"] == "The result has 160x150 pixels, and the picture 64x64."
    assert "cannot be read" in why["damaged"]
    assert why["kernelless"] == "No file matches *.npy among its results: same.png."
    page = (output / "results.md").read_text()
    assert f"- broken, 001, seed 0: {why['broken']}" in page
    # Means are over what all have finished: `once` failed on the second case, others on both.
    shown = table(output)
    assert list(shown) == ["blurred", "the same", "once"]
    assert "Means over 1 of 2 cases" in page
    assert {line["cases"] for line in shown.values()} == {"1"}
    assert shown["the same"]["PSNR"] == f"{found['blurred', '000']['psnr']:.2f}"
    assert shown["the same"]["told"] == "nothing"
    assert (output / "same" / "001.png").exists()
    assert (output / "sheet.jpg").exists()
    assert "001 broken 0: failed." in capfd.readouterr().err


def test_memory_is_that_of_the_program_alone(photos: Path, tmp_path: Path) -> None:
    hungry = "import shutil; b = b'x' * (200 << 20); shutil.copy('{blurred}', '{output}')"
    file = peers(tmp_path, same={"command": COPY}, hungry={"command": ["{python}", "-c", hungry]})
    assert run(photos, tmp_path / "out", file, ["same", "hungry"], number=1) == 0
    found = rows(tmp_path / "out")
    assert 0 < found["same", "000"]["peak"] < 40  # this process holds torch
    assert 200 < found["hungry", "000"]["peak"] < 250
    assert 0 < found["same", "000"]["seconds"] < 10


def test_what_is_finished_is_not_run_again(photos: Path, tmp_path: Path) -> None:
    tally = tmp_path / "tally"
    counted = f"echo run >> {tally}; cp {{blurred}} {{output}}"
    failing = f"test -e {tmp_path}/mended && cp {{blurred}} {{output}}"
    entries = {"counted": {"command": ["sh", "-c", counted]}, "failing": {"command": ["sh", "-c", failing]}}
    file, output = peers(tmp_path, **entries), tmp_path / "out"
    assert run(photos, output, file, ["counted", "failing"], number=1) == 1
    assert run(photos, output, file, ["counted"], number=1) == 0
    assert tally.read_text() == "run\n"
    (tmp_path / "mended").touch()
    assert run(photos, output, file, ["counted", "failing"], number=2) == 0  # what failed is tried again
    assert tally.read_text() == "run\nrun\n"
    before = (output / "results.json").read_bytes()
    for changed in ({"noise": 0.02}, {"side": 65}, {"jobs": 2}, {"seeds": [1]}, {"photons": 100}):
        with pytest.raises(UsageError, match=f"{next(iter(changed))} = .* now it is"):
            run(photos, output, file, ["counted"], **changed)
    entries["counted"]["command"] = COPY
    with pytest.raises(UsageError, match="another command of counted"):
        run(photos, output, peers(tmp_path, **entries), ["counted"])
    assert (output / "results.json").read_bytes() == before
    assert table(output)["counted"]["cases"] == "2"


def test_a_folder_of_other_things_is_left_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(UsageError, match="holds other things"):
        run(photos, tmp_path / "out", None, [])
    (tmp_path / "out" / "results.json").write_text("[]")
    with pytest.raises(UsageError, match="no file of results"):
        run(photos, tmp_path / "out", None, [])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mine.txt", "results.json"]


def test_kernels_are_passed_on_and_judged(photos: Path, tmp_path: Path) -> None:
    given = "test -f {kernel}.png && cp {kernel}.npy {output}/k.npy && cp {input}/* {output}/a.png"
    known = "cp {true_kernel}.npy {output}/k.npy && cp $TRUTH/$(basename {blurred}) {output}/a.png"
    told = f"ls {{input}} > {tmp_path}/told; echo {{kernel_size}} {{sigma}} {{seed}} {{threads}} >> {tmp_path}/told"
    cross = "import numpy as np, shutil; k = np.zeros((7, 7)); k[3] = 1; np.save('{output}/k.npy', k); "
    file = peers(
        tmp_path,
        given={"command": ["sh", "-c", f"{told}; {given}"], "kernel": "k.npy"},
        fast={"command": ["{python}", "-c", cross + "shutil.copy('{blurred}', '{output}')"], "kernel": "k.npy"},
        fast_known={"command": ["sh", "-c", known], "kernel": "k.npy", "told": "true kernel"},
    )
    output = tmp_path / "out"
    noisy = sets.Recipe(2, SIDE, (3, 5), noise=0.04)
    cases = sets.photos(photos, tmp_path / "truth", noisy)
    for case in cases:  # what `fast-known` will answer: the truth, with an error of 0.001
        assert case.sharp is not None
        answer = decoding.read(case.sharp).pixels + np.float32(0.01)
        encoding.write(Photo(answer, depth=16), tmp_path / "answers" / case.blurred.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUTH", str(tmp_path / "answers"))
        assert run(photos, output, file, ["given"], methods=["fast-known"], noise=0.04) == 0
    found = rows(output)
    truth = kernel_files.read_kernel(cases[1].kernel or Path())
    line = np.zeros((7, 7))
    line[3] = 1
    assert found["fast", "001"]["mnc"] == pytest.approx(metrics.agreement(line, truth))
    assert found["given", "001"]["mnc"] == pytest.approx(found["fast", "001"]["mnc"], abs=1e-6)
    assert found["fast-known", "001"]["mnc"] == pytest.approx(1)
    ratio = np.mean([found["fast", case]["error"] / 1e-4 for case in ("000", "001")])
    shown = table(output)
    assert float(shown["fast"]["error ratio"]) == pytest.approx(ratio, rel=0.01)
    assert shown["fast-known"]["error ratio"] == "1.00"
    poor = sum(found["fast", case]["mnc"] < 0.7 for case in ("000", "001"))
    assert shown["fast"]["MNC (under 0.7)"].endswith(f"({poor} of 2)")
    name, words = (tmp_path / "told").read_text().splitlines()
    size, sigma, seed, threads = words.split()
    assert (name, size, seed) == ("001.png", "7", "0")
    assert float(sigma) == pytest.approx(0.04, rel=0.3)
    assert int(threads) == len(os.sched_getaffinity(0))


def test_photos_without_truth_have_seconds_alone(tmp_path: Path) -> None:
    encoding.write(Photo(sharp(70, 80, 1)), tmp_path / "data" / "a.png")
    file = peers(tmp_path, same={"command": COPY}, knows={"command": [*COPY, "{true_kernel}"]})
    output = tmp_path / "out"
    assert run(tmp_path / "data", output, file, ["same", "knows"], name=str(tmp_path / "data")) == 0
    assert rows(output)["knows", "a"]["skipped"] == "no true kernel is known"
    assert list(table(output)["same"]) == ["", "cases", "seconds", "peak MB"]
    assert "- knows, a, seed 0: no true kernel is known" in (output / "results.md").read_text()


def test_seeds_are_told_apart(photos: Path, tmp_path: Path) -> None:
    script = (
        "import cv2, numpy as np; x = cv2.imread('{blurred}').astype(float); "
        "x[::2] += 4 * {seed} + 4; cv2.imwrite('{output}/a.png', np.clip(x, 0, 255).astype(np.uint8))"
    )
    output = tmp_path / "out"
    file = peers(tmp_path, worse={"command": ["{python}", "-c", script]})
    assert run(photos, output, file, ["worse"], name="seeds", seeds=[0, 1]) == 0
    found = json.loads((output / "results.json").read_text())["rows"]
    values = np.array([[r["psnr"] for r in found if (r["contender"], r["seed"]) == ("worse", s)] for s in range(2)])
    line = table(output, "|  | cases | seeds")["worse"]
    expected = [values.mean(), values.std(axis=0, ddof=1).mean(), values.mean(axis=1).min(), values.mean(axis=1).max()]
    assert [float(cell) for cell in list(line.values())[3:]] == pytest.approx(expected, abs=0.006)
    assert values.std(axis=0).min() > 0.05
    assert (output / "worse" / "seed-1" / "001.png").exists()


def test_several_at_once_share_the_cores(photos: Path, tmp_path: Path) -> None:
    # Each waits for the other, so one after the other would not end.
    wait = (
        f"cd {tmp_path}; echo $OMP_NUM_THREADS > $(basename {{blurred}}); "
        "until [ -e 000.png -a -e 001.png ]; do sleep 0.05; done; "
    )
    file = peers(tmp_path, waits={"command": ["sh", "-c", wait + COPY[2]], "timeout": 20})
    assert run(photos, tmp_path / "out", file, ["waits"], jobs=2) == 0
    assert (tmp_path / "000.png").read_text() == f"{max(1, len(os.sched_getaffinity(0)) // 2)}\n"


def test_an_interrupt_ends_what_is_running_and_keeps_what_is_finished(photos: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    sleep = f"sleep 60 & echo $! > {pid}.new; mv {pid}.new {pid}; wait"
    script = f"if [ $(basename {{blurred}}) = 001.png ]; then {sleep}; fi; "
    file = peers(tmp_path, slow={"command": ["sh", "-c", script + COPY[2]]})
    options = ["--side", str(SIDE), "--extent", "3,5", "--number", "2", "--methods", "none", "--peers", "slow"]
    options += ["--data", str(photos), "--contenders", str(file), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "photos", *options], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 50  # seconds; it would sleep longer
    while not pid.exists() and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on" in said
    asleep = Path("/proc", pid.read_text().strip())
    while asleep.exists() and time.monotonic() < limit:  # until the system has cleared it away
        time.sleep(0.05)
    assert not asleep.exists()
    assert list(table(tmp_path / "out")) == ["blurred", "slow"]
    assert ("slow", "001") not in rows(tmp_path / "out")


def test_our_own_method_with_the_true_kernel_restores(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run(photos, output, None, [], methods=["fast-known"], number=1, extent=(5, 5), noise=0.002) == 0
    shown = table(output)
    assert shown["fast-known"]["told"] == "true kernel"
    assert float(shown["fast-known"]["PSNR"]) > float(shown["blurred"]["PSNR"]) + 3
    restored, truth = (decoding.read(output / place).pixels for place in ("fast-known/000.png", "set/sharp/000.png"))
    assert psnr(restored, truth, 15) == pytest.approx(rows(output)["fast-known", "000"]["raw"], abs=0.01)


def test_missing_packages_are_told(tmp_path: Path) -> None:
    (tmp_path / "find.py").write_text(
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'skimage' else real(name, *more)\n"
        "import runpy\n"
        "runpy.run_module('benchmarks', run_name='__main__')\n"
    )
    command = [sys.executable, str(tmp_path / "find.py"), "levin", "-o", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert told.returncode == 2
    assert 'pip install ".[benchmarks]"' in told.stderr
    assert "Traceback" not in told.stderr


def test_wrong_usage_is_told_apart_from_failure(photos: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    broken = peers(tmp_path, broken={"command": ["false"]})
    base = ["photos", "--data", str(photos), "--number", "1", "--side", "64", "-o", str(tmp_path / "out")]
    base += ["--contenders", str(broken), "--methods", "none", "--peers", "broken, broken"]
    wrong = CliRunner().invoke(app, [*base, "--extent", "5"])
    assert wrong.exit_code == 2
    assert "--extent takes two numbers" in wrong.stderr
    failed = CliRunner().invoke(app, [*base, "--extent", "3,5"])
    assert failed.exit_code == 1
    assert "- broken, 000, seed 0: It ended with exit code 1. It said nothing." in failed.stdout


# Tables


def test_published_figures_are_quoted_apart() -> None:
    known = {"fast": Contender("fast", ("x",), "*", name="fast")}
    page = tables.page("levin", [Row("a", "fast", 0, psnr=30.0)], known, "levin")
    ours, quoted = page.split("## Published elsewhere")
    assert "| fast | 1 | 30.00 |" in ours
    assert "not run here" in quoted
    assert "| Deblur-INR 2024 | 33.74 | 1.185 |" in quoted
    assert "NeurIPS 2024" in quoted
    assert "Published" not in tables.page("photos", [Row("a", "fast", 0, psnr=30.0)], known, "photos")


def test_sequences_go_on_where_they_were_stopped(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"DRAWN": 1, "FRAMES": [1, 3], "STRENGTHS": [2.0]}.items():
        monkeypatch.setattr(turbulence, name, value)
    output = tmp_path / "out"
    wanted = Wanted("turbulence", output, photos, ["mean", "median"], number=2, side=SIDE)
    assert comparison.run(wanted) == 0
    before = (output / "results.json").read_bytes()
    found = json.loads(before)["rows"]
    assert len(found) == 2 * (2 + 4)
    page = (output / "results.md").read_text()
    assert page in capsys.readouterr().out
    assert page.count("| 2 | 3 |") == 4
    assert (output / "pictures" / "scene1-2-3" / "truth.png").exists()
    assert (output / "sheet.jpg").exists()
    kept = json.loads(before)
    kept["rows"] = [row for row in found if row["frames"] == 3]
    (output / "results.json").write_text(json.dumps(kept))
    assert comparison.run(wanted) == 0
    after = json.loads((output / "results.json").read_text())["rows"]
    assert after[:8] == kept["rows"]  # the same seconds: not run again
    assert [row["frames"] for row in after[8:]] == [1] * 4
    with pytest.raises(UsageError, match="side = 64, and now it is 65"):
        comparison.run(Wanted("turbulence", output, photos, ["mean", "median"], number=2, side=65))
    with pytest.raises(UsageError, match="No peer restores sequences"):
        comparison.run(Wanted("turbulence", output, photos, peers=["all"]))
