"""The command as people use it: files in, files out, exit codes, and words for everything that can go wrong."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from commandline import interrupted, run
from PIL import Image
from scenes import blurred, decoded, sharp, streak
from syrupy.assertion import SnapshotAssertion

import blinddeblur
from blinddeblur import __version__
from blinddeblur.files import decoding, encoding, kernel_files
from blinddeblur.files.photo import Photo
from blinddeblur.files.together import write_together
from blinddeblur.weights.manifest import find, manifest

QUICK = ["--steps", "2", "--kernel-size", "9", "--device", "cpu"]
KNOWN = ["--kernel", "k.npy", "--device", "cpu"]  # no estimate, so that a photo takes a moment


pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


def make(path: Path, channels: int = 3, depth: int = 8, alpha: bool = False, side: int = 48) -> Path:
    _, y = blurred(side, side + 4, channels, streak(9, 5))
    top = 2**depth - 1
    transparency = np.full(y.shape[:2], top // 2, np.uint16 if depth == 16 else np.uint8) if alpha else None
    encoding.write(Photo(y, transparency, depth), path)
    return path


@pytest.fixture
def known(tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", streak(9, 5))


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("command", [[], ["restore"], ["turbulence"], ["sample"], ["download-weights"]])
def test_help(command: list[str], snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert result.output == snapshot


def test_version() -> None:
    assert run("--version").output == f"blinddeblur {__version__}\n"


def test_help_is_quick_and_leaves_torch_alone() -> None:
    code = "import sys, blinddeblur.cli; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    seconds = []  # of computing: the other processes of a busy machine do not count
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "blinddeblur", "--help"], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert 0.05 < min(seconds) < 0.7


@pytest.mark.parametrize(
    ("name", "channels", "depth", "alpha"),
    [
        ("photo.jpg", 3, 8, False),
        ("grey.jpg", 1, 8, False),
        ("photo.png", 3, 16, False),
        ("clear.png", 3, 8, True),
        ("deep.tiff", 3, 16, True),
        ("photo.webp", 3, 8, False),
        ("photo.bmp", 3, 8, False),
        ("with spaces, ümläut and 1.5 seconds.png", 1, 16, False),
    ],
)
def test_results_lie_beside_the_photo(tmp_path: Path, name: str, channels: int, depth: int, alpha: bool) -> None:
    source = make(tmp_path / name, channels, depth, alpha)
    before = source.read_bytes()
    result = run("restore", source, *QUICK)
    assert result.exit_code == 0, result.output
    stem, ending = name.rsplit(".", 1)
    assert files(tmp_path) == sorted([name, f"{stem}.deblurred.{ending}", f"{stem}.kernel.npy", f"{stem}.kernel.png"])
    assert source.read_bytes() == before
    original, restored = decoding.read(source), decoding.read(tmp_path / f"{stem}.deblurred.{ending}")
    assert restored.pixels.shape == original.pixels.shape
    assert restored.depth == original.depth
    assert (restored.alpha is None) == (not alpha)
    if alpha:
        assert np.array_equal(restored.alpha, original.alpha)
    kernel = np.load(tmp_path / f"{stem}.kernel.npy")
    assert kernel.dtype == np.float32
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    preview = cv2.imdecode(np.fromfile(tmp_path / f"{stem}.kernel.png", np.uint8), cv2.IMREAD_UNCHANGED)
    assert preview.dtype == np.uint16
    assert preview.max() == 65535


@pytest.mark.usefixtures("known")
def test_orientation_is_applied(tmp_path: Path) -> None:
    upright = make(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(upright) as image:
        image.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    assert run("restore", tmp_path / "turned.png", *KNOWN).exit_code == 0
    restored = decoding.read(tmp_path / "turned.deblurred.png")
    assert restored.pixels.shape == decoding.read(upright).pixels.shape
    with Image.open(tmp_path / "turned.deblurred.png") as image:
        assert image.getexif().get(0x0112, 1) == 1


@pytest.mark.usefixtures("known")
def test_output_folder_is_made(tmp_path: Path) -> None:
    make(tmp_path / "a.png")
    make(tmp_path / "b.png")
    result = run("restore", tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "new" / "folder", *KNOWN)
    assert result.exit_code == 0
    assert files(tmp_path / "new" / "folder") == [
        f"{n}.{e}" for n in "ab" for e in ("deblurred.png", "kernel.npy", "kernel.png")
    ]


def test_output_file_of_another_format(tmp_path: Path) -> None:
    result = run("restore", make(tmp_path / "a.jpg"), "-o", tmp_path / "sharp.v2.tiff", *QUICK)
    assert result.exit_code == 0
    assert files(tmp_path) == ["a.jpg", "sharp.v2.kernel.npy", "sharp.v2.kernel.png", "sharp.v2.tiff"]


@pytest.mark.usefixtures("known")
def test_a_folder_means_its_photos_but_not_our_results(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG"):
        make(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    assert run("restore", tmp_path, *KNOWN).exit_code == 0
    again = run("restore", tmp_path, "--overwrite", *KNOWN)
    assert again.exit_code == 0
    assert len(again.stdout.splitlines()) == 2


def test_json_says_everything(tmp_path: Path) -> None:
    source = make(tmp_path / "a.png")
    result = run("restore", source, tmp_path / "missing.png", "--json", "--seed", "5", "--sigma", "0.01", *QUICK)
    assert result.exit_code == 1
    good, bad = (json.loads(line) for line in result.stdout.splitlines())
    assert good["restored"] == str(tmp_path / "a.deblurred.png")
    assert Path(good["kernel"]).exists()
    assert Path(good["kernel_preview"]).exists()
    assert (good["method"], good["prior"], good["seed"], good["sigma"], good["kernel_size"]) == (
        "fast",
        "photo-fine",
        5,
        0.01,
        9,
    )
    assert good["prior_sha256"] == find("photo-fine").sha256
    assert good["seconds"] > 0
    assert 0 < good["residual"] < 0.1
    assert bad["input"] == str(tmp_path / "missing.png")
    assert "does not exist" in bad["error"]


def test_quiet_and_verbose(tmp_path: Path) -> None:
    source = make(tmp_path / "a.png")
    assert run("restore", source, "-q", *QUICK).output == ""
    normal = run("restore", source, "--overwrite", *QUICK)
    assert len(normal.stdout.splitlines()) == 1
    assert "kernel" in normal.stderr  # plain lines of progress
    verbose = run("restore", source, "--overwrite", "-v", *QUICK)
    assert "noise" in verbose.stdout
    assert "residual" in verbose.stdout


def test_same_seed_same_file(tmp_path: Path) -> None:
    source = make(tmp_path / "a.png")
    for name in ("first", "second"):
        assert run("restore", source, "-o", tmp_path / name, "--seed", "3", *QUICK).exit_code == 0
    for name in files(tmp_path / "first"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize("ending", [".npy", ".png"])
def test_a_kernel_from_a_file_skips_the_estimate(tmp_path: Path, ending: str) -> None:
    source = make(tmp_path / "a.png")
    write_together(kernel_files.kernel_files(streak(9, 5), tmp_path / "mine").items(), overwrite=False)
    result = run("restore", source, "--kernel", tmp_path / f"mine.kernel{ending}", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "first kernel" not in result.stderr
    np.testing.assert_allclose(np.load(tmp_path / "a.kernel.npy"), streak(9, 5), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        (["--steps", "3", "--kernel-size", "9"], 5),  # the first kernel, three steps, the restored crop
        (["--steps", "3", "--kernel-size", "9", "--method", "blinddps"], 5),
        (["--kernel", "k.npy"], 11),  # nothing to estimate: the blurred photo and ten steps of the restoration
    ],
)
def test_a_recording_shows_image_and_kernel(tmp_path: Path, options: list[str], frames: int) -> None:
    source = make(tmp_path / "a.png", side=60)
    np.save(tmp_path / "k.npy", streak(9, 5))
    result = run("restore", source, "--device", "cpu", "--json", "--record", tmp_path / "new" / "a.gif", *options)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["recording"] == str(tmp_path / "new" / "a.gif")
    film = decoded((tmp_path / "new" / "a.gif").read_bytes())[0].astype(float)
    assert film.shape == (frames, 480, 960, 3)
    # 64x60 pixels, each 7x7, in the middle of the left half; kernel pixels, each 53x53, in the right half.
    picture, kernel = film[:, 33:453:7, 19:467:7], film[:, 2:478:53, 482:958:53][:, :9, :9]
    before, after = (255 * decoding.read(tmp_path / name).pixels for name in ("a.png", "a.deblurred.png"))
    for shown, (same, other) in ((picture[0], (before, after)), (picture[-1], (after, before))):
        assert np.abs(shown - same).mean() < min(3, 0.5 * np.abs(shown - other).mean())  # a frame has 256 colours
    found = np.load(tmp_path / "a.kernel.npy")
    assert np.abs(kernel[-1] - 255 * (found / found.max())[..., None]).mean() < 4
    assert np.abs(np.diff(picture, axis=0)).mean(axis=(1, 2, 3)).min() > 0.1  # something happens in each step


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("a.mp4", 2, "ends in .gif"),
        ("a", 2, "ends in .gif"),
        ("old.gif", 1, "--overwrite"),
        ("folder.gif", 1, "is a folder"),
        ("old.gif/a.gif", 1, "is a file and no folder"),
    ],
)
def test_recordings_that_cannot_be_written(tmp_path: Path, name: str, code: int, words: str) -> None:
    source = make(tmp_path / "a.png")
    (tmp_path / "old.gif").write_text("precious")
    (tmp_path / "folder.gif").mkdir()
    before = files(tmp_path)
    result = run("restore", source, "--record", tmp_path / name, *QUICK)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert "first kernel" not in result.stderr  # no minutes were spent before saying so
    assert files(tmp_path) == before
    assert (tmp_path / "old.gif").read_text() == "precious"


def test_a_recording_is_of_one_photo_and_replaced_on_request(tmp_path: Path) -> None:
    sources = [make(tmp_path / name) for name in ("a.png", "b.png")]
    (tmp_path / "old.gif").write_text("in the way")
    several = run("restore", *sources, "--record", tmp_path / "old.gif", "--overwrite", *QUICK)
    assert several.exit_code == 2
    assert "there are 2" in several.stderr
    assert (tmp_path / "old.gif").read_text() == "in the way"
    assert run("restore", sources[0], "--record", tmp_path / "old.gif", "--overwrite", *QUICK).exit_code == 0
    assert len(decoded((tmp_path / "old.gif").read_bytes())[0]) == 4


def test_a_recording_never_replaces_the_photo(tmp_path: Path) -> None:
    source = make(tmp_path / "a.png").rename(tmp_path / "a.gif")  # a PNG under a wrong name
    before = source.read_bytes()
    result = run("restore", source, "-o", tmp_path / "b.png", "--record", source, "--overwrite", *QUICK)
    assert result.exit_code == 2
    assert "would replace a photo" in result.stderr
    assert source.read_bytes() == before


def test_linear_light(tmp_path: Path) -> None:
    source = make(tmp_path / "a.png", depth=16)
    np.save(tmp_path / "k.npy", streak(9, 5))
    known = ["--kernel", tmp_path / "k.npy", "--device", "cpu"]
    for name, options in (("light.png", ["--linear"]), ("pixels.png", [])):
        outcome = run("restore", source, "-o", tmp_path / name, *known, *options)
        assert outcome.exit_code == 0, outcome.output
    light, pixels = decoding.read(tmp_path / "light.png").pixels, decoding.read(tmp_path / "pixels.png").pixels
    expected = blinddeblur.restore(decoding.read(source).pixels, kernel=streak(9, 5), linear=True, device="cpu").image
    assert np.abs(light - expected).mean() < 1e-3  # bfloat16 makes much of a rounding
    assert np.abs(light - pixels).max() > 0.02


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_sharp_photo_comes_back_unchanged(tmp_path: Path, name: str) -> None:
    scene = np.rint(255 * sharp(120, 140, 3, seed=3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / name), scene)
    outcome = run("restore", tmp_path / name, "--device", "cpu", "--json")
    assert outcome.exit_code == 0, outcome.output
    facts = json.loads(outcome.stdout)
    assert facts["sharp"] is True
    assert facts["kernel_extent"] == [1, 1]
    assert "sharp already" in facts["warnings"][0]
    assert "sharp already" in outcome.stderr
    assert Path(facts["restored"]).read_bytes() == (tmp_path / name).read_bytes()
    assert facts["confidence"] is None
    assert facts["expected_gain"] is None
    other = run("restore", tmp_path / name, "-o", tmp_path / "b.tif", "--device", "cpu")  # another format
    assert other.exit_code == 0, other.output
    np.testing.assert_array_equal(decoding.read(tmp_path / "b.tif").pixels, decoding.read(tmp_path / name).pixels)


def test_a_sharp_photo_is_deblurred_all_the_same_on_request(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.rint(255 * sharp(80, 90, 3, seed=3)).astype(np.uint8))
    outcome = run("restore", tmp_path / "a.png", *QUICK, "--json")
    assert outcome.exit_code == 0, outcome.output
    assert "sharp already" not in outcome.stderr or json.loads(outcome.stdout)["kernel_extent"] != [1, 1]


def test_a_doubtful_kernel_is_called_doubtful(tmp_path: Path) -> None:
    """A blur far longer than the array it is looked for in."""
    _, y = blurred(120, 130, 3, streak(41, 36))
    encoding.write(Photo(y), tmp_path / "a.png")
    outcome = run("restore", tmp_path / "a.png", *QUICK, "--json")
    assert outcome.exit_code == 0, outcome.output
    facts = json.loads(outcome.stdout)
    assert 0 < facts["confidence"] < 1
    assert any("--kernel-size" in warning for warning in facts["warnings"])
    assert "--kernel-size" in outcome.stderr
    assert json.loads(run("restore", tmp_path / "a.png", *QUICK, "--json", "--overwrite", "-q").stdout) | {
        "seconds": 0
    } == facts | {"seconds": 0}


def test_some_failures_do_not_stop_the_others(tmp_path: Path) -> None:
    good = make(tmp_path / "good.png")
    bad = tmp_path / "bad.png"
    bad.write_bytes(good.read_bytes()[:300])
    result = run("restore", bad, good, *QUICK)
    assert result.exit_code == 1
    assert (tmp_path / "good.deblurred.png").exists()
    assert "1 restored, 1 failed" in result.stderr
    assert "bad.png" in result.stderr


def _truncated(path: Path) -> None:
    whole = make(path.with_suffix(".tmp.jpg")).read_bytes()
    path.with_suffix(".tmp.jpg").unlink()
    path.write_bytes(whole[: len(whole) // 2])


def _animated(path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


BAD_PHOTOS = {
    "missing.jpg": (lambda path: None, "does not exist"),
    "truncated.jpg": (_truncated, "cut off"),
    "empty.png": (lambda path: path.write_bytes(b""), "empty"),
    "text.jpg": (lambda path: path.write_text("not a photo"), "not a JPEG"),
    "small.png": (lambda path: Image.new("RGB", (31, 90)).save(path), "at least 32"),
    "narrow.png": (lambda path: Image.new("L", (60000, 1)).save(path), "60000x1"),
    "cmyk.jpg": (lambda path: Image.new("CMYK", (64, 64)).save(path), "CMYK"),
    "cmyk.tiff": (lambda path: Image.new("CMYK", (64, 64)).save(path), "CMYK"),
    "animated.webp": (_animated, "single"),
    "animated.gif": (_animated, "single"),
    "folder": (lambda path: path.mkdir(), "no photo in this folder"),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_photos_that_cannot_be_restored(tmp_path: Path, name: str) -> None:
    create, words = BAD_PHOTOS[name]
    create(tmp_path / name)
    before = files(tmp_path)
    result = run("restore", tmp_path / name, *QUICK)
    assert result.exit_code == 1
    assert words in result.stderr
    assert name in result.stderr
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kernel-size", "8"], "odd number"),
        (["--kernel-size", "many"], "auto or a number"),
        (["--kernel-size", "47"], "too large"),
        (["--sigma", "loud"], "auto or a number"),
        (["--method", "magic"], "no method magic"),
        (["--steps", "0"], "between 2 and 1000"),
        (["--device", "cuda:9"], "cannot be used here"),
        (["--prior", "nothing"], "no weights named"),
        (["--method", "blinddps", "--linear"], "encoded values"),
        (["--kernel", "zero.npy"], "nowhere positive"),
        (["--kernel", "negative.npy"], "negative"),
        (["--kernel", "large.npy"], "too many for this photo"),
        (["--kernel", "missing.npy"], "does not exist"),
        (["--kernel", "a.png", "--kernel-size", "9"], "own size"),
        (["--samples", "1"], "between 2 and 64"),
        (["--samples", "65"], "between 2 and 64"),
        (["--samples", "many"], "--samples"),
        (["--samples", "4", "--method", "blinddps"], "Leave out --samples"),
        (["--nonsense"], "No such option"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, options: list[str], words: str) -> None:
    source = make(tmp_path / "a.png")
    np.save(tmp_path / "zero.npy", np.zeros((5, 5)))
    np.save(tmp_path / "negative.npy", -np.ones((5, 5)))
    np.save(tmp_path / "large.npy", np.ones((61, 61)))
    before = files(tmp_path)
    result = run("restore", source, "--device", "cpu", "--steps", "2", *options)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert files(tmp_path) == before


SAMPLED = ("sample-1.png", "sample-2.png", "uncertainty.png", "uncertainty.npy")


def test_samples_lie_beside_the_photo_and_are_like_it(tmp_path: Path) -> None:
    source = make(tmp_path / "a.png", depth=16, alpha=True)
    result = run("restore", tmp_path, "--samples", "2", "--json", *QUICK)
    assert result.exit_code == 0, result.output
    written = files(tmp_path)
    assert written == sorted(["a.png", *(f"a.{n}" for n in ("deblurred.png", "kernel.png", "kernel.npy", *SAMPLED))])
    original, first, second = (decoding.read(path) for path in (source, *sorted(tmp_path.glob("a.sample-*"))))
    assert first.depth == 16
    assert np.array_equal(first.alpha, original.alpha)
    assert not np.array_equal(first.pixels, second.pixels)
    facts = json.loads(result.stdout)
    assert [Path(path).name for path in facts["samples"]] == ["a.sample-1.png", "a.sample-2.png"]
    assert Path(facts["uncertainty_preview"]).name == "a.uncertainty.png"
    assert facts["mean_uncertainty"] == pytest.approx(np.load(facts["uncertainty"]).mean())
    # Results are no photos, and are replaced only where that is allowed.
    again = run("restore", tmp_path, "--samples", "2", *QUICK)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert run("restore", tmp_path, "--samples", "2", "--overwrite", *QUICK).exit_code == 0
    assert files(tmp_path) == written


def test_samples_of_an_output_file_are_named_after_it(tmp_path: Path) -> None:
    source = make(tmp_path / "a.png", channels=1)
    result = run("restore", source, "-o", tmp_path / "sharp.v2.tiff", "--samples", "2", "--verbose", *QUICK)
    assert result.exit_code == 0, result.output
    assert "uncertainty" in result.stdout
    assert {"sharp.v2.sample-2.tiff", "sharp.v2.uncertainty.npy"} < set(files(tmp_path))
    assert np.load(tmp_path / "sharp.v2.uncertainty.npy").shape == (48, 52)


def test_samples_and_a_recording_of_one_photo(tmp_path: Path) -> None:
    source = make(tmp_path / "a.png")
    result = run("restore", source, "--linear", "--samples", "2", "--record", tmp_path / "a.gif", *QUICK)
    assert result.exit_code == 0, result.output
    assert {"a.gif", *(f"a.{name}" for name in SAMPLED)} < set(files(tmp_path))
    assert (
        len(decoded((tmp_path / "a.gif").read_bytes())[0]) % 2 == 0
    )  # samples are no part of it  # start, two steps a round, result


@pytest.mark.parametrize("name", SAMPLED)
def test_existing_samples_and_maps_are_kept(tmp_path: Path, name: str) -> None:
    source = make(tmp_path / "a.png")
    (tmp_path / f"a.{name}").write_text("precious")
    result = run("restore", source, "--samples", "2", *QUICK)
    assert result.exit_code == 1
    assert "--overwrite" in result.stderr
    assert files(tmp_path) == sorted(["a.png", f"a.{name}"])
    assert (tmp_path / f"a.{name}").read_text() == "precious"


def test_a_sample_never_replaces_a_photo(tmp_path: Path) -> None:
    sources = [make(tmp_path / name) for name in ("a.png", "a.sample-1.png")]
    result = run("restore", *sources, "--samples", "2", "--overwrite", *QUICK)
    assert result.exit_code == 2
    assert "would replace a photo" in result.stderr


def test_existing_results_are_kept(tmp_path: Path) -> None:
    source = make(tmp_path / "a.png")
    for name in ("a.deblurred.png", "a.kernel.png", "a.kernel.npy"):
        (tmp_path / name).write_text("precious")
        result = run("restore", source, *QUICK)
        assert result.exit_code == 1
        assert "--overwrite" in result.stderr
        assert "first kernel" not in result.stderr  # no minutes were spent before saying so
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()


def test_a_photo_is_never_its_own_result(tmp_path: Path) -> None:
    source = make(tmp_path / "a.png")
    before = source.read_bytes()
    (tmp_path / "link.png").symlink_to(source)
    for output in (source, tmp_path / "link.png", tmp_path / "x" / ".." / "a.png"):
        result = run("restore", source, "-o", output, "--overwrite", *QUICK)
        assert result.exit_code == 2
        assert "would replace a photo" in result.stderr
    assert source.read_bytes() == before


def test_two_photos_never_share_a_result(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    sources = [make(tmp_path / folder / "a.png") for folder in ("one", "two")]
    result = run("restore", *sources, "-o", tmp_path / "out", *QUICK)
    assert result.exit_code == 2
    assert "two folders" in result.stderr
    assert run("restore", *sources, "-o", tmp_path / "one.png", *QUICK).exit_code == 2


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    source = make(tmp_path / "a.png")
    (tmp_path / "file").write_text("no folder")
    result = run("restore", source, "-o", tmp_path / "file" / "below", *QUICK)
    assert result.exit_code == 1
    assert "is a file and no folder" in result.stderr
    assert "first kernel" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a system with limits on file sizes")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    source = make(tmp_path / "a.png")
    before = files(tmp_path)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "import torch; torch.set_num_threads(1); resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); "
        "from blinddeblur.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "restore", source, *QUICK], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stderr
    assert "could not be written" in result.stderr
    assert files(tmp_path) == before


def test_a_format_that_cannot_hold_the_photo(tmp_path: Path) -> None:
    result = run("restore", make(tmp_path / "a.png", alpha=True), "-o", tmp_path / "b.jpg", *QUICK)
    assert result.exit_code == 1
    assert "transparency" in result.stderr
    assert files(tmp_path) == ["a.png"]


def test_missing_weights_name_the_command(tmp_path: Path) -> None:
    result = run("restore", make(tmp_path / "a.png"), "--prior", "ffhq-256")
    assert result.exit_code == 3
    assert "blinddeblur download-weights ffhq-256" in result.stderr


def test_damaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo-fine.safetensors").write_bytes(b"damaged")
    monkeypatch.setitem(manifest(), "photo-fine", replace(find("photo-fine"), home=tmp_path))
    result = run("restore", make(tmp_path / "a.png"), *QUICK)
    assert result.exit_code == 3
    assert "damaged" in result.stderr


def test_interrupt_leaves_nothing_and_exits_130(tmp_path: Path) -> None:
    source = make(tmp_path / "a.png", side=128)
    code, said = interrupted("restore", source, "--steps", "1000", "--device", "cpu", after="hypotheses")
    assert code == 130
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert files(tmp_path) == ["a.png"]


def test_weights_are_listed_and_verified() -> None:
    listed = run("download-weights", "--list")
    assert listed.exit_code == 0
    states = {line.split("\t")[0]: line.split("\t")[2] for line in listed.stdout.splitlines()}
    assert states["photo"] == states["kernel"] == "bundled"
    assert states["ffhq-256"] == states["blinddps-kernel"] == "missing"
    assert set(states) == set(manifest())
    assert run("download-weights", "--verify", "photo").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "Name what to download"),
        (["nothing"], 2, "no weights named"),
        (["ffhq-256"], 2, "--trust"),
        (["blinddps-kernel", "--trust"], 3, "--from-file"),
        (["photo", "kernel", "--from-file", "x"], 2, "single NAME"),
        (["ffhq-256", "--from-file", "missing.pt", "--trust"], 2, "cannot be read"),
    ],
)
def test_downloads_that_cannot_start(arguments: list[str], code: int, words: str) -> None:
    result = run("download-weights", *arguments)
    assert result.exit_code == code, result.output
    assert words in result.stderr
