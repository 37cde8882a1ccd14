"""Photos of phones: HEIC and AVIF are read with all they hold, and refused in words where they cannot be."""

import io
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from photofiles import MAKE, ORIENTATION, exif_block, profile, smooth, tags_of
from PIL import Image

from blinddeblur.errors import PhotoError
from blinddeblur.files.decoding import decode, read
from blinddeblur.files.encoding import encode
from blinddeblur.files.photo import EXTENSIONS, READABLE, result_ending

pillow_heif = pytest.importorskip("pillow_heif")
pillow_heif.register_heif_opener()

FORMATS = {".heic": "HEIF", ".avif": "AVIF"}
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="%d"/></x:xmpmeta>'


def file_of(ending: str, image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, FORMATS[ending], **{"quality": 98, "subsampling": "4:4:4", "chroma": 444} | options)
    return file.getvalue()


def heic_of(mode: str, samples: np.ndarray, **options: object) -> bytes:
    """A lossless HEIC of samples (height, width[, channels]) in one of pillow-heif's modes."""
    file = io.BytesIO()
    options = {"quality": -1, "chroma": 444, "matrix_coefficients": 0} | options
    pillow_heif.from_bytes(mode, samples.shape[1::-1], samples.tobytes()).save(file, **options)
    return file.getvalue()


def widened(samples: np.ndarray, bits: int) -> np.ndarray:
    """What a photo keeps of samples of so many bits: 8 as they are, more rounded to 16."""
    return samples if bits == 8 else np.rint(samples * (65535 / (2**bits - 1)))


def refused(data: bytes, *words: str) -> None:
    with pytest.raises(PhotoError) as caught:
        decode(data)
    assert str(caught.value).endswith(".")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", FORMATS)
def test_orientation_is_applied_once(ending: str, orientation: int) -> None:
    turns = Image.Transpose
    stored_as = [None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM]
    stored_as += [turns.TRANSPOSE, turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270]
    how = stored_as[orientation - 1]
    stored = smooth() if how is None else smooth().transpose(how)
    photo = decode(file_of(ending, stored, exif=exif_block(orientation), xmp=XMP % orientation))
    assert photo.pixels.shape == (40, 60, 3)
    assert np.abs(photo.pixels * 255 - np.asarray(smooth())).max() < 8
    assert tags_of(photo.exif) in ({MAKE: "A camera"}, {MAKE: "A camera", ORIENTATION: 1})
    assert photo.xmp == XMP % 1


@pytest.mark.parametrize("ending", FORMATS)
def test_orientation_of_exif_alone_means_nothing(ending: str) -> None:
    """The container's own counts, as its standard says: where it has none, EXIF tells how the camera was held."""
    data = file_of(ending, smooth(), exif=exif_block(1))
    stored = exif_block(1).removeprefix(b"Exif\0\0")
    turned = exif_block(6).removeprefix(b"Exif\0\0")
    photo = decode(data.replace(stored, turned))
    assert photo.pixels.shape == (40, 60, 3)
    assert tags_of(photo.exif).get(ORIENTATION, 1) == 1


@pytest.mark.parametrize("ending", FORMATS)
def test_profile_resolution_and_alpha(ending: str) -> None:
    exif = Image.Exif()
    exif[MAKE], exif[0x011A], exif[0x011B], exif[0x0128] = "A camera", 300, 300, 2
    image = smooth().convert("RGBA")
    image.putalpha(smooth().getchannel(0))
    photo = decode(file_of(ending, image, exif=exif.tobytes(), icc_profile=profile()))
    assert photo.icc == profile()
    assert photo.dpi == (300, 300)
    assert photo.alpha is not None
    assert np.abs(photo.alpha.astype(int) - np.asarray(smooth())[..., 0]).max() < 8
    with Image.open(io.BytesIO(encode(photo, ".png"))) as result:
        assert result.mode == "RGBA"
        assert result.info["icc_profile"] == profile()
        assert result.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        assert result.getexif()[MAKE] == "A camera"


@pytest.mark.parametrize(("bits", "channels"), [(8, 3), (10, 3), (12, 3), (10, 4), (12, 4), (8, 1), (10, 1)])
def test_depth_of_a_heic(bits: int, channels: int) -> None:
    """Lossless, so exact but for the rounding to 16 bits: the white of 10 bits is 1 as well."""
    samples = np.random.default_rng(0).integers(0, 2**bits, (40, 60, channels), np.uint16 if bits > 8 else np.uint8)
    samples[:4] = 2**bits - 1
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels] + ("" if bits == 8 else f";{bits}")
    photo = decode(heic_of(mode, samples, **({"save_to_12bit": True} if bits == 12 else {})))
    assert photo.depth == (8 if bits == 8 else 16)
    assert photo.pixels.shape == (40, 60, min(channels, 3))
    np.testing.assert_array_equal(photo.stored, widened(samples[..., :3], bits))
    if channels == 4:
        assert photo.alpha is not None
        assert photo.alpha.dtype == np.uint16
        np.testing.assert_array_equal(photo.alpha, widened(samples[..., 3], bits))


@pytest.mark.parametrize(("bits", "channels"), [(8, 3), (10, 1), (10, 3), (12, 3), (10, 4), (12, 4)])
def test_depth_of_an_avif(bits: int, channels: int) -> None:
    samples = np.random.default_rng(0).integers(0, 2**bits, (40, 60, channels), np.uint16 if bits > 8 else np.uint8)
    samples[:4] = 2**bits - 1
    settings = [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 100]
    photo = decode(cv2.imencode(".avif", samples, settings)[1].tobytes())
    assert photo.depth == (8 if bits == 8 else 16)
    expected = widened(samples[..., 2::-1], bits).astype(int)
    # 8 bits go through a conversion of colours, which may be 2 of 255 off; more bits are lossless.
    np.testing.assert_allclose(photo.stored, expected, rtol=0, atol=0 if bits > 8 else 2)
    if channels == 4:
        np.testing.assert_array_equal(photo.alpha, widened(samples[..., 3], bits))


def test_they_are_read_and_not_written(tmp_path: Path) -> None:
    assert {*FORMATS, ".heif"} == set(READABLE) - set(EXTENSIONS)
    for ending in (*FORMATS, ".heif", ".HEIC"):
        assert result_ending(ending) == ".png"
    for ending in (".jpg", ".TIF", ".png"):
        assert result_ending(ending) == ending
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(file_of(".heic", smooth()))
    assert read(path).pixels.shape == (40, 60, 3)


def test_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {ending: file_of(ending, smooth()) for ending in FORMATS}
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # what import makes of a package that is missing
    refused(data[".heic"], 'pip install "blinddeblur[heif]"')
    assert decode(data[".avif"]).pixels.shape == (40, 60, 3)
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    refused(data[".avif"], "pip install --upgrade pillow")


def test_nothing_is_imported_before_it_is_needed() -> None:
    program = "import sys, blinddeblur.cli, blinddeblur.files.kernel_files, blinddeblur.files.sequence\n"
    program += "print([name for name in ('PIL', 'pillow_heif', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("ending", FORMATS)
def test_several_pictures(ending: str) -> None:
    others = [smooth().transpose(Image.Transpose.ROTATE_180)]
    refused(file_of(ending, smooth(), save_all=True, append_images=others), "single pictures")


def test_multiplied_transparency() -> None:
    refused(heic_of("RGBa", np.full((40, 60, 4), 100, np.uint8)), "multiplied by its transparency")


@pytest.mark.parametrize(("primaries", "transfer"), [(9, 16), (9, 18), (12, 13)])
def test_colours_that_only_numbers_describe(primaries: int, transfer: int) -> None:
    data = file_of(".avif", smooth())
    found = data.index(b"colrnclx") + 8
    changed = data[:found] + struct.pack(">HH", primaries, transfer) + data[found + 4 :]
    refused(changed, "HDR or wide-gamut", "profile")


@pytest.mark.parametrize("ending", FORMATS)
def test_forged_and_large_sizes_are_refused_before_decoding(ending: str) -> None:
    data = file_of(ending, smooth(64, 64))
    with pytest.raises(PhotoError, match=r"64x64.*--max-megapixels 1\."):
        decode(data, most_pixels=64 * 64 - 1)
    size = b"ispe" + struct.pack(">III", 0, 64, 64)
    assert size in data
    refused(data.replace(size, b"ispe" + struct.pack(">III", 0, 30_000, 30_000)))


@pytest.mark.parametrize("ending", FORMATS)
def test_a_truncated_file_is_never_read(ending: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = file_of(ending, smooth(160, 120), exif=exif_block(1), icc_profile=profile())
    for length in sorted({*range(12, 300, 31), *(int(len(data) * share) for share in np.linspace(0.05, 0.99, 20))}):
        refused(data[:length])
    refused(data[:-1])
    assert capfd.readouterr() == ("", "")


def test_another_film_or_photo_in_the_same_box_format() -> None:
    refused(struct.pack(">I", 24) + b"ftypisom\0\0\0\0mp42avc1" + bytes(100), "not a JPEG")
