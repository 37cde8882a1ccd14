"""HEIC and AVIF photos, as phones make them: read, never written.

HEIC is decoded by pillow-heif, the extra "heif" of this package; AVIF by OpenCV, which keeps more than 8 bits, while
Pillow, which does not, says the rest about it. Both are imported when such a file is met.
"""

import io
import re
import struct
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from blinddeblur.errors import PhotoError
from blinddeblur.files.headers import SEVERAL, UNDECODABLE
from blinddeblur.files.tags import CUT_OFF

EXTENSIONS = (".heic", ".heif", ".avif")

_INSTALL = 'Reading HEIC and AVIF photos takes an extra. Install it with: pip install "blinddeblur[heif]".'

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
class Container:
    """A HEIC or AVIF file whose pixels are not decoded yet.

    format: "HEIC" or "AVIF". width, height: in pixels. bits: per sample. exif, xmp, icc: as they stand in the file, or
    None. image: of the package that has opened it.
    """

    format: str
    width: int
    height: int
    bits: int
    exif: bytes | None
    xmp: bytes | None
    icc: bytes | None
    image: Any

    def heic_samples(self) -> npt.NDArray[Any]:
        """Of a HEIC, (height, width, channels) as it stands upright: grey, BGR or BGRA, integers of `bits` bits."""
        try:
            return np.atleast_3d(np.asarray(self.image))
        except Exception as error:  # of many kinds, by the library beneath
            raise PhotoError(UNDECODABLE) from error


def is_heif(data: bytes) -> bool:
    """Whether a file, given as its bytes, says that it is a HEIC or an AVIF."""
    return bool(_brands(data) & (_HEIC_BRANDS | _AVIF_BRANDS))


def opened(data: bytes) -> Container:
    """What a HEIC or AVIF file says of itself.

    Raises PhotoError for one that is cut off or damaged, holds several pictures or colours that a PNG cannot, and when
    the packages that read it are not installed.
    """
    _check_boxes(data)
    container = _avif(data) if _brands(data) & _AVIF_BRANDS else _heic(data)
    for numbers in _COLOUR_NUMBERS.findall(data) if container.icc is None else ():
        primaries, transfer = struct.unpack(">HH", numbers)
        if primaries not in _COMMON_PRIMARIES or transfer not in _COMMON_TRANSFERS:
            raise PhotoError(
                "The photo has HDR or wide-gamut colours and no colour profile. Save it with a profile, or as sRGB."
            )
    return container


def _brands(data: bytes) -> set[bytes]:
    if data[4:8] != b"ftyp":
        return set()
    listed = data[8 : int.from_bytes(data[:4])]
    return {listed[start : start + 4] for start in range(0, len(listed), 4) if start != 4}  # the second is a version


def _check_boxes(data: bytes) -> None:
    """Raise PhotoError when the file ends within a box."""
    position = 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4])
        if size == 1:  # the length stands behind the type, in eight bytes
            size = int.from_bytes(data[position + 8 : position + 16])
        if size == 0:  # the last box, until the end
            return
        if size < 8 or position + size > len(data):
            raise PhotoError(CUT_OFF)
        position += size


def _heic(data: bytes) -> Container:
    try:
        import pillow_heif
    except ImportError as error:
        raise PhotoError(_INSTALL) from error
    try:
        file = pillow_heif.open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False, bgr_mode=True)
        images = list(file)
    except Exception as error:
        raise PhotoError(UNDECODABLE) from error
    if len(images) != 1:
        raise PhotoError(SEVERAL)
    image = images[0]
    if image.premultiplied_alpha:
        raise PhotoError("The colours of the picture are multiplied by its transparency. Save it as a PNG first.")
    width, height = image.size
    return Container("HEIC", width, height, cast("int", image.info["bit_depth"]), *_blocks(image), image)


def _avif(data: bytes) -> Container:
    try:
        from PIL import AvifImagePlugin
    except ImportError as error:
        raise PhotoError(_INSTALL) from error
    if not AvifImagePlugin.SUPPORTED:
        raise PhotoError(_INSTALL)
    try:
        # Not Image.open, which warns of large pictures and tries other formats.
        image = AvifImagePlugin.AvifImageFile(io.BytesIO(data))
    except Exception as error:
        raise PhotoError(UNDECODABLE) from error
    if image.is_animated:
        raise PhotoError(SEVERAL)
    flags = max((found[0] for found in _AVIF_CONFIGURATION.findall(data)), default=0)
    bits = (12 if flags & _TWELVE_BITS else 10) if flags & _HIGH_DEPTH else 8
    width, height = image.size
    return Container("AVIF", width, height, bits, *_blocks(image), image)


def _blocks(image: Any) -> tuple[bytes | None, bytes | None, bytes | None]:
    exif, xmp, icc = (image.info.get(name) or None for name in ("exif", "xmp", "icc_profile"))
    return exif, xmp, icc
