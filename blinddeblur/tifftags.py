"""Tags of TIFF files and of EXIF blocks, which are small TIFF files: found, changed in place, added.

No pixels here. OpenCV drops all tags of a TIFF and misreads some; photo.py relies on these functions instead.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from blinddeblur.errors import PhotoError

NEW_SUBFILE_TYPE = 254
WIDTH = 256
HEIGHT = 257
BITS_PER_SAMPLE = 258
PHOTOMETRIC = 262
STRIP_OFFSETS = 273
ORIENTATION = 274
SAMPLES_PER_PIXEL = 277
STRIP_BYTE_COUNTS = 279
PLANAR_CONFIGURATION = 284
TILE_OFFSETS = 324
TILE_BYTE_COUNTS = 325
EXTRA_SAMPLES = 338
SAMPLE_FORMAT = 339
ICC_PROFILE = 34675

WHITE_IS_ZERO, BLACK_IS_ZERO, SEPARATED = 0, 1, 5  # values of PHOTOMETRIC; separated is CMYK
SEPARATE_PLANES = 2  # value of PLANAR_CONFIGURATION
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2  # values of EXTRA_SAMPLES; associated: colours multiplied by transparency
WHOLE_NUMBERS = 1  # value of SAMPLE_FORMAT: unsigned integers

SHORT = 3  # types of tags
UNDEFINED = 7

CUT_OFF = "The file is cut off or damaged. Copy it again from its source."

_BYTES_PER_VALUE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_UNSIGNED = {1: "B", 3: "H", 4: "I", 13: "I"}
_MAXIMUM_DIRECTORIES = 1000  # a chain that is longer than any real file points back at itself


@dataclass(frozen=True)
class Tag:
    """Where the values of one tag lie: their TIFF type, their number, and the index of their first byte."""

    kind: int
    count: int
    position: int


@dataclass(frozen=True)
class Directory:
    """One directory of tags. `position` and `link` are the indices of its first byte and of the pointer to the next.

    order: "<" when the file is little-endian, ">" when it is big-endian.
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
            raise PhotoError(CUT_OFF)
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
            raise PhotoError(CUT_OFF) from error
        yield directory
        link = directory.link
    if link == 4:
        raise PhotoError("The TIFF file contains no picture.")


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


def upright(exif: bytes) -> tuple[int, bytes]:
    """The orientation (1 to 8) of an EXIF block, and the block with orientation 1 and no thumbnail.

    The thumbnail shows the picture as it was, blurred and perhaps lying on its side, so its directory is unlinked.
    A block that makes no sense is given back as it is, with orientation 1.
    """
    try:
        first = next(directories(exif))  # the others may be broken
        orientation = first.number(ORIENTATION, 1)
        changed = bytearray(first.with_numbers({ORIENTATION: 1}))
    except PhotoError:
        return 1, exif
    struct.pack_into(f"{first.order}I", changed, first.link, 0)
    return (orientation if 1 <= orientation <= 8 else 1), bytes(changed)


def with_tags(data: bytes, added: dict[int, tuple[int, bytes]]) -> bytes:
    """A TIFF file of one page with more tags: {number: (type, bytes of its values in the file's byte order)}.

    The old directory stays behind, unused: a longer one at the end of the file takes its place.
    """
    (page,) = directories(data)
    entries = {
        number: data[entry : entry + 12]
        for entry in range(page.position + 2, page.link, 12)
        for number in struct.unpack_from(f"{page.order}H", data, entry)
    }
    values = bytearray()
    # Directories and values begin at even positions, as TIFF asks.
    end = len(data) + len(data) % 2
    for number, (kind, raw) in added.items():
        field = raw.ljust(4, b"\0")
        if len(raw) > 4:
            field = struct.pack(f"{page.order}I", end + len(values))
            values += raw + bytes(len(raw) % 2)
        entries[number] = struct.pack(f"{page.order}HHI", number, kind, len(raw) // _BYTES_PER_VALUE[kind]) + field
    directory = struct.pack(f"{page.order}H", len(entries)) + b"".join(entries[number] for number in sorted(entries))
    header = data[:4] + struct.pack(f"{page.order}I", end + len(values))
    return header + data[8:].ljust(end - 8, b"\0") + bytes(values) + directory + bytes(4)
