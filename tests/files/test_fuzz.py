"""Damaged files of every format: each is read or refused in words, in time, without a crash and without a word printed.

The files are decoded in a process of their own, so that a crash of a C library is a failure that names the file.
"""

import io
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from photofiles import damaged, make_photo, noise, profile, repaired, run_apart, smooth, tiff_file
from photofiles import exif_block as exif_of_pillow
from PIL import ExifTags, Image, PngImagePlugin

from blinddeblur.errors import PhotoError
from blinddeblur.files.decoding import decode
from blinddeblur.files.encoding import encode
from blinddeblur.files.photo import Photo
from blinddeblur.files.tags import directories, exif_block, upright

MOST_PIXELS = 2_000_000  # as with a tight --max-megapixels, so that an inflated size that is allowed decodes in no time
SECONDS = 5.0  # for one file; a whole one takes milliseconds
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'


def whole_files() -> dict[str, bytes]:
    """Small files of every format and of most of its kinds, with metadata."""
    image, files = smooth(64, 48), {}
    everything = {"exif": exif_of_pillow(6), "icc_profile": profile(), "xmp": XMP}
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
    kinds: list[tuple[str, str, dict[str, object]]] = [
        ("jpeg", "JPEG", everything | {"dpi": (300, 300)}),
        ("progressive", "JPEG", {"progressive": True, "quality": 98}),
        ("png", "PNG", {"exif": exif_of_pillow(6), "icc_profile": profile(), "dpi": (300, 300), "pnginfo": text}),
        ("lossy", "WEBP", everything),
        ("lossless", "WEBP", {"lossless": True}),
        ("lzw", "TIFF", {"compression": "tiff_lzw", "exif": exif_of_pillow(6), "dpi": (300, 300)}),
        ("deflate", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("jpeg", "TIFF", {"compression": "jpeg"}),
        ("bmp", "BMP", {}),
        ("avif", "AVIF", everything),
    ]
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
        kinds += [("heic", "HEIF", everything)]
    except ImportError:  # the extra is not installed
        pass
    for name, format, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        files[f"{format} {name}"] = buffer.getvalue()
    for mode in ("L", "P", "RGBA"):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, "PNG")
        files[f"PNG {mode}"] = buffer.getvalue()
    deep = make_photo(33, 35, 3, depth=16, alpha=True)
    full = Photo(deep.pixels, deep.alpha, 16, exif_of_pillow()[6:], profile(), XMP, (300, 300))
    files |= {f"ours {ending}": encode(full, ending) for ending in (".png", ".tiff", ".webp")}
    files["TIFF big-endian"] = tiff_file(noise(33, 35, 4, 16), 2, ">", t338=(2,), t34665=(8,))
    files["AVIF 10 bits"] = cv2.imencode(".avif", noise(33, 35, 3, 16) >> 6, [cv2.IMWRITE_AVIF_DEPTH, 10])[1].tobytes()
    return files


def decode_damaged(folder: Path, first: int, count: int) -> None:
    """Decode the files numbered first, first + 1, ...; each is left in the folder until it has been dealt with.

    The last line printed is how many were read and how many refused, and the longest time.
    """
    files = whole_files()
    names = list(files)
    for name in names:
        assert decode(files[name]).pixels.size, name
    counts, longest = {"read": 0, "refused": 0}, 0.0
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        name = names[seed % len(names)]
        data = damaged(files[name], rng)
        if data.startswith(b"\x89PNG") and rng.random() < 0.7:
            data = repaired(data)
        (folder / "current").write_bytes(data)
        (folder / "seed").write_text(f"{seed} ({name})")
        start = time.perf_counter()
        try:
            photo = decode(data, MOST_PIXELS)
            assert np.isfinite(photo.pixels).all()
            assert 0 <= photo.pixels.min() <= photo.pixels.max() <= 1
            assert photo.pixels.shape[0] * photo.pixels.shape[1] <= MOST_PIXELS
            outcome = "read"
        except PhotoError as error:
            outcome = "refused" if str(error).endswith(".") else "refused without a sentence"
        seconds = time.perf_counter() - start
        assert seconds < SECONDS, (seed, name, seconds)
        counts[outcome] += 1
        longest = max(longest, seconds)
        if outcome == "read":
            for ending in (".png", ".tiff", ".webp"):  # metadata that was taken in can be given out
                encode(photo, ending)
    print(f"{counts['read']} read, {counts['refused']} refused, longest {1000 * longest:.0f} ms")  # noqa: T201


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    assert "refused" in run_apart("test_fuzz", "decode_damaged", tmp_path, 0, 300, limit=60)


def test_damaged_exif_stops_no_photo_and_no_result() -> None:
    """Our own code reads and packs it, in either byte order."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x011A], exif[0x011B] = "A camera", 6, 300, 200
    exif.get_ifd(ExifTags.IFD.Exif).update({0x829A: 0.25, 0x927C: b"MakerNote", ExifTags.IFD.Interop: {1: "R98"}})
    exif.get_ifd(ExifTags.IFD.GPSInfo)[2] = (48.0, 8.0, 11.5)
    big_endian = exif.tobytes().removeprefix(b"Exif\0\0")
    little_endian = exif_block(next(directories(big_endian)).description(), "<")
    pixels = make_photo(32, 32, 3).pixels
    for seed in range(500):
        block = damaged((big_endian, little_endian)[seed % 2], np.random.default_rng(seed))
        for ending in (".webp", ".tiff"):
            file = encode(Photo(pixels, exif=upright(block)[1], dpi=(300, 200)), ending)
            assert decode(file).pixels.shape == (32, 32, 3), seed


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path: Path) -> None:
    for first in range(1000, 11_000, 1000):
        print(run_apart("test_fuzz", "decode_damaged", tmp_path, first, 1000))  # noqa: T201
