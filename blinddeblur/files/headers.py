"""What the bytes of an image file say before a pixel is decoded: its format, its size, and whether it is whole.

Pillow says it of JPEG and AVIF, pillow-heif of HEIC, but neither whether a file is whole. Pillow decodes a WebP to say
how large it is, and refuses PNGs with long texts, so these are read here. A TIFF is its tags, see decoding.py. Messages
do not name the file: the caller does.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from blinddeblur.errors import PhotoError

CMYK = "The picture is in CMYK, the colours of printing. Convert it to RGB first."
CUT_OFF = "The file is cut off or damaged. Copy it again from its source."
SEVERAL = (
    "The file holds several pictures (an animation or pages). Only single pictures are restored: save one of them."
)
UNDECODABLE = "The picture cannot be decoded: the file is damaged or of a rare kind. Copy it again or save it as a PNG."
_UNKNOWN = "The file is not a JPEG, PNG, TIFF, WebP, BMP, HEIC or AVIF picture. Convert it to one of these first."
MULTIPLIED = "The colours of the picture are multiplied by its transparency. Save it as a PNG first."
_NO_HEIC = 'Reading HEIC photos takes an extra. Install it with: pip install "blinddeblur[heif]".'
_NO_AVIF = "The Pillow that is installed reads no AVIF. Install another one with: pip install --upgrade pillow."

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    _PNG_SIGNATURE: "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"GIF8": "GIF",
}

# Segments of a JPEG, also behind the compressed data of a scan, where 0xff is always followed by 0 or a restart marker.
_JPEG_MARKER = re.compile(rb"\xff+([\xc0-\xcf\xd9-\xfe])")
_JPEG_END, _JPEG_METADATA = 0xD9, 0xE1
XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"  # of the segment with an XMP packet
_JPEG_PER_INCH = {1: 1.0, 2: 2.54}  # units of its density; 0 is none

_PNG_GREY_TYPES = (0, 4)
_PNG_PER_METRE = 1  # unit of its density; 0 is none
METRES_PER_INCH = 0.0254

_WEBP_ANIMATED = 0x02

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
# Colours given by numbers (H.273) instead of a profile: those that mean sRGB, or nothing, or BT.709 and its kin, which
# everybody shows as sRGB. PNG viewers would take wide-gamut or HDR pixels for sRGB.
_COLOUR_NUMBERS = re.compile(rb"colrnclx(....)", re.DOTALL)
_COMMON_PRIMARIES = frozenset({1, 2, 5, 6, 7})
_COMMON_TRANSFERS = frozenset({1, 2, 6, 13, 14, 15})
# In the configuration of an AVIF: the bits that say "more than 8 bits" and "12 of them".
_AVIF_CONFIGURATION = re.compile(rb"av1C..(.)", re.DOTALL)
_HIGH_DEPTH, _TWELVE_BITS = 0x40, 0x20


@dataclass(frozen=True)
class Header:
    """Size in pixels as stored, before any rotation, and what OpenCV would not tell.

    Attributes:
        bits: per sample; None for all of the decoder's.
        grey: whether the colours are shades of grey even where the decoder gives three channels.
        inverted: whether 0 means white.
        dpi: pixels per inch, across and down, as stored; None when the format's own header does not say.
        tables: the quantisation table of each component of a JPEG.
        blocks: EXIF, colour profile and XMP as they stand in the file; None where OpenCV finds them.
        plain: the file as OpenCV reads it rightly, where that is another.
        image: a HEIC that pillow-heif has opened.
    """

    width: int
    height: int
    bits: int | None = None
    grey: bool = False
    inverted: bool = False
    dpi: tuple[float, float] | None = None
    tables: tuple[tuple[int, ...], ...] = ()
    blocks: tuple[bytes | None, bytes | None, bytes | None] | None = None
    plain: bytes | None = None
    image: Any = None


def format_of(data: bytes) -> str | None:
    """JPEG, PNG, TIFF, WebP, BMP, HEIC, AVIF or GIF, from the first bytes of a file, 256 at most; None for others."""
    for signature, format in _SIGNATURES.items():
        if data.startswith(signature):
            return format
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        listed = data[8 : int.from_bytes(data[:4])]
        brands = {
            listed[start : start + 4] for start in range(0, len(listed), 4) if start != 4
        }  # the second: a version
        return "AVIF" if brands & _AVIF_BRANDS else "HEIC" if brands & _HEIC_BRANDS else None
    return None


def is_animation(data: bytes) -> bool:
    """Whether an image file, given as its bytes, says that it is a GIF, or a PNG or WebP that moves."""
    format = format_of(data)
    if format == "PNG":
        return b"acTL" in data[: max(0, data.find(b"IDAT"))]
    moves = data[12:16] == b"VP8X" and bool(data[20:21] and data[20] & _WEBP_ANIMATED)
    return format == "GIF" or (format == "WebP" and moves)


def read_header(data: bytes) -> Header:
    """Header of an image file that is no TIFF, given as its bytes; the format is told from them, not from a name.

    Raises PhotoError for a file that is cut off, holds several pictures, is in CMYK or of another kind that would not
    be decoded faithfully, or is no picture; and when the packages that read it are not installed.
    """
    format = format_of(data)
    readers = {"JPEG": _jpeg, "PNG": _png, "WebP": _webp, "BMP": _bmp, "HEIC": _heif, "AVIF": _heif}
    if format not in readers:
        raise PhotoError(SEVERAL if format == "GIF" else _UNKNOWN)
    try:
        return readers[format](data)
    except struct.error as error:
        raise PhotoError(CUT_OFF) from error


def _jpeg(data: bytes) -> Header:
    from PIL.JpegImagePlugin import JpegImageFile

    # Without EXIF, of which Pillow would warn.
    bare = data[:2] + b"".join(segment for marker, segment in _jpeg_segments(data) if marker != _JPEG_METADATA)
    image = _opened(JpegImageFile, bare)
    if image.mode == "CMYK":
        raise PhotoError(CMYK)
    per_inch = _JPEG_PER_INCH.get(image.info.get("jfif_unit"), 0)
    across, down = image.info.get("jfif_density", (0, 0))
    tables = tuple(tuple(image.quantization.get(layer[3], ())) for layer in image.layer)
    width, height = image.size
    return Header(width, height, grey=image.mode == "L", dpi=(per_inch * across, per_inch * down), tables=tables)


def _opened(plugin: Any, data: bytes) -> Any:
    """The image of one of Pillow's plugins; not by Image.open, which warns of large ones and tries other formats."""
    try:
        return plugin(io.BytesIO(data))
    except Exception as error:
        raise PhotoError(UNDECODABLE) from error


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker of each segment, and the whole of it. Raises PhotoError when the end marker of the picture is missing.

    What follows the end marker (cameras append previews and depth maps) is left alone, and an end marker inside a
    segment (that of a thumbnail in the EXIF block) does not count.
    """
    position = 2
    while found := _JPEG_MARKER.search(data, position):
        marker = found[1][0]
        if marker == _JPEG_END:
            return
        (length,) = struct.unpack_from(">H", data, found.end())
        yield marker, data[found.start() : found.end() + length]
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
        dpi = (across * METRES_PER_INCH, down * METRES_PER_INCH) if unit == _PNG_PER_METRE else None
    return Header(width, height, grey=colour_type in _PNG_GREY_TYPES, dpi=dpi)


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
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _webp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 4)
    if 8 + size > len(data):
        raise PhotoError(CUT_OFF)
    kind = data[12:16]
    if kind == b"VP8X":
        flags, width, height = struct.unpack("<B3x3s3s", data[20:30])
        if flags & _WEBP_ANIMATED:
            raise PhotoError(SEVERAL)
        return Header(int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1)
    if kind == b"VP8L":
        (sides,) = struct.unpack_from("<I", data, 21)
        return Header((sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1)
    width, height = struct.unpack_from("<HH", data, 26)
    return Header(width & 0x3FFF, height & 0x3FFF)


def _bmp(data: bytes) -> Header:
    (header_size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<hh" if header_size == 12 else "<ii", data, 18)
    return Header(abs(width), abs(height))  # a negative height: the first row is the top one


def _heif(data: bytes) -> Header:
    """Of a HEIC, which pillow-heif decodes, or of an AVIF: OpenCV keeps its more than 8 bits, and Pillow does not."""
    position = 0
    while 0 <= position < len(data):
        size = int.from_bytes(data[position : position + 4])
        if size == 1:  # the length stands behind the type, in eight bytes
            size = int.from_bytes(data[position + 8 : position + 16])
        if (0 < size < 8) or position + size > len(data):
            raise PhotoError(CUT_OFF)
        position = position + size if size else len(data)  # 0: the last box, until the end
    bits, image = (_avif if format_of(data) == "AVIF" else _heic)(data)
    exif, icc, xmp = (image.info.get(name) or None for name in ("exif", "icc_profile", "xmp"))
    for numbers in _COLOUR_NUMBERS.findall(data) if icc is None else ():
        primaries, transfer = struct.unpack(">HH", numbers)
        if primaries not in _COMMON_PRIMARIES or transfer not in _COMMON_TRANSFERS:
            raise PhotoError(
                "The photo has HDR or wide-gamut colours and no colour profile. Save it with a profile, or as sRGB."
            )
    heic = None if format_of(data) == "AVIF" else image
    width, height = image.size
    return Header(width, height, bits, blocks=(exif, icc, xmp), image=heic)


def _heic(data: bytes) -> tuple[int, Any]:
    try:
        import pillow_heif
    except ImportError as error:
        raise PhotoError(_NO_HEIC) from error
    try:
        images = list(pillow_heif.open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False, bgr_mode=True))
    except Exception as error:
        raise PhotoError(UNDECODABLE) from error
    if len(images) != 1:
        raise PhotoError(SEVERAL)
    if images[0].premultiplied_alpha:
        raise PhotoError(MULTIPLIED)
    bits: Any = images[0].info["bit_depth"]
    return bits, images[0]


def _avif(data: bytes) -> tuple[int, Any]:
    from PIL import AvifImagePlugin

    if not AvifImagePlugin.SUPPORTED:
        raise PhotoError(_NO_AVIF)
    image = _opened(AvifImagePlugin.AvifImageFile, data)
    if image.is_animated:
        raise PhotoError(SEVERAL)
    flags = max((found[0] for found in _AVIF_CONFIGURATION.findall(data)), default=0)
    return (12 if flags & _TWELVE_BITS else 10) if flags & _HIGH_DEPTH else 8, image
