"""The command turbulence as people use it: frames in, a folder of results out, and words for all that can go wrong."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from commandline import interrupted, run, tree
from photofiles import profile
from scenes import agreement, blurred, decoded, psnr, streak, turbulent

from blinddeblur.commands.restore_frames import plan
from blinddeblur.files import decoding, encoding, kernel_files
from blinddeblur.files.photo import Photo
from blinddeblur.weights.manifest import find

BLIND = ["--steps", "2", "--device", "cpu"]
QUICK = ["--kernel", "k.npy", *BLIND]
RESULTS = ["kernel.npy", "kernel.png", "restored.png", "tilt.npz", "tilt.png"]
NUMBER, HEIGHT, WIDTH = 4, 60, 64


pytestmark = pytest.mark.usefixtures("known_kernel")


def make(folder: str = "in", number: int = NUMBER, channels: int = 1, depth: int = 8, **kind: object) -> Path:
    """Frames of a scene that moves to and fro by a pixel."""
    _, y = blurred(HEIGHT, WIDTH + 2, channels, streak(5, 3), sigma=0.002)
    Path(folder).mkdir(exist_ok=True)
    for index in range(number):
        left = (0, 1, 2, 1)[index % 4]
        encoding.write(Photo(y[:, left : left + WIDTH], depth=depth, **kind), Path(folder) / f"{index}.png")
    return Path(folder)


def test_results_lie_in_a_folder_beside_the_frames() -> None:
    before = {path: path.read_bytes() for path in make().iterdir()}
    result = run("turbulence", "in", *QUICK)
    assert result.exit_code == 0, result.output
    assert tree("in.deblurred") == RESULTS
    assert {path: path.read_bytes() for path in Path("in").iterdir()} == before
    assert "in -> in.deblurred/restored.png (4 frames, " in result.stdout
    assert "in: frames 1/4" in result.stderr
    out = Path("in.deblurred")
    assert decoding.read(out / "restored.png").stored.shape == (HEIGHT, WIDTH, 1)
    np.testing.assert_allclose(np.load(out / "kernel.npy"), streak(5, 3), atol=1e-4)
    assert kernel_files.read_kernel(out / "kernel.png").shape == (5, 5)
    with np.load(out / "tilt.npz") as fields:  # without pickles
        spacing = int(fields["spacing"])
        assert fields["tilts"].shape == (NUMBER, 2, -(-HEIGHT // spacing), -(-WIDTH // spacing))
        assert fields["tilts"].dtype == np.float32
        assert fields["weights"].sum() == pytest.approx(1)
        assert fields["names"].tolist() == ["0.png", "1.png", "2.png", "3.png"]
        # A scene cut further right is seen further left, so what stands at p is found to the right of it.
        mean = fields["tilts"][:, 1].mean(axis=(1, 2))
    assert mean[2] - mean[0] == pytest.approx(2, abs=0.7)
    assert decoding.read(out / "tilt.png").stored.shape[2] == 3


def test_the_restored_picture_is_like_the_frames() -> None:
    make(channels=3, depth=16, icc=profile(), dpi=(300, 300))
    assert run("turbulence", "in", "-o", "new/folder", *QUICK).exit_code == 0
    assert tree("new/folder") == RESULTS
    restored = decoding.read(Path("new/folder/restored.png"))
    assert (restored.depth, restored.icc, restored.dpi) == (16, profile(), (300, 300))
    assert restored.stored.shape == (HEIGHT, WIDTH, 3)


def test_a_film_in_and_films_out() -> None:
    images = [decoding.read(path).stored[..., 0] for path in sorted(make(number=5).iterdir())]
    pages = [np.ascontiguousarray(image) for image in images]
    assert cv2.imwritemulti("scene.tif", pages)
    options = ["--stabilised", "still.mp4", "--record", "films/how.gif", "--frames", "1:"]
    result = run("turbulence", "scene.tif", *options, "-v", "--json", *QUICK)
    assert result.exit_code == 0, result.output
    assert tree("scene.tif.deblurred") == RESULTS
    facts = json.loads(result.stdout)
    assert (facts["stabilised"], facts["recording"]) == ("still.mp4", "films/how.gif")
    assert len(decoded(Path("films/how.gif").read_bytes())[0]) >= 2
    capture = cv2.VideoCapture("still.mp4", cv2.CAP_FFMPEG)
    assert capture.get(cv2.CAP_PROP_FPS) == 10
    still = [capture.read()[1] for _ in range(4)]
    assert not capture.grab()
    inner = np.s_[8:-8, 8:-8]
    moves, rests = (np.std([image[inner] for image in film], axis=0).mean() for film in (images[1:], still))
    assert rests < 0.5 * moves


def test_a_video_without_a_known_kernel() -> None:
    seen, own = turbulent(8, HEIGHT, WIDTH, 3)
    lossless = cv2.VideoWriter.fourcc(*"FFV1")
    writer = cv2.VideoWriter("air.avi", cv2.CAP_FFMPEG, lossless, 12.5, (WIDTH, HEIGHT))
    for frame in (1 - seen.frames[0], *seen.frames):  # the first of the film is left out
        writer.write(np.rint(255 * frame).astype(np.uint8)[..., ::-1])
    writer.release()
    options = ["--frames", "1:", "--stabilised", "still.gif", "--record", "how.gif"]
    result = run("turbulence", "air.avi", "--json", *options, *BLIND)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["frames"], facts["warnings"], facts["kernel_size"]) == (8, [], 31)
    assert all(f"air.avi: {stage}" in result.stderr for stage in ("registration", "tilt and blur", "restoration"))
    assert tree("air.avi.deblurred") == RESULTS
    restored = decoding.read(Path("air.avi.deblurred/restored.png")).pixels
    assert psnr(restored, own) > psnr(seen.frames.mean(axis=0), own) + 3
    assert agreement(np.load("air.avi.deblurred/kernel.npy"), seen.kernels[0]) > 0.9
    with np.load("air.avi.deblurred/tilt.npz") as fields:
        assert fields["names"].tolist() == [f"frame {index}" for index in range(1, 9)]
    images, durations = decoded(Path("still.gif").read_bytes())
    assert (len(images), set(durations)) == (8, {80})
    assert len(decoded(Path("how.gif").read_bytes())[0]) == 4  # the start, two steps, the result


def test_one_small_frame() -> None:
    seen, own = turbulent(1, 48, 52)
    encoding.write(Photo(seen.frames[0]), Path("small.png"))
    result = run("turbulence", "small.png", "-v", *BLIND)
    assert result.exit_code == 0, result.output
    assert "(1 frame, " in result.stdout
    assert tree("small.png.deblurred") == RESULTS
    assert np.load("small.png.deblurred/kernel.npy").shape == (25, 25)
    restored = decoding.read(Path("small.png.deblurred/restored.png")).pixels
    assert psnr(restored, own) > psnr(seen.frames[0], own) + 1


def test_blinddps_on_one_frame() -> None:
    make(number=2, channels=3)
    options = ["--method", "blinddps", "--json", "--stabilised", "still.gif", "--record", "how.gif", *BLIND]
    result = run("turbulence", "in/1.png", *options)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["method"], facts["steps"], facts["frames"], facts["weights"]) == ("blinddps", 2, 1, [1])
    assert "1.png: blinddps" in result.stderr
    assert tree("in/1.png.deblurred") == RESULTS
    assert decoding.read(Path("in/1.png.deblurred/restored.png")).stored.shape == (HEIGHT, WIDTH, 3)
    with np.load("in/1.png.deblurred/tilt.npz") as fields:
        assert (int(fields["spacing"]), fields["tilts"].shape) == (1, (1, 2, HEIGHT, WIDTH))
    assert len(decoded(Path("still.gif").read_bytes())[0]) == 1
    assert len(decoded(Path("how.gif").read_bytes())[0]) == 4
    before = tree()
    several = run("turbulence", "in", *options[:2], *BLIND)
    assert several.exit_code == 2, several.output
    assert "blinddps restores one frame, not 2" in several.stderr
    assert tree() == before


def test_a_frame_of_another_scene_is_named() -> None:
    make(number=6)
    other = decoding.read(Path("in/3.png")).stored[::-1, ::-1].copy()
    encoding.write(Photo(other), Path("in/3.png"), overwrite=True)
    result = run("turbulence", "in", *QUICK)
    assert result.exit_code == 0, result.output
    assert "warning: in: Frame 3 is hardly like the others" in result.stderr


@pytest.mark.parametrize(
    ("inputs", "folder"),
    [
        (["."], "../in.deblurred"),
        (["*.png"], "../in.deblurred"),
        (["0.png", "1.png"], "../in.deblurred"),
        (["../in/0.png"], "../in/0.png.deblurred"),
        (["../in/"], "../in.deblurred"),
    ],
)
def test_where_results_go(monkeypatch: pytest.MonkeyPatch, inputs: list[str], folder: str) -> None:
    monkeypatch.chdir(make())
    job = plan(map(Path, inputs), None)
    assert job.folder.resolve() == Path(folder).resolve()


def test_json_says_everything() -> None:
    make(channels=3)
    Path("in/2.png").write_bytes(b"damaged")
    encoding.write(Photo(decoding.read(Path("in/1.png")).stored[..., :1]), Path("in/1.png"), overwrite=True)  # grey
    options = ["--seed", "5", "--sigma", "0.01", "--stabilised", "still.gif"]
    result = run("turbulence", "in/*.png", "-o", "out", "--json", *options, *QUICK)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["input"] == "in/*.png"
    for name in ("restored", "kernel", "kernel_preview", "tilt", "tilt_preview"):
        assert Path(facts[name]).exists()
    assert (facts["frames"], list(facts["left_out"])) == (3, ["2.png"])
    assert sum(facts["weights"]) == pytest.approx(1)
    assert 0 < facts["tilt_rms"] < facts["tilt_largest"] < 5
    assert (facts["method"], facts["prior"], facts["seed"], facts["sigma"]) == ("fast", "photo", 5, 0.01)
    assert facts["prior_sha256"] == find("photo").sha256
    assert (facts["kernel_size"], facts["kernel_extent"]) == (5, [3, 3])
    assert any("in/2.png" in warning and "left out" in warning for warning in facts["warnings"])
    assert "warning: in/*.png: in/2.png" in result.stderr
    wrong = run("turbulence", "missing.mp4", "--json", *QUICK)
    assert wrong.exit_code == 1
    assert "does not exist" in json.loads(wrong.stdout)["error"]


def test_quiet_and_verbose() -> None:
    make(number=2)
    assert run("turbulence", "in", "-q", *QUICK).output == ""
    verbose = run("turbulence", "in", "--overwrite", "-v", *QUICK)
    assert all(word in verbose.stdout for word in ("noise", "tilt", "kernel", "residual"))


def test_finished_results_are_skipped_and_others_kept() -> None:
    make(number=2)
    assert run("turbulence", "in", "-o", "out", *QUICK).exit_code == 0
    before = {name: (Path("out") / name).stat().st_mtime_ns for name in RESULTS}
    again = run("turbulence", "in", "-o", "out", *QUICK)
    assert again.exit_code == 0
    assert "in: finished already, in out" in again.stdout
    assert "frames" not in again.stderr
    assert {name: (Path("out") / name).stat().st_mtime_ns for name in RESULTS} == before
    # What is there in part is not, and is kept.
    for options in (["--stabilised", "still.gif"], ["--record", "how.gif"]):
        more = run("turbulence", "in", "-o", "out", *options, *QUICK)
        assert more.exit_code == 1
        assert "--overwrite" in more.stderr
        assert "frames" not in more.stderr  # no minutes were spent before saying so
    for name in RESULTS:
        Path("other").mkdir(exist_ok=True)
        (Path("other") / name).write_text("precious")
        kept = run("turbulence", "in", "-o", "other", *QUICK)
        assert kept.exit_code == 1
        assert tree("other") == [name]
        assert (Path("other") / name).read_text() == "precious"
        (Path("other") / name).unlink()
    replaced = run("turbulence", "in", "-o", "out", "--stabilised", "still.gif", "--overwrite", *QUICK)
    assert replaced.exit_code == 0, replaced.output
    assert len(decoded(Path("still.gif").read_bytes())[0]) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["in", "-o", "in"], 2, "holds the frames"),
        (["in", "-o", "-"], 2, "Give a folder"),
        (["in", "-o", "sharp.png"], 2, "Give a folder"),
        (["in", "--stabilised", "in/0.png"], 2, ".mp4 or .gif"),
        (["in", "--record", "how.mp4"], 2, "ends in .gif"),
        (["in", "--record", "a.gif", "--stabilised", "x/../a.gif"], 2, "Two results"),
        (["film.gif", "--stabilised", "film.gif", "--overwrite"], 2, "would replace"),
        (["film.gif", "--record", "link.gif", "--overwrite"], 2, "would replace"),
        (["in", "--method", "magic"], 2, "no method magic"),
        (["in", "--method", "blinddps"], 2, "Leave out --kernel"),
        (["in", "--tilt-prior", "x"], 2, "Leave out --tilt-prior"),
        (["in", "--steps", "0"], 2, "between 2 and 1000"),
        (["in", "--sigma", "loud"], 2, "auto or a number"),
        (["in", "--device", "cuda:9"], 2, "cannot be used here"),
        (["in", "--max-megapixels", "0"], 2, "must be 1 or more"),
        (["in", "--frames", "3"], 2, "FIRST:END"),
        (["in", "--frames", "0:-1"], 2, "FIRST:END"),
        (["in", "--frames", "::0"], 2, "1 or more"),
        (["in", "--frames", "9:"], 1, "leaves none of 4 frames"),
        (["empty"], 1, "no picture in this folder"),
        (["in/x*.png"], 1, "No file has a name like this"),
        (["missing"], 1, "does not exist"),
        (["k.npy"], 1, "no picture and no video"),
        (["in", "other.png"], 1, "different sizes"),
        (["in", "-o", "k.npy/out"], 1, "is a file and no folder"),
        (["in", "--stabilised", "empty.gif"], 1, "This is a folder"),
        (["in", "--nonsense"], 2, "No such option"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_done_is_said_before_it_begins(arguments: list[str], code: int, words: str) -> None:
    for folder in ("in", "empty", "empty.gif"):
        Path(folder).mkdir()
    make()
    encoding.write(Photo(np.zeros((HEIGHT, WIDTH + 1, 1), np.uint8)), Path("other.png"))
    Path("film.gif").write_bytes(b"GIF89a, a film of one's own")
    Path("link.gif").symlink_to("film.gif")
    before = tree()
    result = run("turbulence", *QUICK, *arguments)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert "registration" not in result.stderr
    assert tree() == before
    assert Path("film.gif").read_bytes() == b"GIF89a, a film of one's own"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--prior", "nothing"], 2, "no weights named"),
        (["--prior", "ffhq-256"], 3, "`blinddeblur download-weights ffhq-256`"),
        (["--method", "blinddps", "--tilt-prior", "blinddps-tilt"], 3, "`blinddeblur download-weights blinddps-tilt`"),
        (["--method", "blinddps", "--tilt-prior", "kernel"], 2, "of kind kernel"),
    ],
)
def test_weights_that_are_missing_are_named_before_frames_are_read(options: list[str], code: int, words: str) -> None:
    make(number=1)
    result = run("turbulence", "in", *options, *BLIND)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert not any(stage in result.stderr for stage in ("frames", "registration", "blinddps:"))
    assert tree() == ["in/0.png"]


def test_an_interrupt_leaves_nothing() -> None:
    make(number=8)
    code, said = interrupted("turbulence", "in", "-o", "out", "--stabilised", "a.mp4", *QUICK, after="registration")
    assert code == 130
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert tree() == [f"in/{index}.png" for index in range(8)]
