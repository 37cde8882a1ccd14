"""A picture and everything of its file that outlives a restoration."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")  # of files that can be written
_ONLY_READ = (".heic", ".heif", ".avif")
READABLE = (*EXTENSIONS, *_ONLY_READ)

MAXIMUM_PIXELS = 200_000_000  # 2.4 GB as float32 RGB; beyond every camera, and what a forged header is caught by
JPEG_QUALITY = 95

_ROWS = 256  # that are rounded at a time, so that no temporary is as large as the picture


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """A picture as it stands upright, and everything of its file that outlives a restoration.

    Attributes:
        stored: the pixels, (height, width, channels), sRGB-encoded; one channel is grey, three are RGB. As in the file,
            uint8 or uint16 as depth says, which takes a quarter or half of the memory; or float32 in [0, 1].
        alpha: (height, width), uint8 or uint16 as depth says, untouched; None for an opaque picture.
        depth: bits per sample of the file, 8 or 16.
        exif, icc, xmp: EXIF block, its orientation 1; colour profile; XMP packet. None when the file has none.
        dpi: pixels per inch across and down, by the format's header or by EXIF; None when neither says.
        jpeg_quality: of a JPEG of the photo, 95 to 100: no coefficient is written more coarsely than it was read.
    """

    stored: Array
    alpha: Array | None = None
    depth: int = 8
    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    jpeg_quality: int = JPEG_QUALITY

    @property
    def pixels(self) -> npt.NDArray[np.float32]:
        """The pixels as float32 in [0, 1]."""
        if self.stored.dtype.kind == "f":
            return self.stored
        pixels = self.stored.astype(np.float32)
        pixels /= np.iinfo(self.stored.dtype).max  # in place: of 50 megapixels, a copy is 0.6 GB
        return pixels

    def with_pixels(self, pixels: Array) -> "Photo":
        """The photo with new pixels, see `stored`, and all else kept."""
        return dataclasses.replace(self, stored=pixels)


def result_ending(source_suffix: str) -> str:
    """The ending of a result for a photo with this one, both with their dot: the same if that can be written."""
    return ".png" if source_suffix.lower() in _ONLY_READ else source_suffix


def as_integers(values: Array, depth: int, white: int | None = None) -> Array:
    """Values from 0 to white, which is the largest integer of their type or 1, rounded to integers of 8 or 16 bits."""
    integers = np.empty(values.shape, np.uint16 if depth == 16 else np.uint8)
    if white is None:
        white = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
    if values.dtype == integers.dtype and white == np.iinfo(integers.dtype).max:
        return values
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        integers[rows] = np.rint(np.clip(values[rows] / np.float64(white), 0, 1) * (2**depth - 1))
    return integers
