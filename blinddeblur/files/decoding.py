"""Bytes of a file -> Photo: the pixels as they stand upright, and what else outlives a restoration.

Nothing is lost or changed without a word: what cannot be read faithfully is refused in a sentence. OpenCV converts
CMYK, takes the first picture of several, and misreads some TIFF files in silence, so headers are looked at before.
Colours are never converted: the pixels of a wide-gamut photo stay as they are, and its profile goes with them.
"""

import contextlib
import functools
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from blinddeblur.errors import PhotoError
from blinddeblur.files import tags
from blinddeblur.files.headers import (
    CMYK,
    CUT_OFF,
    MULTIPLIED,
    SEVERAL,
    UNDECODABLE,
    XMP_PREFIX,
    Header,
    format_of,
    read_header,
)
from blinddeblur.files.photo import JPEG_QUALITY, MAXIMUM_PIXELS, Array, Photo, as_integers
from blinddeblur.files.quiet import silent_opencv
from blinddeblur.files.together import NUL, reason
from blinddeblur.settings import MINIMUM_SIDE

_OPENCV_PIXELS, _OPENCV_SIDE = 2**30, 2**20  # what OpenCV decodes at most, unless its environment says otherwise

_MOST_BYTES_PER_PIXEL = 8  # four channels of 16 bits, not compressed
_ROOM_FOR_METADATA = 2**28  # bytes; also for what cameras append to a photo, such as a few seconds of film

_FINEST_JPEG_QUALITY = 100  # its tables are all ones

# What libjpeg prints, where it notices, and then makes up pixels that it cannot decode. Superfluous bytes, which it
# reports as well, are common and harmless.
_JPEG_DAMAGE = re.compile(rb"Corrupt JPEG data: (bad Huffman code|premature end|found marker)")

# (photometric interpretation, samples per pixel) of a TIFF: grey twice, RGB, RGB and alpha, palette, YCbCr.
_TIFF_LAYOUTS = {(0, 1), (1, 1), (2, 3), (2, 4), (3, 1), (6, 3)}

_EXIF_PREFIX = b"Exif\0\0"  # part of the JPEG segment, and put in front by some writers of PNG and WebP as well
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]")
_XMP_THUMBNAILS = (b"xmp:Thumbnails", b"xap:Thumbnails")


def read(path: Path, most_pixels: int = MAXIMUM_PIXELS) -> Photo:
    """Read a photo, turned upright. Raises PhotoError, naming the file, for whatever cannot be restored faithfully.

    See decode for what is kept. What is no regular file (a pipe, a device) is refused, not waited for.
    """
    with naming(str(path)):
        return decode(read_bytes(path, most_pixels), most_pixels)


def read_bytes(path: Path, most_pixels: int = MAXIMUM_PIXELS) -> bytes:
    """The bytes of a photo's file, for decode. Raises PhotoError, naming the file, as read does."""
    with naming(str(path)):
        _check_bytes(check_file(path), most_pixels)
        try:
            return path.read_bytes()
        except OSError as error:
            raise PhotoError(f"The file cannot be read, because {reason(error)}.") from error


def decode(data: bytes, most_pixels: int = MAXIMUM_PIXELS, least_side: int = MINIMUM_SIDE) -> Photo:
    """A photo, turned upright, from the bytes of its file; the format is told from them.

    Kept are EXIF, XMP, colour profile and resolution. Thumbnails are not: they show the blurred picture. Of a TIFF,
    EXIF holds the tags that speak of the picture; of a JPEG, XMP is the main packet without extensions. Raises
    PhotoError, which does not name the file, for whatever cannot be restored faithfully.

    Args:
        data: the bytes of the file.
        most_pixels: a larger picture is refused before it is decoded.
        least_side: so is one with fewer pixels on a side.
    """
    _check_bytes(len(data), most_pixels)
    if not data:
        raise PhotoError("The file is empty. Copy it again from its source.")
    header = header_of(data)
    check_size(header.width, header.height, most_pixels, least_side)
    if header.image is None:
        samples, found = _decoded_by_opencv(header.plain or data)
    else:
        samples, found = _decoded_by_pillow_heif(header), (None, None, None)
    bits = header.bits or 8 * samples.itemsize
    if samples.shape[:2] != (header.height, header.width) or (header.bits and samples.max() >> bits):
        raise PhotoError(UNDECODABLE)
    exif, icc, xmp = header.blocks or found
    orientation, exif = tags.upright(exif.removeprefix(_EXIF_PREFIX)) if exif else (1, None)
    if header.image is not None:  # what EXIF says has been done by the decoder
        orientation = 1
    samples = _turned(samples, orientation)
    stored = np.ascontiguousarray(samples[..., :1] if header.grey else samples[..., 2::-1])
    alpha = np.ascontiguousarray(samples[..., 3]) if samples.shape[2] == 4 else None
    depth = 8 if bits == 8 else 16
    if bits != depth:
        stored = as_integers(stored, depth, 2**bits - 1)
        alpha = None if alpha is None else as_integers(alpha, depth, 2**bits - 1)
    if header.inverted:
        stored = np.iinfo(stored.dtype).max - stored
    dpi = tags.sensible_dpi(*header.dpi) if header.dpi else None
    if dpi and orientation in tags.ON_ITS_SIDE:
        dpi = dpi[::-1]
    xmp = _plain_xmp(xmp) if xmp else None
    return Photo(stored, alpha, depth, exif, icc, xmp, dpi or tags.dpi_of(exif), _quality_of(header.tables))


def most_bytes(most_pixels: int = MAXIMUM_PIXELS) -> int:
    """More than a file of so many pixels has; whoever reads from a pipe needs no more than one byte beyond."""
    return _MOST_BYTES_PER_PIXEL * most_pixels + _ROOM_FOR_METADATA


@contextlib.contextmanager
def naming(label: str) -> Iterator[None]:
    """Put the name of a file before the sentence of a PhotoError, unless it is there."""
    try:
        yield
    except PhotoError as error:
        raise error if str(error).startswith(label) else PhotoError(f"{label}: {error}") from error


def check_file(path: Path) -> int:
    """The size in bytes of a file that can be read. Raises PhotoError, which does not name it, for anything else."""
    try:
        # Asked first: to open a pipe is to wait for its other end.
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            what = "folder" if stat.S_ISDIR(found.st_mode) else "pipe or a device"
            raise PhotoError(f"The file cannot be read, because it is a {what}. Name the file of a photo.")
        path.open("rb").close()
    except OSError as error:
        raise PhotoError(f"The file cannot be read, because {reason(error)}.") from error
    except ValueError as error:
        raise PhotoError(f"The file cannot be read, because {NUL}.") from error
    return found.st_size


def _check_bytes(count: int, most_pixels: int) -> None:
    if count > most_bytes(most_pixels):
        raise PhotoError(
            f"The file is larger than any photo of {most_pixels / 1e6:g} megapixels, which is the limit. Save it in "
            "another format, or raise the limit with --max-megapixels."
        )


def check_size(width: int, height: int, most_pixels: int, least_side: int = MINIMUM_SIDE) -> None:
    """Raise PhotoError, which does not name the file, for a picture that is too small or too large."""
    size = f"The picture is {width}x{height} pixels"
    if min(width, height) < least_side:
        raise PhotoError(f"{size}. Each side must have at least {least_side}.")
    if width * height > _OPENCV_PIXELS or max(width, height) > _OPENCV_SIDE:
        most = f"{min(most_pixels, _OPENCV_PIXELS) // 1_000_000} megapixels and {_OPENCV_SIDE} on a side"
        raise PhotoError(f"{size}, and the limit is {most}. Crop it.")
    if width * height > most_pixels:
        needed = -(-width * height // 1_000_000)
        raise PhotoError(
            f"{size}, and the limit is {most_pixels / 1e6:g} megapixels. Crop it, or raise the limit with "
            f"--max-megapixels {needed}."
        )


def header_of(data: bytes) -> Header:
    """The header of an image file, given as its bytes. Raises PhotoError as read_header does."""
    if format_of(data) != "TIFF":
        return read_header(data)
    directory, *others = tags.pages(data)
    if others:
        raise PhotoError(SEVERAL)
    _check_samples(directory)
    for offsets, counts in ((tags.STRIP_OFFSETS, tags.STRIP_BYTE_COUNTS), (tags.TILE_OFFSETS, tags.TILE_BYTE_COUNTS)):
        for offset, count in zip(directory.numbers(offsets), directory.numbers(counts), strict=False):
            if offset + count > len(data):
                raise PhotoError(CUT_OFF)
    # OpenCV turns some orientations and refuses others, inverts white-is-zero at 8 bits but not at 16, and multiplies
    # 8-bit colours by their transparency unless told that they are multiplied already.
    neutral = {tags.ORIENTATION: 1, tags.EXTRA_SAMPLES: tags.ASSOCIATED_ALPHA}
    inverted = directory.number(tags.PHOTOMETRIC) == tags.WHITE_IS_ZERO
    if inverted:
        neutral[tags.PHOTOMETRIC] = tags.BLACK_IS_ZERO
    description = directory.description()
    exif = tags.exif_block(description, directory.order) if description else None
    return Header(
        directory.number(tags.WIDTH),
        directory.number(tags.HEIGHT),
        inverted=inverted,
        dpi=directory.dpi(),
        blocks=(exif, directory.raw(tags.ICC_PROFILE), directory.raw(tags.XMP)),
        plain=directory.with_numbers(neutral),
    )


def _check_samples(page: tags.Directory) -> None:
    """Raise PhotoError for every layout of samples that OpenCV does not decode, or decodes wrongly."""
    photometric = page.number(tags.PHOTOMETRIC)
    samples = page.number(tags.SAMPLES_PER_PIXEL, 1)
    bits = set(page.numbers(tags.BITS_PER_SAMPLE, (1,)))
    if photometric == tags.SEPARATED:
        raise PhotoError(CMYK)
    if not bits <= {8, 16} or set(page.numbers(tags.SAMPLE_FORMAT, (tags.WHOLE_NUMBERS,))) != {tags.WHOLE_NUMBERS}:
        raise PhotoError("The samples of the TIFF are not whole numbers of 8 or 16 bits. Convert it to 16 bits first.")
    if (photometric, samples) not in _TIFF_LAYOUTS:
        raise PhotoError(
            "The TIFF is neither grey, nor RGB, nor RGB with transparency. Convert it to one of these first."
        )
    if page.number(tags.EXTRA_SAMPLES) == tags.ASSOCIATED_ALPHA:
        raise PhotoError(MULTIPLIED)
    if samples > 1 and bits == {16} and page.number(tags.PLANAR_CONFIGURATION) == tags.SEPARATE_PLANES:
        raise PhotoError(
            "The TIFF stores its colours in separate planes. Save it with interleaved channels or as a PNG."
        )


def _plain_xmp(xmp: bytes) -> bytes:
    """The XMP packet with orientation 1 and without thumbnails, which show the blurred picture."""
    xmp = xmp.removeprefix(XMP_PREFIX).rstrip(b"\0")
    for name in _XMP_THUMBNAILS:
        before, _, rest = xmp.partition(b"<" + name)
        _, closed, after = rest.partition(b"</" + name + b">")
        xmp = before + after if closed else xmp
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def _quality_of(tables: tuple[tuple[int, ...], ...]) -> int:
    """The least JPEG quality, at least 95, whose tables are nowhere coarser than these, one for each component."""
    for quality in range(JPEG_QUALITY, _FINEST_JPEG_QUALITY):
        if all(map(np.all, map(np.less_equal, _tables_of(quality), tables))):
            return quality
    return _FINEST_JPEG_QUALITY


@functools.cache
def _tables_of(quality: int) -> tuple[tuple[int, ...], ...]:
    small = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return read_header(small.tobytes()).tables


def _decoded_by_opencv(data: bytes) -> tuple[Array, tuple[bytes | None, bytes | None, bytes | None]]:
    """(height, width, channels) in OpenCV's order (grey, BGR or BGRA) as stored; EXIF, colour profile and XMP."""
    buffer = np.frombuffer(data, np.uint8)
    try:
        with silent_opencv() as said:
            # Flags by name: OpenCV 5 has moved them.
            decoded, kinds, contents = cv2.imdecodeWithMetadata(buffer, flags=cv2.IMREAD_UNCHANGED)
            said.seek(0)
            damaged = _JPEG_DAMAGE.search(said.read())
    except cv2.error as error:
        raise PhotoError(UNDECODABLE) from error
    # The type stubs of OpenCV know neither that the picture is None on failure nor that it may be grey.
    picture = cast("Array | None", decoded)
    if damaged or picture is None or picture.dtype not in (np.uint8, np.uint16):
        raise PhotoError(UNDECODABLE)
    blocks = {int(kind): np.asarray(block).tobytes() for kind, block in zip(kinds, contents, strict=True)}
    exif, icc, xmp = map(blocks.get, (cv2.IMAGE_METADATA_EXIF, cv2.IMAGE_METADATA_ICCP, cv2.IMAGE_METADATA_XMP))
    return np.atleast_3d(picture), (exif, icc, xmp)


def _decoded_by_pillow_heif(header: Header) -> Array:
    """(height, width, channels) as it stands upright: grey, BGR or BGRA."""
    try:
        return np.atleast_3d(np.asarray(header.image))
    except Exception as error:  # of many kinds, by the library beneath
        raise PhotoError(UNDECODABLE) from error


def _turned(picture: Array, orientation: int) -> Array:
    """The picture (height, width, ...) as it stands upright, from one stored with an EXIF orientation of 1 to 8."""
    if orientation in tags.ON_ITS_SIDE:
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return picture
