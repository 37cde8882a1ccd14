"""Frames of one scene, read from whatever holds them, and the films and pictures that are made of them."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from photofiles import ORIENTATION, damaged, profile, repaired, run_apart, saved, without_privileges
from PIL import Image
from scenes import decoded, sharp

from blinddeblur.errors import PhotoError, UsageError
from blinddeblur.files import encoding, tags
from blinddeblur.files.photo import Photo
from blinddeblur.files.sequence import find, read
from blinddeblur.pictures.film import film
from blinddeblur.pictures.tilts import tilt_picture

NUMBER, HEIGHT, WIDTH = 4, 40, 48


def frames(number: int = NUMBER, channels: int = 3, depth: int = 8) -> list[np.ndarray]:
    """A scene that moves by a pixel from frame to frame."""
    scene = sharp(HEIGHT, WIDTH + number, channels) * (2**depth - 1)
    whole = np.rint(scene).astype(np.uint16 if depth == 16 else np.uint8)
    return [whole[:, index : index + WIDTH] for index in range(number)]


def store(folder: Path, arrays: list[np.ndarray] | None = None, name: str = "{}.png", **kind: object) -> Path:
    folder.mkdir(exist_ok=True)
    for index, array in enumerate(arrays or frames()):
        depth = 8 * array.itemsize
        encoding.write(Photo(array, depth=depth, **kind), folder / name.format(index))
    return folder


def animate(path: Path, number: int = NUMBER, **options: object) -> Path:
    images = [Image.fromarray(array) for array in frames(number)]
    if path.suffix == ".gif":  # 256 colours that are the same in all
        images = [image.quantize(64) for image in images]
    images[0].save(path, save_all=True, append_images=images[1:], **options)
    return path


def play(path: Path, number: int = 12, fps: float = 12.5) -> Path:
    codec = cv2.VideoWriter.fourcc(*("mp4v" if path.suffix == ".mp4" else "MJPG"))
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, fps, (WIDTH, HEIGHT))
    for array in frames(number):
        writer.write(array[..., ::-1])
    writer.release()
    return path


def test_a_folder_means_its_pictures_as_people_count(tmp_path: Path) -> None:
    arrays = frames(12)
    store(tmp_path / "in", arrays, name="Frame {}.png")
    (tmp_path / "in" / "Frame 3.png").rename(tmp_path / "in" / "frame 03.png")
    for name in (".hidden.png", "a.deblurred.png", "a.kernel.png"):
        (tmp_path / "in" / name).write_bytes((tmp_path / "in" / "Frame 1.png").read_bytes())
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    seen = read(find([tmp_path / "in"]))
    expected = [f"Frame {index}.png" for index in range(12)]
    expected[3] = "frame 03.png"
    assert seen.names == tuple(expected)
    assert all(map(np.array_equal, seen.frames, arrays))
    assert (seen.left_out, seen.warnings, seen.fps) == ({}, (), None)


def test_patterns_and_several_files(tmp_path: Path) -> None:
    folder = store(tmp_path / "in[1]", frames(12))
    (folder / "notes.txt").write_text("no picture")
    literal = Path(str(folder).replace("[", "[[]"))
    assert [path.name for path in find([literal / "1*.png"])] == ["1.png", "10.png", "11.png"]
    assert len(find([folder])) == 12  # what exists is no pattern
    given = [folder / "10.png", folder / "9.png", folder / ".." / folder.name / "9.png"]
    assert [path.name for path in find(given)] == ["9.png", "10.png"]
    other = store(tmp_path / "other", frames(1), name="10.png")
    seen = read(find([*given, other]))
    assert seen.names == ("9.png", str(folder / "10.png"), str(other / "10.png"))  # each by a name of its own


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_pages_of_a_tiff(tmp_path: Path, channels: int, depth: int) -> None:
    arrays = frames(5, channels, depth)
    assert cv2.imwritemulti(str(tmp_path / "a.tif"), [array[..., ::-1] for array in arrays])
    seen = read(find([tmp_path / "a.tif"]), slice(1, None, 2))
    assert seen.names == ("page 1", "page 3")
    assert all(map(np.array_equal, seen.frames, arrays[1::2]))
    assert seen.like.depth == depth


def test_a_tiff_of_another_program(tmp_path: Path) -> None:
    pages = [Image.fromarray(array) for array in frames()]
    options = {"compression": "tiff_lzw", "dpi": (300, 300), "icc_profile": profile(), "tiffinfo": {270: "A scene"}}
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], **options)
    seen = read([tmp_path / "a.tif"])
    assert all(map(np.array_equal, seen.frames, frames()))
    assert (seen.like.icc, seen.like.dpi) == (profile(), (300, 300))
    assert b"A scene" in (seen.like.exif or b"")


@pytest.mark.parametrize(("name", "options"), [("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True})])
def test_animations(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    path = animate(tmp_path / name, duration=80, **options)
    seen = read([path])
    assert seen.names == tuple(f"frame {index}" for index in range(NUMBER))
    assert len(seen.frames) == NUMBER
    tolerance = 0 if name != "a.gif" else 40  # of 64 colours
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(seen.frames, frames(), strict=True)) <= tolerance
    if name != "a.webp":
        assert seen.fps == pytest.approx(12.5)


@pytest.mark.parametrize("ending", [".avi", ".mp4", ".mkv"])
def test_videos(tmp_path: Path, ending: str) -> None:
    path = play(tmp_path / f"a{ending}")
    seen = read([path], slice(2, 9, 3))
    assert seen.names == ("frame 2", "frame 5", "frame 8")
    assert seen.fps == pytest.approx(12.5 / 3)
    for array, truth in zip(seen.frames, frames(12)[2:9:3], strict=True):
        assert array.shape == truth.shape
        own, others = (cv2.PSNR(array, np.ascontiguousarray(t)) for t in (truth, truth[..., ::-1]))
        assert own > 25
        assert own > others  # colours are in their order


def test_what_the_first_frame_says_is_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for index, array in enumerate(frames(3)):
        turned = Image.fromarray(array).rotate(90, expand=True)
        saved(tmp_path / f"{index}.png", turned, exif=exif, icc_profile=profile() if index < 2 else None, dpi=(72, 72))
    seen = read(find([tmp_path]))
    assert all(map(np.array_equal, seen.frames, frames(3)))
    assert (seen.like.icc, seen.like.dpi) == (profile(), pytest.approx((72, 72), abs=0.1))
    (warning,) = seen.warnings
    assert "colour profile" in warning
    assert "2.png" in warning


def test_frames_that_differ_in_kind_become_alike(tmp_path: Path) -> None:
    store(tmp_path, [frames(1)[0], frames(1, 1, 16)[0]])
    opaque = np.full((HEIGHT, WIDTH), 255, np.uint8)
    for index, alpha in ((2, opaque), (3, opaque // 2)):
        encoding.write(Photo(frames(1)[0], alpha), tmp_path / f"{index}.png")
    seen = read(find([tmp_path]))
    assert {frame.shape for frame in seen.frames} == {(HEIGHT, WIDTH, 3)}
    assert {frame.dtype for frame in seen.frames} == {np.dtype(np.uint16)}
    assert np.array_equal(seen.frames[0], 257 * frames(1)[0].astype(np.uint16))
    assert np.array_equal(seen.frames[1][..., 2:], frames(1, 1, 16)[0])
    assert (seen.like.alpha, seen.like.depth) == (None, 16)
    said = dict(zip(("grey", "depth", "clear"), seen.warnings, strict=True))
    assert said["grey"].endswith("taken as colour: 1.png.")
    assert said["depth"].endswith("taken as 16: 0.png, 2.png, 3.png.")
    assert said["clear"].endswith("will not be: 3.png.")


def test_a_frame_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    store(tmp_path)
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    seen = read(find([tmp_path]))
    assert seen.names == ("0.png", "2.png", "3.png")
    assert list(seen.left_out) == ["1.png"]
    (warning,) = seen.warnings
    assert str(tmp_path / "1.png") in warning
    assert warning.endswith("This frame is left out.")


def test_a_page_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    assert cv2.imwritemulti(str(tmp_path / "a.tif"), frames())
    first = next(tags.directories((tmp_path / "a.tif").read_bytes()))
    beyond = len(first.data) - 10
    (tmp_path / "a.tif").write_bytes(first.with_numbers({tags.STRIP_OFFSETS: beyond}))
    seen = read([tmp_path / "a.tif"])
    assert seen.names == ("page 1", "page 2", "page 3")
    assert f"{tmp_path / 'a.tif'}, page 0: The file is cut off" in seen.warnings[0]


def test_one_picture_is_one_frame(tmp_path: Path) -> None:
    store(tmp_path, frames(1))
    seen = read([tmp_path / "0.png"])
    assert seen.names == ("0.png",)
    assert "Give more frames" in seen.warnings[0]


def test_a_video_that_is_cut_off(tmp_path: Path) -> None:
    path = play(tmp_path / "a.avi")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    seen = read([path])
    assert 2 <= len(seen.frames) < 9
    assert f"ends after {len(seen.frames)} of 12 frames" in seen.warnings[0]
    assert read([path], slice(0, 2)).warnings == ()  # nobody has asked for the rest
    whole = play(tmp_path / "b.mp4")  # whose index is at its end
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(PhotoError, match=r"b\.mp4: The file is no picture and no video"):
        read([whole])


def nothing(folder: Path) -> Path:
    (folder / "notes.txt").write_text("no picture")
    return folder


def of_two_sizes(folder: Path) -> Path:
    small = [array[:-4] for array in frames(4)]
    return store(folder, [*frames(7), *small, frames(1)[0][:, :-8]])


def of_damage(folder: Path) -> Path:
    for name in "ab":
        (folder / f"{name}.png").write_bytes(b"no picture")
    return folder


def text(folder: Path) -> Path:
    return nothing(folder) / "notes.txt"


def cut_off_gif(folder: Path) -> Path:
    path = animate(folder / "a.gif")
    path.write_bytes(path.read_bytes()[:40])
    return path


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.mp4")
    return folder / "a.mp4"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nothing, ["no picture in this folder", "name a video"]),
        (lambda folder: folder / "x*.png", ["x*.png: No file has a name like this"]),
        (lambda folder: folder / "missing.mp4", ["missing.mp4: ", "does not exist"]),
        (of_two_sizes, ["7 of 12 are 48x40", "48x36: 7.png, 8.png, 9.png and 1 more", "40x40: 11.png"]),
        (of_damage, ["None of 2 frames", "a.png: "]),
        (text, ["notes.txt: The file is no picture and no video", "Convert it to MP4"]),
        (cut_off_gif, ["a.gif"]),
        (pipe, ["a.mp4: ", "pipe or a device"]),
        (lambda folder: store(folder, [array[:, :31] for array in frames()]), ["None of 4", "31x40", "at least 32"]),
        (lambda folder: animate(folder / "a.gif", 201), ["These are 201 frames, and the limit is 200", "--frames ::2"]),
        (lambda folder: play(folder / "a.avi", 201), ["These are more than 200 frames", "--frames 0:200"]),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, make: object, words: list[str]) -> None:
    with pytest.raises(PhotoError) as raised:
        read(find([make(tmp_path)]))  # type: ignore[operator]
    sentence = str(raised.value)
    assert all(word in sentence for word in words), sentence
    assert sentence.endswith(".")


def test_limits(tmp_path: Path) -> None:
    store(tmp_path / "in")
    paths = find([tmp_path / "in"])
    with pytest.raises(PhotoError, match="raise the limit with --max-megapixels"):
        read(paths, most_pixels=HEIGHT * WIDTH - 1)
    for path in (animate(tmp_path / "a.gif"), play(tmp_path / "a.avi")):
        with pytest.raises(PhotoError, match=rf"{path.name}: The picture is {WIDTH}x{HEIGHT} pixels"):
            read([path], most_pixels=HEIGHT * WIDTH - 1)
        with pytest.raises(PhotoError, match=rf"{path.name}: .*--frames"):
            read([path], slice(50, None))
    with pytest.raises(PhotoError, match="leaves none of 4 frames"):
        read(paths, slice(2, 2))
    most_bytes = 3 * HEIGHT * WIDTH * NUMBER - 1
    with pytest.raises(PhotoError, match=r"memory\. Choose fewer"):
        read(paths, most_bytes=most_bytes)
    assert len(read(paths, slice(0, 3), most_bytes=most_bytes).frames) == 3


@pytest.mark.parametrize("name", ["a\0b", "a\0*"])
def test_names_that_no_system_has(name: str) -> None:
    with pytest.raises(UsageError, match="no name of a file"):
        find([Path(name)])


def test_a_folder_that_may_not_be_read(open_folder: Path) -> None:
    (open_folder / "in").mkdir(mode=0)
    with without_privileges(), pytest.raises(PhotoError, match="The folder cannot be read, because the permission"):
        find([open_folder / "in"])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ending", [".mp4", ".gif"])
def test_a_film_of_frames(tmp_path: Path, ending: str, channels: int) -> None:
    arrays = [array[:39, :47] for array in frames(6, channels, 16)]
    path = tmp_path / f"a{ending}"
    path.write_bytes(film(iter(arrays), 12.5, ending))
    seen = read([path])
    assert seen.fps == pytest.approx(12.5)
    assert len(seen.frames) == 6
    assert seen.frames[0].shape == ((40, 48, 3) if ending == ".mp4" else (39, 47, 3))
    for array, truth in zip(seen.frames, arrays, strict=True):
        shown = np.ascontiguousarray(np.broadcast_to(truth >> 8, (39, 47, 3)).astype(np.uint8))
        assert cv2.PSNR(np.ascontiguousarray(array[:39, :47]), shown) > 25
    if ending == ".gif":
        assert decoded(path.read_bytes())[1] == [80] * 6


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
def test_a_film_on_a_full_disk(tmp_path: Path, ending: str) -> None:
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999)); import numpy; from pathlib import Path; "
        "from blinddeblur import errors; "
        "from blinddeblur.files import together as files; from blinddeblur.pictures import film as stabilisation\n"
        "rng = numpy.random.default_rng(0)\n"
        "noise = [rng.integers(0, 256, (64, 64, 1), numpy.uint8) for _ in range(9)]\n"
        f"try: files.write_bytes(stabilisation.film(noise, 10, '{ending}'), Path('a{ending}'), overwrite=False)\n"
        "except errors.OutputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "could not be written" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_picture_of_tilts_shows_where_and_how_far() -> None:
    height, width, spacing = 62, 90, 4
    tilts = np.zeros((20, 2, 16, 23), np.float32)
    tilts[0, 1] = 3  # to the right
    tilts[1, 0, 8:] = -1.5  # the lower half up
    picture = tilt_picture(tilts, spacing, height, width)
    assert picture.dtype == np.uint8
    edges = (picture == 195).all(axis=2)  # of panels
    columns, rows = (np.nonzero(edges.mean(axis=axis) > 0.5)[0].reshape(-1, 2) for axis in (0, 1))
    assert len(rows) * len(columns) == 16
    top, bottom = rows[0]
    first, second = (picture[top + 1 : bottom, left + 1 : right] for left, right in columns[:2])
    assert first.shape[1] / first.shape[0] == pytest.approx(width / height, rel=0.02)
    assert (first == [255, 102, 102]).all()  # 3 of 5 pixels
    border = round(len(second) * 32 / height)  # eight cells of four pixels
    assert (second[: border - 10] == 255).all()
    assert np.ptp(second[border + 10 :], axis=(0, 1)).max() == 0
    red, green, blue = second[-1, -1].tolist()
    assert green < red < blue == 255  # as the wheel has it above its middle
    assert (picture[:, columns[-1, 1] + 10 :] != 255).any()  # the wheel
    still = tilt_picture(np.zeros((1, 2, 16, 23), np.float32), spacing, height, width)
    assert (still[30:100, 20:100] == 255).all()


def whole_films(folder: Path) -> dict[str, bytes]:
    paths = [
        animate(folder / "a.gif", duration=80),
        animate(folder / "a.png"),
        animate(folder / "a.webp", lossless=True),
        play(folder / "a.avi", 4),
        play(folder / "a.mp4", 4),
        play(folder / "a.mkv", 4),
    ]
    cv2.imwritemulti(str(folder / "a.tif"), frames())
    pages, buffer = [Image.fromarray(array) for array in frames()], io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    films = {path.name: path.read_bytes() for path in [*paths, folder / "a.tif"]}
    return films | {"b.tif": buffer.getvalue()}


def read_damaged(folder: Path, first: int, count: int) -> None:
    """In a process of its own, so that a crash of a library is seen. Prints how many were read and refused."""
    films, counts = whole_films(folder), {"read": 0, "refused": 0}
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        name = list(films)[seed % len(films)]
        data = damaged(films[name], rng)
        if name == "a.png" and rng.random() < 0.7:
            data = repaired(data)
        (folder / name).write_bytes(data)
        (folder / "seed").write_text(f"{seed} ({name})")
        start = time.perf_counter()
        try:
            seen = read([folder / name], most_pixels=2_000_000)
            assert len({(frame.shape, frame.dtype) for frame in seen.frames}) == 1
            counts["read"] += 1
        except PhotoError as error:
            counts["refused" if name in str(error) and str(error).endswith(".") else "refused without words"] += 1
        assert time.perf_counter() - start < 5, seed
    print(f"{counts['read']} read, {counts['refused']} refused")  # noqa: T201


def test_damaged_films_are_read_or_refused(tmp_path: Path) -> None:
    said = run_apart("test_sequence", "read_damaged", tmp_path, 0, 160)
    assert "read" in said
    assert not said.startswith("0 read")


@pytest.mark.slow
def test_thousands_of_damaged_films(tmp_path: Path) -> None:
    for first in range(1000, 6000, 1000):
        print(run_apart("test_sequence", "read_damaged", tmp_path, first, 1000))  # noqa: T201
