"""What the bytes of an image file say before a pixel is decoded: its format, its size, and whether it is whole.

OpenCV converts CMYK, takes the first picture of several, and misreads some TIFF files without a word. All of that
is refused here, in words. Messages do not name the file: the caller does.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from blinddeblur.errors import PhotoError
from blinddeblur.files import tags
from blinddeblur.files.tags import CUT_OFF

_CMYK = "The picture is in CMYK, the colours of printing. Convert it to RGB first."
SEVERAL = (
    "The file holds several pictures (an animation or pages). Only single pictures are restored: save one of them."
)
UNDECODABLE = "The picture cannot be decoded: the file is damaged or of a rare kind. Copy it again or save it as a PNG."
_UNKNOWN = "The file is not a JPEG, PNG, TIFF, WebP, BMP, HEIC or AVIF picture. Convert it to one of these first."

# Segments of a JPEG, also behind the compressed data of a scan, where 0xff is always followed by 0 or a restart marker.
_JPEG_MARKER = re.compile(rb"\xff+([\xc0-\xcf\xd9-\xfe])")
_JPEG_END = 0xD9
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_TABLES = 0xDB  # of quantisation
_JPEG_FIRST_APPLICATION = 0xE0  # JFIF's
_JPEG_PER_INCH = {1: 1.0, 2: 2.54}  # units of its density; 0 is none

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_AFTER_FIRST = len(_PNG_SIGNATURE) + 12 + 13  # IHDR has 13 bytes, every chunk 12 around its content
_PNG_GREY_TYPES = (0, 4)
_PNG_PER_METRE = 1  # unit of its density; 0 is none
METRES_PER_INCH = 0.0254

_WEBP_ANIMATED = 0x02

_TIFF = (b"II*\0", b"MM\0*")
_GIF = b"GIF8"

# (photometric interpretation, samples per pixel): grey twice, RGB, RGB and alpha, palette, YCbCr.
_TIFF_LAYOUTS = {(0, 1), (1, 1), (2, 3), (2, 4), (3, 1), (6, 3)}


@dataclass(frozen=True)
class Header:
    """Size in pixels as stored, before any rotation, and what the decoder would not tell.

    format: "JPEG", "PNG", "TIFF", "WebP" or "BMP". grey: the colours are shades of grey even where the decoder gives
    three channels. page: the directory of a TIFF. inverted: 0 means white. dpi: pixels per inch, across and down, as
    stored; None when the format's own header does not say. tables: the quantisation table of each component of a JPEG.
    """

    format: str
    width: int
    height: int
    grey: bool = False
    page: tags.Directory | None = None
    inverted: bool = False
    dpi: tuple[float, float] | None = None
    tables: tuple[tuple[int, ...], ...] = ()


def read_header(data: bytes) -> Header:
    """Header of an image file given as its bytes; the format is told from the bytes, not from a name.

    Raises PhotoError for a file that is cut off, holds several pictures, is in CMYK or of another kind that would not
    be decoded faithfully, or is no picture.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(_PNG_SIGNATURE):
            return _png(data)
        if is_tiff(data):
            return _tiff(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith(b"BM"):
            return _bmp(data)
    except struct.error as error:
        raise PhotoError(CUT_OFF) from error
    raise PhotoError(SEVERAL if data.startswith(_GIF) else _UNKNOWN)


def is_animation(data: bytes) -> bool:
    """Whether an image file, given as its bytes, says that it is a GIF, or a PNG or WebP that moves."""
    if data.startswith(_PNG_SIGNATURE):
        return b"acTL" in data[: max(0, data.find(b"IDAT"))]
    if data.startswith(b"RIFF") and data[8:16] == b"WEBPVP8X":
        return bool(data[20:21] and data[20] & _WEBP_ANIMATED)
    return data.startswith(_GIF)


def is_tiff(data: bytes) -> bool:
    """Whether an image file, given as its bytes, begins like a TIFF."""
    return data.startswith(_TIFF)


def is_picture(data: bytes) -> bool:
    """Whether a file begins like one that read_header knows, or like a GIF; its first 16 bytes suffice."""
    webp = data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    return webp or data.startswith((b"\xff\xd8\xff", _PNG_SIGNATURE, *_TIFF, b"BM", _GIF))


def _jpeg(data: bytes) -> Header:
    frame: tuple[int, int, bytes] | None = None
    dpi = None
    tables: dict[int, tuple[int, ...]] = {}
    for marker, segment in _jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            precision, height, width, components = struct.unpack_from(">BHHB", segment)
            if precision != 8:
                raise PhotoError(
                    f"The JPEG has {precision} bits per sample. Convert it to an 8-bit JPEG or a 16-bit PNG."
                )
            if components == 4:
                raise PhotoError(_CMYK)
            frame = width, height, segment[8 : 8 + 3 * components : 3]  # of each component, which table it uses
        elif marker == _JPEG_TABLES:
            tables |= _jpeg_tables(segment)
        elif marker == _JPEG_FIRST_APPLICATION and segment.startswith(b"JFIF\0"):
            unit, across, down = struct.unpack_from(">BHH", segment, 7)
            per_inch = _JPEG_PER_INCH.get(unit, 0)
            dpi = tags.sensible_dpi(per_inch * across, per_inch * down)
    if frame is None:
        raise PhotoError(CUT_OFF)
    width, height, used = frame
    whole = tuple(tables[number] for number in used if number in tables)
    return Header("JPEG", width, height, grey=len(used) == 1, dpi=dpi, tables=whole)


def _jpeg_tables(segment: bytes) -> dict[int, tuple[int, ...]]:
    tables = {}
    position = 0
    while position < len(segment):
        number, two_bytes = segment[position] & 15, segment[position] >> 4
        tables[number] = struct.unpack_from(">64H" if two_bytes else ">64B", segment, position + 1)
        position += 1 + 64 * (1 + bool(two_bytes))
    return tables


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment. Raises PhotoError when the end marker of the picture is missing.

    What follows the end marker (cameras append previews and depth maps) is left alone, and an end marker inside a
    segment (that of a thumbnail in the EXIF block) does not count.
    """
    position = 2
    while found := _JPEG_MARKER.search(data, position):
        marker = found[1][0]
        if marker == _JPEG_END:
            return
        (length,) = struct.unpack_from(">H", data, found.end())
        yield marker, data[found.end() + 2 : found.end() + length]
        position = found.end() + length
    raise PhotoError(CUT_OFF)


def _png(data: bytes) -> Header:
    chunks = dict(png_chunks(data))
    if b"acTL" in chunks:
        raise PhotoError(SEVERAL)
    width, height, _, colour_type = struct.unpack_from(">IIBB", chunks.get(b"IHDR", b""))
    if colour_type == 0 and b"tRNS" in chunks:
        # The decoder forgets which shade of grey is transparent.
        raise PhotoError("One shade of grey of this PNG is transparent. Save it with an alpha channel instead.")
    dpi = None
    if b"pHYs" in chunks:
        across, down, unit = struct.unpack_from(">IIB", chunks[b"pHYs"])
        dpi = tags.sensible_dpi(across * METRES_PER_INCH, down * METRES_PER_INCH) if unit == _PNG_PER_METRE else None
    return Header("PNG", width, height, grey=colour_type in _PNG_GREY_TYPES, dpi=dpi)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each chunk up to the last. Raises PhotoError when one is damaged or the last is missing."""
    position = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(data[position + 4 : end]) != checksum:
            raise PhotoError(CUT_OFF)
        yield kind, data[position + 8 : end]
        position = end + 4


def png_file(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """The PNG file with these chunks, each given as its type and content."""
    return _PNG_SIGNATURE + b"".join(_png_chunk(*chunk) for chunk in chunks)


def png_with_chunks(data: bytes, added: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG file with more chunks, put where all kinds are allowed: behind the first."""
    return data[:_PNG_AFTER_FIRST] + b"".join(_png_chunk(*chunk) for chunk in added) + data[_PNG_AFTER_FIRST:]


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _webp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 4)
    if 8 + size > len(data):
        raise PhotoError(CUT_OFF)
    kind = data[12:16]
    if kind == b"VP8X":
        flags, width, height = struct.unpack("<B3x3s3s", data[20:30])
        if flags & _WEBP_ANIMATED:
            raise PhotoError(SEVERAL)
        return Header("WebP", int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1)
    if kind == b"VP8L":
        (sides,) = struct.unpack_from("<I", data, 21)
        return Header("WebP", (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1)
    width, height = struct.unpack_from("<HH", data, 26)
    return Header("WebP", width & 0x3FFF, height & 0x3FFF)


def _bmp(data: bytes) -> Header:
    (header_size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<hh" if header_size == 12 else "<ii", data, 18)
    return Header("BMP", abs(width), abs(height))  # a negative height: the first row is the top one


def _tiff(data: bytes) -> Header:
    page, *others = tags.directories(data)
    if any(not other.number(tags.NEW_SUBFILE_TYPE) & 1 for other in others):  # bit 0: a smaller copy of the first
        raise PhotoError(SEVERAL)
    _check_tiff_samples(page)
    _check_tiff_extent(page)
    return Header(
        "TIFF",
        page.number(tags.WIDTH),
        page.number(tags.HEIGHT),
        page=page,
        inverted=page.number(tags.PHOTOMETRIC) == tags.WHITE_IS_ZERO,
        dpi=page.dpi(),
    )


def _check_tiff_samples(page: tags.Directory) -> None:
    """Raise PhotoError for every layout of samples that OpenCV does not decode, or decodes wrongly."""
    photometric = page.number(tags.PHOTOMETRIC)
    samples = page.number(tags.SAMPLES_PER_PIXEL, 1)
    bits = set(page.numbers(tags.BITS_PER_SAMPLE, (1,)))
    if photometric == tags.SEPARATED:
        raise PhotoError(_CMYK)
    if not bits <= {8, 16} or set(page.numbers(tags.SAMPLE_FORMAT, (tags.WHOLE_NUMBERS,))) != {tags.WHOLE_NUMBERS}:
        raise PhotoError("The samples of the TIFF are not whole numbers of 8 or 16 bits. Convert it to 16 bits first.")
    if (photometric, samples) not in _TIFF_LAYOUTS:
        raise PhotoError(
            "The TIFF is neither grey, nor RGB, nor RGB with transparency. Convert it to one of these first."
        )
    if page.number(tags.EXTRA_SAMPLES) == tags.ASSOCIATED_ALPHA:
        raise PhotoError("The colours of the TIFF are multiplied by its transparency. Save it as a PNG first.")
    if samples > 1 and bits == {16} and page.number(tags.PLANAR_CONFIGURATION) == tags.SEPARATE_PLANES:
        raise PhotoError(
            "The TIFF stores its colours in separate planes. Save it with interleaved channels or as a PNG."
        )


def _check_tiff_extent(page: tags.Directory) -> None:
    """Raise PhotoError when a strip or tile of pixels reaches beyond the end of the file."""
    for offsets, counts in (
        (tags.STRIP_OFFSETS, tags.STRIP_BYTE_COUNTS),
        (tags.TILE_OFFSETS, tags.TILE_BYTE_COUNTS),
    ):
        for offset, count in zip(page.numbers(offsets), page.numbers(counts), strict=False):
            if offset + count > len(page.data):
                raise PhotoError(CUT_OFF)
