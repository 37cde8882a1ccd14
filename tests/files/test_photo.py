"""Photos survive their files: every format, every orientation, and every file that is not what it seems."""

import errno
import io
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photofiles import (
    MAKE,
    ORIENTATION,
    exif_block,
    make_photo,
    noise,
    profile,
    saved,
    smooth,
    tags_of,
    tiff_file,
    without_privileges,
)
from PIL import Image

from blinddeblur.errors import EstimationError, KernelError, OutputError, PhotoError
from blinddeblur.files import quiet
from blinddeblur.files.decoding import decode, header_of, most_bytes, read
from blinddeblur.files.encoding import encode, write
from blinddeblur.files.headers import png_chunks, png_file
from blinddeblur.files.kernel_files import kernel_files, read_kernel, uncertainty_files
from blinddeblur.files.photo import EXTENSIONS, Photo
from blinddeblur.files.together import check_free, write_together

LOSSLESS = (".png", ".tif", ".tiff", ".webp", ".bmp")
HOLDING_ALPHA = (".png", ".tif", ".tiff", ".webp")


def refused(path: Path, *words: str) -> str:
    """Reading must fail; the message names the file, says the words, and is made of full sentences."""
    with pytest.raises(PhotoError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith(".")
    for word in words:
        assert word in message
    return message


# Round trips


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ending", "alpha"), [*((ending, False) for ending in LOSSLESS), *((ending, True) for ending in HOLDING_ALPHA)]
)
def test_lossless_round_trip_is_exact(tmp_path: Path, ending: str, channels: int, alpha: bool, depth: int) -> None:
    original = make_photo(37, 53, channels, depth=depth, alpha=alpha)
    path = tmp_path / f"photo{ending}"
    write(original, path)
    back = read(path)

    holds_grey = ending != ".webp" and not (alpha and ending in (".tif", ".tiff"))
    assert back.pixels.dtype == np.float32
    assert back.pixels.shape == (37, 53, 1 if channels == 1 and holds_grey else 3)
    assert back.depth == (depth if ending in (".png", ".tif", ".tiff") else 8)
    if back.depth == depth:
        np.testing.assert_array_equal(back.pixels, np.broadcast_to(original.pixels, back.pixels.shape))
    else:
        assert np.abs(back.pixels - original.pixels).max() <= 0.5 / 255 + 1e-6
    if not alpha:
        assert back.alpha is None
    elif back.depth == depth:
        np.testing.assert_array_equal(back.alpha, original.alpha)
        assert back.alpha.dtype == original.alpha.dtype
    else:
        assert back.alpha.dtype == np.uint8
        assert np.abs(back.alpha - original.alpha / 257).max() <= 0.5


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".JPG"])
def test_jpeg_round_trip_is_close(tmp_path: Path, ending: str, channels: int, depth: int) -> None:
    pixels = np.asarray(smooth(), np.float32)[..., :channels] / 255
    path = tmp_path / f"photo{ending}"
    write(Photo(pixels, depth=depth), path)
    back = read(path)
    assert back.pixels.shape == pixels.shape
    assert back.depth == 8
    assert np.abs(back.pixels - pixels).max() < 4 / 255


def test_jpeg_keeps_full_colour_resolution_at_quality_95(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    write(make_photo(40, 40, 3), path)
    with Image.open(path) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
        reference = io.BytesIO()
        smooth().save(reference, "JPEG", quality=95)
        assert image.quantization == Image.open(reference).quantization


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(32, 71),
    width=st.integers(32, 71),
    channels=st.sampled_from([1, 3]),
    depth=st.sampled_from([8, 16]),
    alpha=st.booleans(),
    ending=st.sampled_from([".png", ".tiff"]),
    seed=st.integers(0, 1000),
)
def test_any_size_round_trips(
    height: int, width: int, channels: int, depth: int, alpha: bool, ending: str, seed: int
) -> None:
    original = make_photo(height, width, channels, depth=depth, alpha=alpha, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"photo{ending}")
        write(original, path)
        back = read(path)
    np.testing.assert_array_equal(back.pixels, np.broadcast_to(original.pixels, back.pixels.shape))
    np.testing.assert_array_equal(back.alpha, original.alpha)


@pytest.mark.parametrize(("ending", "mode"), [(".png", "RGBA"), (".png", "LA"), (".tiff", "RGBA"), (".webp", "RGBA")])
def test_other_programs_see_the_same(tmp_path: Path, ending: str, mode: str) -> None:
    original = make_photo(33, 47, len(mode) - 1, alpha=True)
    path = tmp_path / f"photo{ending}"
    write(original, path)
    with Image.open(path) as image:
        assert image.mode == mode
        expected = np.dstack([np.rint(original.pixels * 255), original.alpha])
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_tiff_says_that_its_colours_are_not_multiplied_by_alpha(tmp_path: Path) -> None:
    path = tmp_path / "photo.tiff"
    write(make_photo(33, 47, 3, depth=16, alpha=True), path)
    with Image.open(path) as image:
        assert image.tag_v2[338] == (2,)


def test_values_are_rounded_and_clipped(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 1), np.float32)
    pixels[0, :6, 0] = [-1, 0.4 / 255, 0.6 / 255, 254.4 / 255, 254.6 / 255, 7]
    path = tmp_path / "photo.png"
    write(Photo(pixels), path)
    np.testing.assert_array_equal(np.rint(read(path).pixels[0, :6, 0] * 255), [0, 0, 1, 254, 255, 255])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_written(tmp_path: Path, value: float) -> None:
    broken = make_photo(32, 32, 3)
    broken.pixels[5, 6, 1] = value
    with pytest.raises(EstimationError, match="not numbers"):
        write(broken, tmp_path / "photo.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".bmp"])
def test_alpha_is_not_dropped(tmp_path: Path, ending: str) -> None:
    with pytest.raises(OutputError, match=r"transparency.*\.png"):
        write(make_photo(32, 32, 3, alpha=True), tmp_path / f"photo{ending}")
    assert not list(tmp_path.iterdir())


def test_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.png"):
        write(make_photo(32, 32, 3), tmp_path / "photo.gif")


@pytest.mark.parametrize(("ending", "width"), [(".jpg", 65_501), (".webp", 16_384)])
def test_too_wide_for_the_format(tmp_path: Path, ending: str, width: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OutputError, match="too wide"):
        write(Photo(np.zeros((32, width, 1), np.float32)), tmp_path / f"photo{ending}")
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""


# Other programs' files


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_of_either_byte_order(tmp_path: Path, channels: int, depth: int, order: str) -> None:
    samples = noise(33, 35, channels, depth)
    path = tmp_path / "photo.tif"
    path.write_bytes(tiff_file(samples, 1 if channels == 1 else 2, order, **({"t338": (2,)} if channels == 4 else {})))
    back = read(path)
    limit = np.float32(2**depth - 1)
    np.testing.assert_array_equal(back.pixels, samples[..., :3].astype(np.float32) / limit)
    if channels == 4:
        np.testing.assert_array_equal(back.alpha, samples[..., 3])


@pytest.mark.parametrize("depth", [8, 16])
def test_tiff_in_which_zero_is_white(tmp_path: Path, depth: int) -> None:
    samples = noise(33, 35, 1, depth)
    path = tmp_path / "photo.tif"
    path.write_bytes(tiff_file(samples, 0))
    limit = 2**depth - 1
    np.testing.assert_array_equal(np.rint(read(path).pixels * limit), limit - samples.astype(int))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(tmp_path: Path, compression: str) -> None:
    path = saved(tmp_path / "photo.tif", smooth(), compression=compression)
    np.testing.assert_array_equal(np.rint(read(path).pixels * 255), np.asarray(smooth()))


def test_tiff_with_a_thumbnail_is_a_single_picture(tmp_path: Path) -> None:
    first, second = tiff_file(noise(32, 32, 1), 1), tiff_file(noise(8, 8, 1), 1, t254=(1,))
    # The second file stands behind the first; its pointers are moved, and the first directory points to it.
    base = len(first) + len(first) % 2
    data = bytearray(first.ljust(base, b"\0") + second)
    (link,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, link)
    (directory,) = struct.unpack_from("<I", second, 4)
    struct.pack_into("<I", data, link + 2 + 12 * entries, base + directory)
    path = tmp_path / "photo.tif"
    path.write_bytes(data)
    assert read(path).pixels.shape == (32, 32, 1)


def test_palette_and_bilevel_png(tmp_path: Path) -> None:
    palette = smooth().convert("P", palette=Image.Palette.ADAPTIVE)
    path = saved(tmp_path / "palette.png", palette)
    np.testing.assert_array_equal(np.rint(read(path).pixels * 255), np.asarray(palette.convert("RGB")))
    path = saved(tmp_path / "bilevel.png", smooth().convert("1"))
    assert set(np.unique(read(path).pixels)) == {0, 1}


def test_progressive_jpeg_with_thumbnail_and_trailing_bytes(tmp_path: Path) -> None:
    thumbnail = io.BytesIO()
    smooth(16, 12).save(thumbnail, "JPEG")
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(thumbnail.getvalue())) + thumbnail.getvalue()
    progressive = io.BytesIO()
    smooth().save(progressive, "JPEG", quality=95, progressive=True)
    data = progressive.getvalue()
    path = tmp_path / "photo.jpg"
    path.write_bytes(data[:2] + comment + data[2:] + b"a depth map")
    assert np.abs(read(path).pixels * 255 - np.asarray(smooth())).max() < 8
    # The end marker of the thumbnail is not taken for that of the picture.
    path.write_bytes(data[:2] + comment + data[2:-40])
    refused(path, "cut off")


# Orientation and metadata


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tiff"])
def test_orientation_is_applied_and_reset(tmp_path: Path, ending: str, orientation: int) -> None:
    # How a camera held in each way stores the upright picture: the inverse of what EXIF asks a viewer to do.
    turns = Image.Transpose
    stored_as = [None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM]
    stored_as += [turns.TRANSPOSE, turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270]
    upright = smooth()
    how = stored_as[orientation - 1]
    stored = upright if how is None else upright.transpose(how)
    options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}.get(ending, {})
    path = saved(tmp_path / f"photo{ending}", stored, exif=exif_block(orientation), **options)

    back = read(path)
    assert back.pixels.shape == (40, 60, 3)
    assert np.abs(back.pixels * 255 - np.asarray(upright)).max() <= (6 if ending == ".jpg" else 1e-4)
    if ending != ".tiff":
        assert tags_of(back.exif) == {ORIENTATION: 1, MAKE: "A camera"}

    again = tmp_path / f"again{ending}"
    write(back, again)
    with Image.open(again) as image:
        assert image.size == (60, 40)
        assert image.getexif().get(ORIENTATION, 1) == 1


@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_alpha_turns_with_the_pixels(tmp_path: Path, ending: str) -> None:
    upright = smooth().convert("RGBA")
    upright.putalpha(smooth().getchannel(0))
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    back = read(saved(tmp_path / f"photo{ending}", stored, exif=exif_block(6)))
    np.testing.assert_array_equal(back.alpha, np.asarray(upright)[..., 3])
    np.testing.assert_array_equal(np.rint(back.pixels * 255), np.asarray(upright)[..., :3])


@pytest.mark.parametrize("orientation", [0, 9])
def test_orientation_that_does_not_exist_is_none(tmp_path: Path, orientation: int) -> None:
    path = saved(tmp_path / "photo.png", smooth(), exif=exif_block(orientation))
    assert read(path).pixels.shape == (40, 60, 3)


def test_exif_that_makes_no_sense_does_not_stop_the_photo(tmp_path: Path) -> None:
    exif = b"MM\0*\0\0\xff\xff"
    path = saved(tmp_path / "photo.webp", smooth(), exif=exif)
    assert read(path).exif == exif


def test_broken_thumbnail_does_not_hide_the_orientation(tmp_path: Path) -> None:
    exif = b"MM\0*\0\0\0\x08" + b"\0\x01" + struct.pack(">HHIHH", ORIENTATION, 3, 1, 6, 0) + b"\0\xff\xff\xff"
    back = read(saved(tmp_path / "photo.png", smooth(), exif=exif))
    assert back.pixels.shape == (60, 40, 3)


def test_tags_that_point_nowhere(tmp_path: Path) -> None:
    beyond = b"MM\0*\0\0\0\x08" + b"\0\x01" + struct.pack(">HHII", ORIENTATION, 3, 9, 4000) + bytes(4)
    assert read(saved(tmp_path / "photo.png", smooth(), exif=beyond)).exif == beyond
    path = tmp_path / "photo.tif"
    whole = tiff_file(noise(40, 40, 3), 2, t34675=(1, 2, 3))  # the profile is the last of the values in the file
    path.write_bytes(whole)
    assert read(path).icc == struct.pack("<3I", 1, 2, 3)
    path.write_bytes(whole[:-2])
    refused(path, "cut off")


def test_thumbnail_of_the_blurred_picture_is_dropped(tmp_path: Path) -> None:
    # A first directory with one tag and a link to a second: the thumbnail's.
    tag = struct.pack(">HHIHH", ORIENTATION, 3, 1, 1, 0)
    exif = b"MM\0*\0\0\0\x08" + b"\0\x01" + tag + struct.pack(">I", 26) + b"\0\x01" + tag + bytes(4)
    back = read(saved(tmp_path / "photo.png", smooth(), exif=exif))
    assert back.exif is not None
    assert struct.unpack_from(">I", back.exif, 22) == (0,)


@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tiff"])
@pytest.mark.parametrize("target", [".jpg", ".png", ".webp", ".tiff"])
def test_colour_profile_and_exif_are_kept(tmp_path: Path, source: str, target: str) -> None:
    path = saved(tmp_path / f"source{source}", smooth(), exif=exif_block(), icc_profile=profile())
    original = read(path)
    assert original.icc == profile()
    write(original, tmp_path / f"target{target}")
    back = read(tmp_path / f"target{target}")
    assert back.icc == profile()
    if ".tiff" not in (source, target):
        assert tags_of(back.exif) == {ORIENTATION: 1, MAKE: "A camera"}
    with Image.open(tmp_path / f"target{target}") as image:
        assert image.info["icc_profile"] == profile()


def test_grey_photo_keeps_a_grey_profile_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    grey = make_photo(32, 32, 1, alpha=True)
    for space, ending, kept in (("GRAY", ".png", True), ("RGB ", ".png", False), ("GRAY", ".webp", False)):
        path = tmp_path / f"{space.strip()}{ending}"
        write(Photo(grey.pixels, grey.alpha, icc=profile(space)), path)
        with Image.open(path) as image:
            assert (image.info.get("icc_profile") == profile(space)) is kept
    assert capfd.readouterr().err == ""


def test_colour_profile_in_several_segments_is_read_whole(tmp_path: Path) -> None:
    large = (150_000).to_bytes(4, "big") + profile()[4:].ljust(149_996, b"\1")
    path = saved(tmp_path / "photo.jpg", smooth(), icc_profile=large)
    assert read(path).icc == large
    write(read(path), tmp_path / "photo.png")
    assert read(tmp_path / "photo.png").icc == large
    with pytest.raises(OutputError, match="colour profile is too large"):
        write(read(path), tmp_path / "again.jpg")


def test_with_pixels_keeps_all_else() -> None:
    original = Photo(np.zeros((32, 32, 3), np.float32), np.zeros((32, 32), np.uint16), 16, b"exif", b"icc")
    ones = np.ones((32, 32, 3), np.float32)
    changed = original.with_pixels(ones)
    assert changed.pixels is ones
    assert changed.alpha is original.alpha
    assert (changed.depth, changed.exif, changed.icc) == (16, b"exif", b"icc")


@pytest.mark.parametrize("name", ["été à la mer.png", "夏 休み.tiff", "фото.jpg", "a.b.c d.webp", "📷.bmp"])
def test_any_name_works(tmp_path: Path, name: str) -> None:
    path = tmp_path / "ordner mit ümlaut" / name
    write(make_photo(32, 32, 3), path)
    assert read(path).pixels.shape == (32, 32, 3)


# Files that cannot be restored


def test_missing_file_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.jpg", "does not exist")
    refused(tmp_path, "is a folder")
    (tmp_path / "file").write_bytes(b"x")
    refused(tmp_path / "file" / "photo.jpg", "no folder")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero"), Path("/dev/null")):
        refused(path, "a pipe or a device")
        with pytest.raises(KernelError, match="a pipe or a device"):
            read_kernel(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "photo.bmp"
    with path.open("wb") as file:
        file.truncate(10**13)  # takes no room on the disk
    refused(path, "larger than any photo of 200 megapixels", "--max-megapixels")
    with pytest.raises(PhotoError, match=r"larger than any photo of 0\.01 megapixels"):
        decode(bytes(most_bytes(10_000) + 1), most_pixels=10_000)


@pytest.mark.parametrize(
    "name", ["x" * 300 + ".png", "a\0b.png", "x" * 300 + "/a.png", "a\0b/a.png", "a/" * 3000 + "a.png"]
)
def test_names_that_no_system_allows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    words = "NUL byte" if "\0" in name else "too long"
    refused(path, words)
    with pytest.raises(KernelError, match=words):
        read_kernel(path)
    for attempt in (
        lambda: write(make_photo(32, 32, 3), path),
        lambda: check_free(path, overwrite=False),
        lambda: check_free(path, overwrite=True),
    ):
        with pytest.raises(OutputError, match=words) as caught:
            attempt()
        assert str(caught.value).endswith(".")
    assert not list(tmp_path.iterdir())


def test_no_permission_to_read(open_folder: Path) -> None:
    path = saved(open_folder / "photo.png", smooth())
    path.chmod(0)
    with without_privileges():
        refused(path, "permission")


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png"])
def test_empty_file_and_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    refused(path, "empty")
    path.write_text("This is a letter, not a photo. " * 20)
    refused(path, "not a JPEG, PNG, TIFF, WebP, BMP, HEIC or AVIF")


@pytest.mark.parametrize("size", [(31, 100), (100, 31), (1, 60_000)])
@pytest.mark.parametrize("ending", [".jpg", ".png", ".tiff", ".bmp"])
def test_too_small(tmp_path: Path, ending: str, size: tuple[int, int]) -> None:
    path = saved(tmp_path / f"photo{ending}", Image.new("RGB", size))
    refused(path, f"{size[0]}x{size[1]}", "at least 32")


def test_smallest_size_is_read(tmp_path: Path) -> None:
    assert read(saved(tmp_path / "photo.png", smooth(32, 32))).pixels.shape == (32, 32, 3)


def forged_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png_file([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")])


def forged_webp(width: int, height: int) -> bytes:
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + sides


def forged_bmp(width: int, height: int) -> bytes:
    return struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, width, -height, 1, 24, 0, 0, 0, 0, 0, 0)


def forged_tiff(width: int, height: int) -> bytes:
    return tiff_file(noise(1, 1, 3), 2, t256=(width,), t257=(height,))


def forged_jpeg(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    smooth().save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def test_absurd_dimensions_of_a_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(forged_jpeg(50_000, 60_000))
    refused(path, "50000x60000", "200 megapixels")


@pytest.mark.parametrize("forged", [forged_jpeg, forged_png, forged_webp, forged_bmp, forged_tiff])
def test_the_limit_can_be_lowered_and_raised(forged: Callable[[int, int], bytes], tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(forged(1500, 1000))
    with pytest.raises(PhotoError, match=r"1500x1000 pixels, and the limit is 1\.2 megapixels\..*--max-megapixels 2\."):
        read(path, most_pixels=1_200_000)
    path.write_bytes(forged(16_000, 16_000))
    with pytest.raises(PhotoError, match=r"16000x16000.*200 megapixels.*--max-megapixels 256\."):
        read(path)


def test_what_opencv_cannot_hold_is_not_offered(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    for width, height in ((2**16, 2**15), (2**21, 40)):
        path.write_bytes(forged_png(width, height))
        with pytest.raises(PhotoError, match=rf"{width}x{height} pixels, and the limit is 1073 megapixels and 1048576"):
            read(path, most_pixels=10**10)
    path.write_bytes(forged_png(30_000, 30_000))  # within, and without its pixels
    refused(path)


def test_large_photo_is_read_when_it_is_allowed() -> None:
    data = forged_png(2000, 1000)
    whole = zlib.compress(bytes((2000 * 3 + 1) * 1000))
    header = dict(png_chunks(data))[b"IHDR"]
    data = png_file([(b"IHDR", header), (b"IDAT", whole), (b"IEND", b"")])
    assert decode(data, most_pixels=2_000_000).pixels.shape == (1000, 2000, 3)
    with pytest.raises(PhotoError, match="megapixels"):
        decode(data, most_pixels=1_999_999)


@pytest.mark.parametrize("forged", [forged_png, forged_webp, forged_bmp, forged_tiff])
def test_absurd_dimensions_are_refused_before_they_are_allocated(
    tmp_path: Path, forged: Callable[[int, int], bytes]
) -> None:
    path = tmp_path / "photo"
    path.write_bytes(forged(50_000, 60_000))
    refused(path, "50000x60000", "200 megapixels")
    path.write_bytes(forged(500, 600))  # a size that is allowed, without the pixels
    refused(path)


def test_cmyk(tmp_path: Path) -> None:
    for ending in (".jpg", ".tiff"):
        refused(saved(tmp_path / f"photo{ending}", smooth().convert("CMYK")), "CMYK")


@pytest.mark.parametrize(
    ("name", "format"),
    [("photo.gif", "GIF"), ("photo.jpg", "GIF"), ("a.webp", "WEBP"), ("a.png", "PNG"), ("a.tif", "TIFF")],
)
def test_several_pictures_in_one_file(tmp_path: Path, name: str, format: str) -> None:
    others = [smooth().transpose(Image.Transpose.ROTATE_180)]
    refused(saved(tmp_path / name, smooth(), format, save_all=True, append_images=others), "single pictures")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiff_file(noise(40, 40, 1), 1, t339=(3,)), "8 or 16 bits"),
        (tiff_file(noise(40, 40, 1), 1, t339=(2,)), "8 or 16 bits"),
        (tiff_file(np.zeros((40, 40, 1), np.uint32), 1), "8 or 16 bits"),
        (tiff_file(noise(40, 40, 2), 1, t338=(2,)), "neither grey, nor RGB"),
        (tiff_file(noise(40, 40, 3), 8), "neither grey, nor RGB"),
        (tiff_file(noise(40, 40, 4), 2, t338=(1,)), "multiplied by its transparency"),
        (tiff_file(noise(40, 40, 3, 16), 2, t284=(2,)), "separate planes"),
    ],
)
def test_tiff_that_would_be_misread(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "photo.tif"
    path.write_bytes(content)
    refused(path, words)


def test_float_and_bilevel_tiff(tmp_path: Path) -> None:
    refused(saved(tmp_path / "float.tif", Image.fromarray(np.ones((40, 40), np.float32))), "8 or 16 bits")
    refused(saved(tmp_path / "bilevel.tif", smooth().convert("1")), "8 or 16 bits")


def test_png_with_a_transparent_shade_of_grey(tmp_path: Path) -> None:
    refused(saved(tmp_path / "photo.png", smooth().convert("L"), transparency=7), "alpha channel")


def test_jpeg_of_12_bits(tmp_path: Path) -> None:
    path = saved(tmp_path / "photo.jpg", smooth())
    data = path.read_bytes()
    frame = data.index(b"\xff\xc0")
    path.write_bytes(data[: frame + 4] + b"\x0c" + data[frame + 5 :])
    refused(path, "rare kind", "save it as a PNG")


def damaged_files() -> dict[str, bytes]:
    image = Image.fromarray(cv2.resize(noise(12, 16, 3), (160, 120), interpolation=cv2.INTER_CUBIC))
    files = {}
    for name, format, options in (
        ("baseline", "JPEG", {}),
        ("progressive", "JPEG", {"progressive": True}),
        ("png", "PNG", {}),
        ("lossy", "WEBP", {}),
        ("lossless", "WEBP", {"lossless": True}),
        ("with metadata", "WEBP", {"exif": exif_block()}),
        ("plain", "TIFF", {}),
        ("lzw", "TIFF", {"compression": "tiff_lzw"}),
        ("bmp", "BMP", {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        files[f"{format} {name}"] = buffer.getvalue()
    files["TIFF of ours"] = cv2.imencode(".tiff", np.asarray(image))[1].tobytes()
    return files


@pytest.mark.parametrize("name", damaged_files())
def test_a_truncated_file_is_never_read(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = damaged_files()[name]
    path = tmp_path / "photo"
    path.write_bytes(data)
    whole = read(path).pixels
    assert whole.shape == (120, 160, 3)
    lengths = {*range(1, 64, 7), *(int(len(data) * share) for share in np.linspace(0.02, 0.98, 25)), len(data) - 1}
    for length in sorted(lengths - {len(data)}):
        path.write_bytes(data[:length])
        refused(path)
        # Noticed without help from OpenCV, whose decoders have filled up a picture with grey in some versions.
        if not name.startswith("BMP"):
            with pytest.raises(PhotoError):
                header_of(data[:length])
    assert capfd.readouterr().err == ""


def test_a_png_with_a_flipped_bit_is_never_read(tmp_path: Path) -> None:
    data = damaged_files()["PNG png"]
    path = tmp_path / "photo.png"
    for position in range(8, len(data), len(data) // 23):
        changed = bytearray(data)
        changed[position] ^= 4
        path.write_bytes(changed)
        refused(path)
        with pytest.raises(PhotoError):
            header_of(bytes(changed))


def test_a_jpeg_with_damaged_pixels_is_refused_and_superfluous_bytes_are_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = damaged_files()["JPEG baseline"]
    path = tmp_path / "photo.jpg"
    path.write_bytes(data[:-2] + b"superfluous" + data[-2:])
    whole = read(path).pixels
    path.write_bytes(data)
    np.testing.assert_array_equal(read(path).pixels, whole)
    scan = data.index(b"\xff\xda") + 1000
    path.write_bytes(data[:scan] + b"\xff\0" * 20 + data[scan + 40 :])  # codes of ones only: there is none
    refused(path, "damaged")
    path.write_bytes(data[:scan] + data[-2:])  # the end comes early
    refused(path, "damaged")
    assert capfd.readouterr() == ("", "")


def test_neither_stderr_nor_a_temporary_folder_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "photo.jpg", smooth())
    program = "import os, sys; os.close(0); os.close(2)\n"
    program += "from pathlib import Path; from blinddeblur.files.decoding import read\n"
    program += "from blinddeblur.files.encoding import encode\n"
    program += "print(len(encode(read(Path(sys.argv[1])), '.png')) > 100)"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"

    def read_only() -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(quiet.tempfile, "TemporaryFile", read_only)
    assert read(path).pixels.shape == (40, 60, 3)


def test_threads_leave_stderr_where_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    data = damaged_files()["JPEG baseline"]
    loud = data[:-2] + b"superfluous" + data[-2:]
    with ThreadPoolExecutor(4) as threads:
        shapes = list(threads.map(lambda _: decode(loud).pixels.shape, range(40)))
    assert set(shapes) == {(120, 160, 3)}
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


# Writing


def test_existing_output_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="--overwrite"):
        write(make_photo(32, 32, 3), path)
    assert path.read_bytes() == b"precious"
    write(make_photo(32, 32, 3), path, overwrite=True)
    assert read(path).pixels.shape == (32, 32, 3)
    assert list(tmp_path.iterdir()) == [path]


def test_kernel_and_uncertainty_as_bytes(tmp_path: Path) -> None:
    kernel, uncertainty = np.random.default_rng(0).random((9, 13)), np.full((32, 32, 3), 0.05, np.float32)
    files = kernel_files(kernel, tmp_path / "a") | uncertainty_files(uncertainty, tmp_path / "a")
    assert not list(tmp_path.iterdir())
    write_together(files.items(), overwrite=False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_bytes_are_what_files_hold(tmp_path: Path) -> None:
    photo = make_photo(32, 33, 3)
    for ending in (*EXTENSIONS, ".PNG"):
        write(photo, tmp_path / f"photo{ending}")
        data = (tmp_path / f"photo{ending}").read_bytes()
        assert encode(photo, ending) == data
        np.testing.assert_array_equal(decode(data).pixels, read(tmp_path / f"photo{ending}").pixels)
    with pytest.raises(OutputError, match=r"^The ending must be one of \.jpg"):
        encode(photo, ".heic")
    with pytest.raises(PhotoError, match=r"^The file is not a JPEG"):
        decode(b"no picture at all")
    with pytest.raises(PhotoError, match="empty"):
        decode(b"")


# Kernels


def write_kernel(kernel: np.ndarray, stem: Path, *, overwrite: bool = False) -> tuple[Path, Path]:
    files = kernel_files(kernel, stem)
    write_together(files.items(), overwrite=overwrite)
    picture, array = files
    return picture, array


def test_kernel_round_trip(tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).random((9, 13))
    picture, array = write_kernel(kernel, tmp_path / "f 1.8 été")
    assert picture == tmp_path / "f 1.8 été.kernel.png"
    assert array == tmp_path / "f 1.8 été.kernel.npy"
    assert np.load(array).dtype == np.float32
    np.testing.assert_allclose(np.load(array).sum(), 1, rtol=1e-5)
    preview = cv2.imdecode(np.fromfile(picture, np.uint8), cv2.IMREAD_UNCHANGED)
    assert preview.shape == (9, 13)
    assert preview.dtype == np.uint16
    assert preview.max() == 65535
    for path in (picture, array):
        back = read_kernel(path)
        assert back.dtype == np.float64
        assert back.sum() == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(back, kernel / kernel.sum(), atol=1 / 65535 / kernel.sum())


def test_existing_kernel_is_kept_and_nothing_else_written(tmp_path: Path) -> None:
    for ending in (".png", ".npy"):
        folder = tmp_path / ending[1:]
        folder.mkdir()
        (folder / f"photo.kernel{ending}").write_bytes(b"precious")
        with pytest.raises(OutputError, match="--overwrite"):
            write_kernel(np.ones((3, 3)), folder / "photo")
        assert [path.read_bytes() for path in folder.iterdir()] == [b"precious"]
        write_kernel(np.ones((3, 3)), folder / "photo", overwrite=True)
        assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("kernel", [np.zeros((3, 3)), np.full((3, 3), np.nan), -np.ones((3, 3)), np.ones(3)])
def test_what_is_no_kernel_is_not_written(tmp_path: Path, kernel: np.ndarray) -> None:
    with pytest.raises(EstimationError):
        write_kernel(kernel, tmp_path / "photo")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (4, 7), (7, 4), (15, 15)])
def test_even_sides_become_odd_at_their_end(tmp_path: Path, shape: tuple[int, int]) -> None:
    np.save(tmp_path / "kernel.npy", np.ones(shape, np.int32))
    kernel = read_kernel(tmp_path / "kernel.npy")
    assert kernel.shape == (shape[0] // 2 * 2 + 1, shape[1] // 2 * 2 + 1)
    np.testing.assert_allclose(kernel[: shape[0], : shape[1]], 1 / (shape[0] * shape[1]))
    assert kernel.sum() == pytest.approx(1)


def test_coloured_kernel_is_averaged(tmp_path: Path) -> None:
    samples = noise(5, 7, 3)
    kernel = read_kernel(saved(tmp_path / "kernel.bmp", Image.fromarray(samples)))
    np.testing.assert_allclose(kernel, samples.sum(axis=2) / samples.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (np.zeros((3, 3)), "nowhere positive"),
        (np.array([[1.0, -0.5, 1.0]]), "negative"),
        (np.array([[1.0, np.nan, 1.0]]), "not finite"),
        (np.array([[1.0, np.inf, 1.0]]), "not finite"),
        (np.ones(5), "rows and columns"),
        (np.ones((3, 3, 3)), "rows and columns"),
        (np.ones((0, 3)), "rows and columns"),
        (np.ones((3, 3), complex), "real numbers"),
        (np.array([["a"]]), "real numbers"),
    ],
)
def test_arrays_that_are_no_kernels(tmp_path: Path, kernel: np.ndarray, words: str) -> None:
    path = tmp_path / "kernel.npy"
    np.save(path, kernel)
    with pytest.raises(KernelError, match=words) as caught:
        read_kernel(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_kernel_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "kernel.npy"
    with pytest.raises(KernelError, match="does not exist"):
        read_kernel(path)
    np.save(path, np.array([{"code": "to run"}], dtype=object), allow_pickle=True)
    with pytest.raises(KernelError, match="no array of numbers"):
        read_kernel(path)
    np.save(path, np.ones((9, 9)))
    whole = path.read_bytes()
    for length in (3, 7, 60, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(KernelError, match="no array of numbers"):
            read_kernel(path)
    path.write_bytes(whole.replace(b"(9, 9)", b"(99999999, 99999999)"))
    with pytest.raises(KernelError, match="no array of numbers"):
        read_kernel(path)
    (tmp_path / "kernel.png").write_text("no picture")
    with pytest.raises(KernelError, match="not a JPEG"):
        read_kernel(tmp_path / "kernel.png")
    with pytest.raises(KernelError, match="nowhere positive"):
        read_kernel(saved(tmp_path / "black.png", Image.new("L", (9, 9))))


def test_every_extension_can_be_written_and_read(tmp_path: Path) -> None:
    for ending in EXTENSIONS:
        write(make_photo(32, 33, 3), tmp_path / f"photo{ending}")
        assert read(tmp_path / f"photo{ending}").pixels.shape == (32, 33, 3)
