"""Photo -> bytes of a file, with everything that its format can hold.

Nothing is lost or changed without a word: what cannot be written faithfully is refused in a sentence.
"""

import contextlib
import dataclasses
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from blinddeblur.errors import EstimationError, OutputError, PhotoError
from blinddeblur.files import tags
from blinddeblur.files.headers import METRES_PER_INCH, XMP_PREFIX, png_chunks, png_file
from blinddeblur.files.photo import EXTENSIONS, Array, Photo, as_integers
from blinddeblur.files.quiet import silent_opencv
from blinddeblur.files.together import write_bytes

_WEBP_LOSSLESS = 101  # OpenCV's convention: a quality above 100
_ENCODER_SETTINGS = {
    ".jpg": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, _WEBP_LOSSLESS],
}
_SAME_ENDING = {".jpeg": ".jpg", ".tif": ".tiff"}
_HOLDS_16_BITS = frozenset({".png", ".tiff"})
_HOLDS_ALPHA = frozenset({".png", ".tiff", ".webp"})

_JFIF_UNIT = 13  # place of the unit of density, and of the density behind it, in a JPEG file that begins with JFIF
_JFIF_PER_INCH = 1

_PNG_XMP = b"XML:com.adobe.xmp\0\0\0\0\0"  # keyword of the chunk, not compressed, no language, no translated keyword
_PNG_PROFILE = b"ICC Profile\0\0"  # its name, compressed
_PNG_GREY_ALPHA = 4  # colour type
_PNG_COLOUR_TYPE = 9  # its place in the IHDR chunk


def write(photo: Photo, path: Path, *, overwrite: bool = False) -> None:
    """Write a photo in the format of the path's extension, see encode.

    Raises OutputError when the format cannot hold the photo or the file cannot be written (see write_bytes), and
    EstimationError when a pixel is not finite.
    """
    try:
        data = encode(photo, path.suffix)
    except (OutputError, EstimationError) as error:
        raise type(error)(f"{path}: {error}") from error
    write_bytes(data, path, overwrite=overwrite)


def encode(photo: Photo, ending: str) -> bytes:
    """The bytes of a file in the format of an ending such as ".png".

    Samples are rounded to 16 bits where photo and format have them, else to 8. JPEG has the quality that the photo asks
    for and full colour resolution; all else is without loss, except that WebP forgets the colour of fully transparent
    pixels and cannot be grey. EXIF, XMP, resolution, and a colour profile if it is one for the channels of the file, go
    into all but BMP; in WebP the resolution is a part of EXIF. TIFF holds a grey photo with transparency as RGB.

    Raises OutputError when the format cannot hold the photo, and EstimationError when a pixel is not finite.
    """
    ending = ending.lower()
    if ending not in EXTENSIONS:
        raise OutputError(f"The ending must be one of {', '.join(EXTENSIONS)}.")
    ending = _SAME_ENDING.get(ending, ending)
    if photo.alpha is not None and ending not in _HOLDS_ALPHA:
        raise OutputError("This format cannot hold the transparency of the photo. Use .png instead.")
    if photo.stored.dtype.kind == "f" and not np.isfinite(photo.stored).all():
        raise EstimationError("The result contains values that are not numbers, so nothing was written.")
    depth = photo.depth if ending in _HOLDS_16_BITS else 8
    colours = as_integers(photo.stored, depth)
    alpha = None if photo.alpha is None else as_integers(photo.alpha, depth)
    picture, grey_and_alpha = colours[..., ::-1], None
    if alpha is not None and colours.shape[2] == 1 and ending == ".png":
        grey_and_alpha = np.dstack([colours, alpha])
    elif alpha is not None:
        picture = np.dstack([np.broadcast_to(picture, (*colours.shape[:2], 3)), alpha])
    grey = picture.shape[2] == 1 and ending != ".webp"
    photo = dataclasses.replace(photo, icc=_fitting_profile(photo.icc, grey=grey))
    data = _encoded_by_opencv(np.ascontiguousarray(picture), ending, photo)
    if ending == ".jpg" and photo.dpi is not None:
        # In its first segment, which otherwise says that there is none.
        resolved = bytearray(data)
        struct.pack_into(">BHH", resolved, _JFIF_UNIT, _JFIF_PER_INCH, *map(round, photo.dpi))
        return bytes(resolved)
    if ending == ".tiff":
        return _completed_tiff(data, photo)
    if ending == ".png":
        return _completed_png(data, photo, grey_and_alpha)
    return data


def _fitting_profile(icc: bytes | None, *, grey: bool) -> bytes | None:
    """The colour profile if it is one for grey or RGB pixels as they are; formats forbid any other."""
    colour_space = b"GRAY" if grey else b"RGB "
    return icc if icc is not None and icc[16:20] == colour_space else None


def _encoded_by_opencv(picture: Array, ending: str, photo: Photo) -> bytes:
    """picture: the samples of the photo in OpenCV's order. With the metadata that OpenCV writes well."""
    settings = _ENCODER_SETTINGS.get(ending, [])
    exif, icc, xmp = photo.exif, photo.icc, photo.xmp
    if ending == ".png":
        icc = xmp = None
    elif ending == ".webp":
        exif = _exif_with_dpi(photo)
    elif ending == ".jpg":
        settings = [cv2.IMWRITE_JPEG_QUALITY, photo.jpeg_quality, *settings]
        xmp = XMP_PREFIX + xmp if xmp else None
    else:
        exif = icc = xmp = None
    blocks = {cv2.IMAGE_METADATA_EXIF: exif, cv2.IMAGE_METADATA_ICCP: icc, cv2.IMAGE_METADATA_XMP: xmp}
    held = {kind: np.frombuffer(block, np.uint8) for kind, block in blocks.items() if block}
    succeeded, data = False, np.empty(0, np.uint8)
    with contextlib.suppress(cv2.error), silent_opencv():
        succeeded, data = cv2.imencodeWithMetadata(ending, picture, list(held), list(held.values()), settings)
    if not succeeded:
        raise OutputError(
            "This format cannot hold the photo: it is too wide or too high, or its EXIF block, XMP packet or colour "
            "profile is too large. Use .png instead."
        )
    return data.tobytes()


def _exif_with_dpi(photo: Photo) -> bytes | None:
    """The EXIF block, which says the resolution if the photo has one; None when there is nothing to say."""
    if photo.dpi is None or tags.dpi_of(photo.exif):
        return photo.exif
    if photo.exif is None:
        return tags.exif_block(tags.resolution(photo.dpi))
    with contextlib.suppress(PhotoError):  # a block that makes no sense stays as it is
        return tags.with_tags(photo.exif, tags.resolution(photo.dpi))
    return photo.exif


def _completed_png(data: bytes, photo: Photo, grey_and_alpha: Array | None) -> bytes:
    """A PNG file of OpenCV with colour profile, resolution and XMP.

    The profile is ours to write since OpenCV, asked to write one that is slightly wrong, writes no file at all.
    grey_and_alpha: integers (height, width, 2) instead of its pixels, which OpenCV cannot write.
    """
    (_, header), *others = png_chunks(data)
    if photo.xmp:
        others.insert(0, (b"iTXt", _PNG_XMP + photo.xmp))
    if photo.dpi is not None:
        per_metre = (round(value / METRES_PER_INCH) for value in photo.dpi)
        others.insert(0, (b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if photo.icc:
        others.insert(0, (b"iCCP", _PNG_PROFILE + zlib.compress(photo.icc)))
    if grey_and_alpha is not None:
        header = header[:_PNG_COLOUR_TYPE] + bytes([_PNG_GREY_ALPHA]) + header[_PNG_COLOUR_TYPE + 1 :]
        big_endian = grey_and_alpha.astype(grey_and_alpha.dtype.newbyteorder(">"))
        rows = big_endian.reshape(len(big_endian), -1).view(np.uint8)
        pixels = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())  # each begins with the number of its filter: 0
        others = [chunk for chunk in others if chunk[0] not in (b"IDAT", b"IEND")]
        others += [(b"IDAT", pixels), (b"IEND", b"")]
    return png_file([(b"IHDR", header), *others])


def _completed_tiff(data: bytes, photo: Photo) -> bytes:
    """A TIFF file of OpenCV with the tags that it leaves out, or fills with nonsense: 1 pixel per inch."""
    added = tags.resolution(photo.dpi)
    with contextlib.suppress(PhotoError):  # a block that makes no sense
        added |= next(tags.directories(photo.exif)).description() if photo.exif else {}
    if photo.alpha is not None:
        added[tags.EXTRA_SAMPLES] = (tags.SHORT, struct.pack(">H", tags.UNASSOCIATED_ALPHA))
    if photo.icc:
        added[tags.ICC_PROFILE] = (tags.UNDEFINED, photo.icc)
    if photo.xmp:
        added[tags.XMP] = (tags.BYTE, photo.xmp)
    return tags.with_tags(data, added)
