"""Whole directories: what is done, what is skipped, what is refused; reports, streams, several processes, kill -9."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from photofiles import exif_block, smooth
from PIL import Image
from scenes import blurred, streak
from typer.testing import CliRunner, Result

from blinddeblur.cli import app
from blinddeblur.files import decoding, encoding
from blinddeblur.files.photo import Photo

QUICK = ["--steps", "2", "--kernel-size", "9", "--device", "cpu"]
KNOWN = ["--kernel", "k.npy", "--device", "cpu"]  # no estimate, so that a photo takes a moment


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    np.save("k.npy", streak(5, 3))


def run(*arguments: str | Path, given: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=given)


def make(path: str, side: int = 36, seed: int = 0, width: int | None = None, **kind: object) -> Path:
    _, y = blurred(side, width or side + 4, 3, streak(5, 3), sigma=0.002, seed=seed)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    encoding.write(Photo(y, **kind), Path(path))
    return Path(path)


def tree(folder: str) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def restored(folder: str) -> list[str]:
    return [name for name in tree(folder) if ".deblurred." in name]


def test_a_tree_is_mirrored() -> None:
    for name in ("in/a.png", "in/trip/b.jpg", "in/trip/deep down/c.png", "in/.hidden/d.png"):
        make(name)
    assert restored("in") == []
    assert run("restore", "in", "-o", "out", *KNOWN).exit_code == 0
    assert restored("out") == ["a.deblurred.png"]
    result = run("restore", "in", "-o", "out", "--recursive", *KNOWN)
    assert result.exit_code == 0
    assert restored("out") == ["a.deblurred.png", "trip/b.deblurred.jpg", "trip/deep down/c.deblurred.png"]
    assert "a.png: finished already" in result.stdout
    assert "2 restored, 1 finished before" in result.stderr


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("IMG_*.png", ["IMG_1.deblurred.png", "trip/IMG_2.deblurred.png"]),
        ("trip/*", ["trip/IMG_2.deblurred.png", "trip/x.deblurred.png"]),
    ],
)
def test_only_names_that_match(pattern: str, found: list[str]) -> None:
    for name in ("in/IMG_1.png", "in/x.png", "in/trip/IMG_2.png", "in/trip/x.png"):
        make(name)
    assert run("restore", "in", "-o", "out", "-r", "--include", pattern, *KNOWN).exit_code == 0
    assert restored("out") == found
    assert run("restore", "in", "-o", "out", "-r", "--include", "*.webp", *KNOWN).exit_code == 1


def mixed_directory() -> tuple[set[str], set[str]]:
    """Forty files of every kind; names of those to be restored and of those that cannot be."""
    good, bad = set(), set()
    for orientation in range(1, 9):
        name = f"turned {orientation}.jpg"
        smooth(48, 36).save(f"in/{name}", exif=exif_block(orientation), quality=92)
        good.add(name)
    deep = np.random.default_rng(0).integers(0, 65536, (36, 40, 3), np.uint16)
    for ending in ("png", "tiff"):
        for name, stored, alpha in (
            (f"deep.{ending}", deep, None),
            (f"deep grey.{ending}", deep[..., :1], None),
            (f"deep clear.{ending}", deep, deep[..., 0]),
        ):
            encoding.write(Photo(stored, alpha, 16), Path("in") / name)
            good.add(name)
    for ending in ("jpg", "jpeg", "png", "tif", "tiff", "bmp", "webp"):
        name = f"Größe 東京 {ending}.{ending}"
        make(f"in/{name}", seed=len(good))
        good.add(name)
    for name in ("grey.jpg", "grey.png", "grey.bmp"):
        smooth(48, 36).convert("L").save(f"in/{name}")
        good.add(name)
    for name in ("clear.png", "clear.webp", "palette.png", "UPPER.PNG", "a.b.c.png"):
        mode = "P" if name == "palette.png" else "RGBA" if "clear" in name else "RGB"
        smooth(48, 36).convert(mode).save(f"in/{name}", **({"lossless": True} if "webp" in name else {}))
        good.add(name)
    whole = (Path("in") / "turned 1.jpg").read_bytes()
    for name, data in (
        ("truncated.jpg", whole[: len(whole) // 2]),
        ("truncated.png", (Path("in") / "deep.png").read_bytes()[:500]),
        ("empty.jpg", b""),
        ("text.jpg", b"not a photo"),
        ("bomb.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\x01\x86\xa0\0\x01\x86\xa0\x08\x02\0\0\0" + bytes(40)),
    ):
        (Path("in") / name).write_bytes(data)
        bad.add(name)
    for name in ("cmyk.jpg", "cmyk.tif"):
        smooth(48, 36).convert("CMYK").save(f"in/{name}")
        bad.add(name)
    Image.new("RGB", (31, 90)).save("in/tiny.png")
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save("in/animated.webp", save_all=True, append_images=frames[1:])
    Image.new("RGB", (60000, 1)).save("in/narrow.png")
    return good, bad | {"tiny.png", "animated.webp", "narrow.png"}


def test_forty_files_of_every_kind() -> None:
    Path("in").mkdir()
    good, bad = mixed_directory()
    assert len(good) + len(bad) == len(tree("in")) >= 39
    Path("in/notes.txt").write_text("no photo")
    before = {name: (Path("in") / name).read_bytes() for name in tree("in")}
    result = run("restore", "in", "-o", "out", "--json", "--report", "report.html", *KNOWN)
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    failed = {Path(line["input"]).name: line["error"] for line in lines if "error" in line}
    assert set(failed) == bad, result.stderr
    assert all(name in sentence for name, sentence in failed.items())
    assert {Path(line["input"]).name for line in lines if "restored" in line} == good
    assert len(restored("out")) == len(good)
    assert {name: (Path("in") / name).read_bytes() for name in tree("in")} == before
    for name in good:
        source = decoding.read(Path("in") / name)
        several = sum(Path(other).stem == Path(name).stem for other in good | bad) > 1
        target = decoding.read(Path("out") / f"{name if several else Path(name).stem}.deblurred{Path(name).suffix}")
        assert target.stored.shape == source.stored.shape, name
        assert target.stored.dtype == source.stored.dtype, name
        assert (target.alpha is None) == (source.alpha is None), name
        assert target.alpha is None or np.array_equal(target.alpha, source.alpha), name
        assert np.abs(target.pixels.mean(axis=(0, 1)) - source.pixels.mean(axis=(0, 1))).max() < 6 / 255, name
    page = Path("report.html").read_text(encoding="utf-8")
    assert f"{len(good)} restored, {len(bad)} failed" in page

    times = {name: (Path("out") / name).stat().st_mtime_ns for name in tree("out")}
    again = run("restore", "in", "-o", "out", "--report", "report.html", *KNOWN)
    assert again.exit_code == 1
    assert again.stdout.count("finished already") == len(good)
    assert {name: (Path("out") / name).stat().st_mtime_ns for name in tree("out")} == times
    assert f"0 restored, {len(bad)} failed, {len(good)} skipped" in Path("report.html").read_text(encoding="utf-8")


def test_fail_fast() -> None:
    Path("in").mkdir()
    (Path("in") / "a.png").write_bytes(b"no")
    make("in/b.png")
    result = run("restore", "in", "-o", "out", "--fail-fast", *KNOWN)
    assert result.exit_code == 1
    assert not Path("out").exists()
    assert "1 failed, 1 not begun" in result.stderr


def test_dry_run_does_nothing() -> None:
    make("in/a.png")
    make("in/b.png")
    (Path("in") / "c.png").write_bytes(b"no")
    result = run("restore", "in", "-o", "out", "--dry-run", *KNOWN)
    assert result.exit_code == 1
    assert "out/a.deblurred.png, about" in result.stdout
    assert "minutes in all; nothing was done" in result.stderr
    assert "c.png" in result.stderr
    assert not Path("out").exists()


def test_photos_named_twice_are_restored_once_and_results_never() -> None:
    make("a.png")
    assert run("restore", "a.png", "./a.png", *KNOWN).exit_code == 0
    assert run("restore", "a.png", "a.deblurred.png", "a.kernel.png", "-o", "out", *KNOWN).exit_code == 0
    assert restored("out") == ["a.deblurred.png"]
    result = run("restore", "a.deblurred.png", *KNOWN)
    assert result.exit_code == 2
    assert "results of this program" in result.stderr


@pytest.mark.parametrize("name", ["out.gif", "out.heic", "out.txt", "out.jp2"])
def test_endings_that_cannot_be_written(name: str) -> None:
    make("a.png")
    result = run("restore", "a.png", "-o", name, *KNOWN)
    assert result.exit_code == 2
    assert ".png" in result.stderr
    assert not Path(name).exists()


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0b.png"])
def test_names_that_no_system_has(name: str) -> None:
    make("a.png")
    for arguments in ((name,), ("a.png", "-o", name)):
        result = run("restore", *arguments, *KNOWN)
        assert result.exit_code in (1, 2)
        assert "error" in result.stderr or "failed" in result.stderr
        assert isinstance(result.exception, SystemExit)


def test_a_link_does_not_lead_out_of_the_output_folder() -> None:
    make("in/trip/a.png")
    Path("elsewhere").mkdir()
    Path("out").mkdir()
    Path("out/trip").symlink_to(Path("elsewhere").absolute())
    result = run("restore", "in", "-r", "-o", "out", *KNOWN)
    assert result.exit_code == 2
    assert "by a link" in result.stderr
    assert tree("elsewhere") == []


def test_folders_behind_links_are_left_alone() -> None:
    make("in/a.png")
    Path("in/loop").symlink_to(Path("in").absolute())
    assert run("restore", "in", "-r", "-o", "out", *KNOWN).exit_code == 0
    assert restored("out") == ["a.deblurred.png"]


def test_standard_input_and_output() -> None:
    data = make("a.png").read_bytes()
    result = run("restore", "-", *KNOWN, given=data)
    assert result.exit_code == 0
    assert decoding.decode(result.stdout_bytes).stored.shape == (36, 40, 3)
    assert run("restore", "-", "-o", "b.jpg", *KNOWN, given=data).exit_code == 0
    assert tree(".") == ["a.png", "b.deblurred.jpg", "b.kernel.npy", "b.kernel.png", "k.npy"] or Path("b.jpg").exists()
    piped = run("restore", "a.png", "-o", "-", *KNOWN)
    assert piped.stdout_bytes == result.stdout_bytes
    assert run("restore", "-", *KNOWN, given=b"nothing").exit_code == 1
    assert run("restore", "-", "--json", *KNOWN, given=data).exit_code == 2
    assert run("restore", "-", "a.png", *KNOWN, given=data).exit_code == 2


def test_crop_compare_and_preview() -> None:
    make("a.png", side=150)
    result = run(
        "restore", "a.png", "--crop", "10,20,90,100", "--compare", "--preview", "--kernel-map", "m.png", *QUICK
    )
    assert result.exit_code == 0, result.output
    assert {"a.compare.png", "a.deblurred.png"} <= set(tree("."))
    assert not Path("a.preview.jpg").exists()  # the photo is no larger than that
    with Image.open("m.png") as picture:
        assert picture.size[0] >= 9  # one kernel for all of so small a photo
    with Image.open("a.compare.png") as picture:
        assert picture.size[0] > 2 * 154
    for wrong in ("1,2,3", "a,b,c,d", "0,0,10,10", "100,100,90,90"):
        outcome = run("restore", "a.png", "--overwrite", "--crop", wrong, "--device", "cpu")
        assert outcome.exit_code == 2
        assert "crop" in outcome.stderr


def test_the_preview_comes_first() -> None:
    make("a.png", side=40, width=600)
    result = run("restore", "a.png", "--preview", *QUICK)
    assert result.exit_code == 0, result.output
    with Image.open("a.preview.jpg") as picture:
        assert max(picture.size) == 512


def test_larger_photos_are_refused_on_request() -> None:
    Image.new("RGB", (1200, 1000)).save("a.png")
    result = run("restore", "a.png", "--max-megapixels", "1", *KNOWN)
    assert result.exit_code == 1
    assert "--max-megapixels 2" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workers", "-1"], "0 or more"),
        (["--workers", "2", "--dask", "tcp://localhost:1"], "Choose between"),
        (["--tile", "8"], "at least 64"),
        (["--overlap", "0"], "at least 2"),
        (["--max-megapixels", "0"], "1 or more"),
        (["--preview"], "Leave out --preview"),
    ],
)
def test_options_that_make_no_sense(options: list[str], words: str) -> None:
    make("a.png")
    result = run("restore", "a.png", *KNOWN, *options)
    assert result.exit_code == 2
    assert words in result.stderr


def test_small_tiles_give_the_same_photo() -> None:
    make("a.png", side=160)
    assert run("restore", "a.png", "-o", "whole.png", *KNOWN).exit_code == 0
    assert run("restore", "a.png", "-o", "tiled.png", "--tile", "80", "--overlap", "24", *KNOWN).exit_code == 0
    whole, tiled = (decoding.read(Path(name)).pixels for name in ("whole.png", "tiled.png"))
    assert -10 * np.log10(np.square(whole - tiled).mean() + 1e-12) > 0
    assert -10 * np.log10(np.square(whole - tiled).mean() + 1e-12) > 45


def test_any_error_is_of_one_photo_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    make("in/a.png")
    make("in/b.png", seed=1)
    real, calls = encoding.encode, []

    def broken(*arguments: object) -> bytes:
        calls.append(arguments)
        if len(calls) == 1:
            raise MemoryError("no memory")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("blinddeblur.files.encoding.encode", broken)
    result = run("restore", "in", "-o", "out", *KNOWN)
    assert result.exit_code == 1
    assert restored("out") == ["b.deblurred.png"]
    assert "a.png" in result.stderr
    assert "MemoryError: no memory" in result.stderr


def test_failures_of_a_single_photo_are_in_the_json_too() -> None:
    make("a.png")
    result = run("restore", "a.png", "--kernel-size", "99", "--device", "cpu", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["input"] == "a.png"
    assert "a.png" in json.loads(result.stdout)["error"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "blinddeblur", "restore", *arguments]


def test_names_on_a_terminal_without_unicode() -> None:
    make("東京 :bug:.png")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for option in ("--json", "-v"):
        done = subprocess.run(
            command("東京 :bug:.png", "-o", f"out{option}", option, *KNOWN),
            capture_output=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert b":bug:" in done.stdout


def test_two_processes_do_what_one_does() -> None:
    for number in range(4):
        make(f"in/{number}.png", seed=number)
    (Path("in") / "bad.png").write_bytes(b"no")
    assert run("restore", "in", "-o", "one", *KNOWN).exit_code == 1
    done = subprocess.run(
        command("in", "-o", "two", "--workers", "2", *KNOWN), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "4 restored, 1 failed" in done.stderr
    assert tree("one") == tree("two")
    for name in restored("one"):
        assert (Path("one") / name).read_bytes() == (Path("two") / name).read_bytes()


def test_kill_9_and_start_again() -> None:
    names = [f"{number}.png" for number in range(6)]
    for number, name in enumerate(names):
        make(f"in/{name}", side=60, seed=number)
    process = subprocess.Popen(command("in", "-o", "out", *KNOWN), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 60
    while time.monotonic() < patience and not (Path("out").exists() and len(restored("out")) >= 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= len(restored("out")) <= len(names)
    for name in restored("out"):
        decoding.read(Path("out") / name)  # whole
    assert run("restore", "in", "-o", "out", *KNOWN).exit_code == 0
    assert len(restored("out")) == len(names)
    assert run("restore", "in", "-o", "fresh", *KNOWN).exit_code == 0
    assert tree("out") == tree("fresh")
    for name in tree("out"):
        assert (Path("out") / name).read_bytes() == (Path("fresh") / name).read_bytes(), name


def test_a_cluster_does_what_one_process_does(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    for number in range(3):
        make(f"in/{number}.png", seed=number)
    (Path("in") / "bad.png").write_bytes(b"no")
    assert run("restore", "in", "-o", "one", *KNOWN).exit_code == 1
    with contextlib.closing(
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50)
    ) as cluster:
        done = subprocess.run(
            command("in", "-o", "two", "--dask", cluster.scheduler_address, "--report", "r.html", *KNOWN),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert "3 restored, 1 failed" in done.stderr
    assert tree("one") == tree("two")
    assert "3 restored, 1 failed" in Path("r.html").read_text(encoding="utf-8")
