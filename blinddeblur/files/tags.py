"""Tags of TIFF files and of EXIF blocks, which are small TIFF files: found, changed in place, added.

No pixels here. OpenCV drops all tags of a TIFF and misreads some, so these functions are relied on instead. Tags that
travel from one file into another are held apart from any file, see Tags.
"""

import contextlib
import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from blinddeblur.errors import PhotoError

NEW_SUBFILE_TYPE, WIDTH, HEIGHT, BITS_PER_SAMPLE, PHOTOMETRIC = 254, 256, 257, 258, 262
STRIP_OFFSETS, STRIP_BYTE_COUNTS, TILE_OFFSETS, TILE_BYTE_COUNTS = 273, 279, 324, 325
ORIENTATION, SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION, EXTRA_SAMPLES, SAMPLE_FORMAT = 274, 277, 284, 338, 339
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
XMP, ICC_PROFILE = 700, 34675
_EXIF_WIDTH, _EXIF_HEIGHT = 40962, 40963
_THUMBNAIL, _THUMBNAIL_LENGTH = 513, 514
_EXIF, _GPS, _INTEROPERABILITY = 34665, 34853, 40965  # directories of their own
_POINTERS = (_EXIF, _GPS, _INTEROPERABILITY)
_BELOW: dict[int, Any] = {_EXIF: {_INTEROPERABILITY: {}}, _GPS: {}}  # where they hang, below the first directory
_ANY = range(2**16)

# Of the first directory of a TIFF: what speaks of the picture, not of how the file holds it. Names of document, image,
# maker, camera and software, date, artist, host, copyright; ratings; the texts of Windows; EXIF and GPS.
_DESCRIPTIVE = {269, 270, 271, 272, ORIENTATION, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096)}

WHITE_IS_ZERO, BLACK_IS_ZERO, SEPARATED = 0, 1, 5  # values of PHOTOMETRIC; separated is CMYK
SEPARATE_PLANES = 2  # value of PLANAR_CONFIGURATION
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2  # values of EXTRA_SAMPLES; associated: colours multiplied by transparency
WHOLE_NUMBERS = 1  # value of SAMPLE_FORMAT: unsigned integers

ON_ITS_SIDE = (5, 6, 7, 8)  # values of ORIENTATION that exchange width and height
INCH, CENTIMETRE = 2, 3  # values of RESOLUTION_UNIT; 1 is no unit
BYTE, SHORT, LONG, RATIONAL, UNDEFINED = 1, 3, 4, 5, 7  # types of tags

_LEAST_DPI, _MOST_DPI = 1, 65535  # what every format holds: JPEG has 16 bits for it
_CUT_OFF = "The file is cut off or damaged: its tags lead beyond its end. Copy it again from its source."

_BYTES_PER_VALUE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BYTES_PER_NUMBER = _BYTES_PER_VALUE | {5: 4, 10: 4}  # a rational is two numbers
_UNSIGNED = {1: "B", 3: "H", 4: "I", 13: "I"}
_MAXIMUM_DIRECTORIES = 1000  # a chain that is longer than any real file points back at itself

# Tags of a directory apart from any file: {number: (type, values in big-endian order)}, or the tags of a directory.
Tags = dict[int, "tuple[int, bytes] | Tags"]


@dataclass(frozen=True)
class Tag:
    """Where the values of one tag lie: their TIFF type, their number, and the index of their first byte."""

    kind: int
    count: int
    position: int


@dataclass(frozen=True)
class Directory:
    """One directory of tags.

    Attributes:
        data: the whole file.
        order: "<" when the file is little-endian, ">" when it is big-endian.
        position, link: indices of its first byte and of the pointer to the next.
        tags: by their numbers.
    """

    data: bytes
    order: str
    position: int
    link: int
    tags: dict[int, Tag]

    # Each method raises PhotoError when the values of the tag lie beyond the end of the file.

    def _whole(self, number: int) -> Tag | None:
        # Checked here and not for all tags at once: private tags of cameras often point nowhere.
        tag = self.tags.get(number)
        if tag is not None and tag.position + tag.count * _BYTES_PER_VALUE[tag.kind] > len(self.data):
            raise PhotoError(_CUT_OFF)
        return tag

    def raw(self, number: int) -> bytes | None:
        """The bytes of a tag's values as they stand in the file; None when the tag is absent."""
        tag = self._whole(number)
        if tag is None:
            return None
        return self.data[tag.position : tag.position + tag.count * _BYTES_PER_VALUE[tag.kind]]

    def numbers(self, number: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The values of a tag of unsigned integers; `default` when it is absent or of another type."""
        tag = self._whole(number)
        if tag is None or tag.kind not in _UNSIGNED:
            return default
        return struct.unpack_from(f"{self.order}{tag.count}{_UNSIGNED[tag.kind]}", self.data, tag.position)

    def number(self, number: int, default: int = 0) -> int:
        """The first value of a tag of unsigned integers; `default` when there is none."""
        return next(iter(self.numbers(number)), default)

    def dpi(self) -> tuple[float, float] | None:
        """Pixels per inch across and down; None when no resolution with a unit is given."""
        with contextlib.suppress(PhotoError):  # values beyond the end of the file
            # Inches are the default of the standard.
            per_inch = {INCH: 1.0, CENTIMETRE: 2.54}.get(self.number(RESOLUTION_UNIT, INCH), 0.0)
            return sensible_dpi(*(per_inch * self._fraction(number) for number in (X_RESOLUTION, Y_RESOLUTION)))
        return None

    def _fraction(self, number: int) -> float:
        raw = self.raw(number) or b""
        if self.tags.get(number, Tag(0, 0, 0)).kind != RATIONAL:
            return 0
        numerator, denominator = struct.unpack_from(f"{self.order}II", raw)
        return numerator / denominator if denominator else 0

    def description(self) -> Tags:
        """The tags that speak of the picture, not of how the file holds it, and its EXIF and GPS directories.

        What lies beyond the end of the file is left out.
        """
        return self._gathered(_DESCRIPTIVE, _BELOW)

    def _gathered(self, wanted: Container[int], below: dict[int, Any]) -> Tags:
        gathered: Tags = {}
        left = len(self.data)  # tags that share their values could ask for the file many times over
        for number, tag in self.tags.items():
            with contextlib.suppress(PhotoError, struct.error):
                if number in below:
                    directory = _directory(self.data, self.order, self.number(number))
                    gathered[number] = directory._gathered(_ANY, below[number])
                elif number in wanted and number not in _POINTERS:
                    raw = self.raw(number) or b""
                    left -= len(raw)
                    if left < 0:
                        break
                    gathered[number] = (tag.kind, _swapped(raw, tag.kind, self.order))
        return gathered

    def alone(self) -> bytes:
        """A TIFF file with this page and no other.

        Raises PhotoError when pixels lie beyond the end of the file, or parts of them share their bytes.
        """
        tags, pixels = self._gathered(_ANY, _BELOW), bytearray(8)  # the place of the header
        for offsets, counts in ((STRIP_OFFSETS, STRIP_BYTE_COUNTS), (TILE_OFFSETS, TILE_BYTE_COUNTS)):
            places = []
            for start, length in zip(self.numbers(offsets), self.numbers(counts), strict=False):
                part = self.data[start : start + length]
                if len(part) < length or len(pixels) > len(self.data) + 8:
                    raise PhotoError(_CUT_OFF)
                places.append(len(pixels))
                pixels += part
            if places:
                tags[offsets] = LONG, struct.pack(f">{len(places)}I", *places)
        pixels += bytes(len(pixels) % 2)  # directories begin at even positions, as TIFF asks
        pixels[:8] = self.data[:4] + struct.pack(f"{self.order}I", len(pixels))
        return bytes(pixels) + _directory_bytes(len(pixels), self.order, {}, tags)

    def with_numbers(self, values: dict[int, int]) -> bytes:
        """The file with the first value of each of these tags replaced; a tag that it does not have is not added."""
        changed = bytearray(self.data)
        for number, value in values.items():
            tag = self._whole(number)
            if tag is not None and tag.kind in _UNSIGNED:
                struct.pack_into(self.order + _UNSIGNED[tag.kind], changed, tag.position, value)
        return bytes(changed)


def directories(data: bytes) -> Iterator[Directory]:
    """All directories of a TIFF file or an EXIF block: the pages, first page first. At least one.

    Raises PhotoError when the structure is cut off or makes no sense.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise PhotoError("The file does not begin like a TIFF file.")
    link = 4
    for _ in range(_MAXIMUM_DIRECTORIES):
        try:
            (position,) = struct.unpack_from(f"{order}I", data, link)
            if position == 0:
                break
            directory = _directory(data, order, position)
        except struct.error as error:
            raise PhotoError(_CUT_OFF) from error
        yield directory
        link = directory.link
    if link == 4:
        raise PhotoError("The TIFF file contains no picture.")


def pages(data: bytes) -> list[Directory]:
    """The directories of a TIFF file that are pages, not a smaller copy of another, as a thumbnail is."""
    found = list(directories(data))
    return [page for page in found if page is found[0] or not page.number(NEW_SUBFILE_TYPE) & 1]


def dpi_of(exif: bytes | None) -> tuple[float, float] | None:
    """Pixels per inch, across and down, by an EXIF block; None when it does not say or makes no sense."""
    with contextlib.suppress(PhotoError):
        return next(directories(exif)).dpi() if exif else None
    return None


def _directory(data: bytes, order: str, position: int) -> Directory:
    (entries,) = struct.unpack_from(f"{order}H", data, position)
    tags = {}
    for entry in range(position + 2, position + 2 + 12 * entries, 12):
        number, kind, count = struct.unpack_from(f"{order}HHI", data, entry)
        if kind not in _BYTES_PER_VALUE or count == 0:
            continue
        size = count * _BYTES_PER_VALUE[kind]
        # Up to four bytes of values stand in the entry itself, more of them elsewhere.
        start = entry + 8 if size <= 4 else struct.unpack_from(f"{order}I", data, entry + 8)[0]
        tags[number] = Tag(kind, count, start)
    return Directory(data, order, position, position + 2 + 12 * entries, tags)


def _swapped(values: bytes, kind: int, order: str) -> bytes:
    """Values of a type from the byte order given to big-endian order, or back."""
    size = _BYTES_PER_NUMBER[kind]
    return values if order == ">" else np.frombuffer(values, f"<u{size}").astype(f">u{size}").tobytes()


def sensible_dpi(across: float, down: float) -> tuple[float, float] | None:
    """Both rounded to hundredths, which PNG holds as well; None when one is no resolution of a picture."""
    if not (_LEAST_DPI <= across <= _MOST_DPI and _LEAST_DPI <= down <= _MOST_DPI):
        return None
    return round(across, 2), round(down, 2)


def upright(exif: bytes) -> tuple[int, bytes]:
    """The orientation (1 to 8) of an EXIF block, and the block with orientation 1 and no thumbnail.

    What it says of width and height is exchanged where they are. The thumbnail shows the picture as it was, blurred and
    perhaps lying on its side, so its directory is unlinked and its bytes become zeros. A block that makes no sense is
    given back as it is, with orientation 1.
    """
    pages = directories(exif)
    try:
        first = next(pages)  # the others may be broken
        orientation = first.number(ORIENTATION, 1)
        changed = bytearray(first.with_numbers({ORIENTATION: 1}))
    except PhotoError:
        return 1, exif
    if orientation in ON_ITS_SIDE:
        _exchange(changed, first, WIDTH, HEIGHT)
        _exchange(changed, first, X_RESOLUTION, Y_RESOLUTION)
        with contextlib.suppress(PhotoError, struct.error):
            _exchange(changed, _directory(exif, first.order, first.number(_EXIF)), _EXIF_WIDTH, _EXIF_HEIGHT)
    with contextlib.suppress(PhotoError, StopIteration):
        second = next(pages)
        start, length = second.number(_THUMBNAIL), second.number(_THUMBNAIL_LENGTH)
        if second.link < start < start + length <= len(changed):  # behind all tags, where cameras put it
            changed[start : start + length] = bytes(length)
    if first.link + 4 <= len(changed):  # some writers forget the pointer after the last directory
        struct.pack_into(f"{first.order}I", changed, first.link, 0)
    return (orientation if 1 <= orientation <= 8 else 1), bytes(changed)


def _exchange(changed: bytearray, directory: Directory, one: int, other: int) -> None:
    """Exchange the values of two tags of the directory in a copy of its file, if it has both."""
    with contextlib.suppress(PhotoError):
        values, others = directory.raw(one), directory.raw(other)
        if values is not None and others is not None and directory.tags[one].kind == directory.tags[other].kind:
            for number, raw in ((one, others), (other, values)):
                position = directory.tags[number].position
                changed[position : position + len(raw)] = raw


def exif_block(tags: Tags, order: str = ">") -> bytes:
    """An EXIF block with these tags. order: "<" for little-endian; makers' notes may be in that of their first file."""
    magic = b"MM\0*" if order == ">" else b"II*\0"
    return magic + struct.pack(f"{order}I", 8) + _directory_bytes(8, order, {}, tags)


def resolution(dpi: tuple[float, float] | None) -> Tags:
    """The tags that say how many pixels per inch there are, across and down; without dpi that no unit is meant."""
    fractions = [struct.pack(">II", round(value * 100), 100) for value in dpi or (1, 1)]
    unit = struct.pack(">H", INCH if dpi else 1)
    return {
        X_RESOLUTION: (RATIONAL, fractions[0]),
        Y_RESOLUTION: (RATIONAL, fractions[1]),
        RESOLUTION_UNIT: (SHORT, unit),
    }


def with_tags(data: bytes, added: Tags) -> bytes:
    """A TIFF file, or an EXIF block, with more tags in its first directory; they replace those it has.

    The old directory stays behind, unused: a longer one at the end of the file takes its place, and is the only one.
    """
    page = next(directories(data))
    entries = {
        number: data[entry : entry + 12]
        for entry in range(page.position + 2, page.link, 12)
        for number in struct.unpack_from(f"{page.order}H", data, entry)
    }
    end = len(data) + len(data) % 2  # directories and values begin at even positions, as TIFF asks
    header = data[:4] + struct.pack(f"{page.order}I", end)
    return header + data[8:].ljust(end - 8, b"\0") + _directory_bytes(end, page.order, entries, added)


def _directory_bytes(start: int, order: str, entries: dict[int, bytes], tags: Tags) -> bytes:
    """A directory at the position `start` of a file, followed by its values and the directories below it.

    entries: entries as they stand in the file, of values that lie elsewhere. tags: more of them, or in their place.
    """
    entries = entries.copy()
    below = start + 2 + 12 * len(entries.keys() | tags.keys()) + 4
    values = bytearray()
    for number, value in tags.items():
        position = below + len(values)
        field = struct.pack(f"{order}I", position)
        if isinstance(value, dict):
            kind, count = LONG, 1
            values += _directory_bytes(position, order, {}, value)
        else:
            kind, count = value[0], len(value[1]) // _BYTES_PER_VALUE[value[0]]
            raw = _swapped(value[1], kind, order)
            if len(raw) > 4:
                values += raw + bytes(len(raw) % 2)
            else:
                field = raw.ljust(4, b"\0")
        entries[number] = struct.pack(f"{order}HHI", number, kind, count) + field
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries[number] for number in sorted(entries))
    return directory + bytes(4) + bytes(values)
