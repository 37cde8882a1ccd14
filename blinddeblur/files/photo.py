"""File <-> Photo: pixels, alpha, bit depth, metadata and colour profile, orientation; kernel files.

Nothing is lost or changed without a word: what cannot be read or written faithfully is refused in a sentence. Colours
are never converted: the pixels of a wide-gamut photo stay as they are, and its profile goes with them.
"""

import contextlib
import dataclasses
import functools
import io
import os
import re
import stat
import struct
import tempfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from blinddeblur.errors import EstimationError, KernelError, OutputError, PhotoError
from blinddeblur.files import heif, tags
from blinddeblur.files.headers import METRES_PER_INCH, UNDECODABLE, png_chunks, png_file, png_with_chunks, read_header
from blinddeblur.files.together import NUL, reason, write_together
from blinddeblur.files.together import check_free as check_free
from blinddeblur.files.together import write_bytes as write_bytes

Array = npt.NDArray[Any]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")  # of files that can be written
READABLE = (*EXTENSIONS, *heif.EXTENSIONS)

MINIMUM_SIDE = 32  # pixels; below, there is no blur to be told from the picture
MAXIMUM_PIXELS = 200_000_000  # 2.4 GB as float32 RGB; beyond every camera, and what a forged header is caught by
_OPENCV_PIXELS, _OPENCV_SIDE = 2**30, 2**20  # what OpenCV decodes at most, unless its environment says otherwise

_MOST_BYTES_PER_PIXEL = 8  # four channels of 16 bits, not compressed
_ROOM_FOR_METADATA = 2**28  # bytes; also for what cameras append to a photo, such as a few seconds of film

_ROWS = 256  # that are rounded at a time, so that no temporary is as large as the picture

JPEG_QUALITY = 95
_WEBP_LOSSLESS = 101  # OpenCV's convention: a quality above 100
_ENCODER_SETTINGS = {
    ".jpg": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, _WEBP_LOSSLESS],
}
_SAME_ENDING = {".jpeg": ".jpg", ".tif": ".tiff"}
_HOLDS_16_BITS = frozenset({".png", ".tiff"})
_HOLDS_ALPHA = frozenset({".png", ".tiff", ".webp"})

_NEGATIVE_SHARE = 0.1  # of a kernel's mass: what a least-squares estimate leaves, and is taken as zero

_UNCERTAINTY_WHITE = 0.1  # what is white in the picture of an uncertainty map: most maps lie below, and all compare

_OPENCV_SILENT = 0  # log level
_STDERR = 2  # file descriptor
_ONE_AT_A_TIME = threading.Lock()
# What libjpeg prints, where it notices, and then makes up pixels that it cannot decode. Superfluous bytes, which it
# reports as well, are common and harmless.
_JPEG_DAMAGE = re.compile(rb"Corrupt JPEG data: (bad Huffman code|premature end|found marker)")

_EXIF_PREFIX = b"Exif\0\0"  # part of the JPEG segment, and put in front by some writers of PNG and WebP as well
_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"  # part of the JPEG segment
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]")
_XMP_THUMBNAILS = (b"xmp:Thumbnails", b"xap:Thumbnails")

_JFIF_UNIT = 13  # place of the unit of density, and of the density behind it, in a JPEG file that begins with JFIF
_JFIF_PER_INCH = 1

_FINEST_JPEG_QUALITY = 100  # its tables are all ones

_PNG_XMP = b"XML:com.adobe.xmp\0\0\0\0\0"  # keyword of the chunk, not compressed, no language, no translated keyword
_PNG_PROFILE = b"ICC Profile\0\0"  # its name, compressed
_PNG_GREY_ALPHA = 4  # colour type
_PNG_COLOUR_TYPE = 9  # its place in the IHDR chunk


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """A picture as it stands upright, and everything of its file that outlives a restoration.

    stored: the pixels, (height, width, channels), sRGB-encoded; one channel is grey, three are RGB. As in the file,
        uint8 or uint16 as depth says, which takes a quarter or half of the memory; or float32 in [0, 1].
    alpha: (height, width), uint8 or uint16 as depth says, untouched; None for an opaque picture.
    depth: bits per sample of the file, 8 or 16.
    exif: EXIF block, its orientation 1. icc: colour profile. xmp: XMP packet. None when the file has none.
    dpi: pixels per inch across and down, by the format's header or by EXIF; None when neither says.
    jpeg_quality: what the photo is written with as a JPEG, 95 to 100: no coefficient more coarsely than it was read.
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


def read(path: Path, most_pixels: int = MAXIMUM_PIXELS) -> Photo:
    """Read a photo, turned upright. Raises PhotoError, naming the file, for whatever cannot be restored faithfully.

    See decode for what is kept. What is no regular file (a pipe, a device) is refused, not waited for.
    """
    try:
        return decode(_file_bytes(path, most_pixels), most_pixels)
    except PhotoError as error:
        raise PhotoError(f"{path}: {error}") from error


def read_bytes(path: Path, most_pixels: int = MAXIMUM_PIXELS) -> bytes:
    """The bytes of a photo's file, for decode. Raises PhotoError, naming the file, as read does."""
    try:
        return _file_bytes(path, most_pixels)
    except PhotoError as error:
        raise PhotoError(f"{path}: {error}") from error


def decode(data: bytes, most_pixels: int = MAXIMUM_PIXELS) -> Photo:
    """A photo, turned upright, from the bytes of its file; the format is told from them.

    Kept are EXIF, XMP, colour profile and resolution. Thumbnails are not: they show the blurred picture. Of a TIFF,
    EXIF holds the tags that speak of the picture; of a JPEG, XMP is the main packet without extensions.
    most_pixels: a larger picture is refused before it is decoded.

    Raises PhotoError, which does not name the file, for whatever cannot be restored faithfully.
    """
    return _decoded(data, MINIMUM_SIDE, most_pixels)


def most_bytes(most_pixels: int = MAXIMUM_PIXELS) -> int:
    """More than a file of so many pixels has; whoever reads from a pipe needs no more than one byte beyond."""
    return _MOST_BYTES_PER_PIXEL * most_pixels + _ROOM_FOR_METADATA


def result_ending(source_suffix: str) -> str:
    """The ending of a result for a photo with this one, both with their dot: the same if that can be written."""
    return ".png" if source_suffix.lower() in heif.EXTENSIONS else source_suffix


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
    pixels and cannot be grey. EXIF, XMP, resolution, and a colour profile if it
    is one for the channels of the file, go into all but BMP; in WebP the resolution is a part of EXIF. TIFF holds a
    grey photo with transparency as RGB.

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
    data = _encoded(photo, ending)
    if data is None:
        raise OutputError(
            "This format cannot hold the photo: it is too wide or too high, or its EXIF block, XMP packet or colour "
            "profile is too large. Use .png instead."
        )
    return data


def read_kernel(path: Path) -> npt.NDArray[np.float64]:
    """Read a blur kernel from a .npy file or a picture: float64 (height, width), odd sides, non-negative, sum 1.

    Colours are averaged and transparency is ignored. Small negative values become zero.
    An even side gets a row or column of zeros at its end.
    Raises KernelError, naming the file, when it is unreadable or no blur kernel.
    """
    try:
        data = _file_bytes(path, MAXIMUM_PIXELS)
        if path.suffix.lower() == ".npy":
            values = _array_of_npy(data)
        else:
            values = _decoded(data, 1, MAXIMUM_PIXELS).pixels.mean(axis=2)
        return _checked_kernel(values)
    except (PhotoError, KernelError) as error:
        raise KernelError(f"{path}: {error}") from error


def write_kernel(kernel: Array, stem: Path, *, overwrite: bool = False) -> tuple[Path, Path]:
    """Write the files of kernel_files and return their paths.

    Raises EstimationError when it is no kernel, and OutputError as write_bytes does.
    """
    return _write_both(kernel_files(kernel, stem), overwrite=overwrite)


def kernel_files(kernel: Array, stem: Path) -> dict[Path, bytes]:
    """STEM.kernel.png, to look at (16-bit grey, its maximum white), and STEM.kernel.npy (float32, sum 1).

    kernel: (height, width), non-negative. Raises EstimationError when it is no kernel.
    """
    try:
        values = _checked_kernel(kernel)
    except KernelError as error:
        raise EstimationError(f"{stem}: No blur kernel was written. {error}") from error
    picture, array = kernel_paths(stem)
    preview = (values / values.max()).astype(np.float32)[..., np.newaxis]
    return {picture: encode(Photo(preview, depth=16), ".png"), array: _npy(values)}


def kernel_paths(stem: Path) -> tuple[Path, Path]:
    """The picture and the array that write_kernel writes."""
    # Appended, since with_suffix would cut a name like "1.5 seconds" at its dot.
    return stem.with_name(f"{stem.name}.kernel.png"), stem.with_name(f"{stem.name}.kernel.npy")


def write_uncertainty(uncertainty: Array, stem: Path, *, overwrite: bool = False) -> tuple[Path, Path]:
    """Write the files of uncertainty_files and return their paths. Raises OutputError as write_bytes does."""
    return _write_both(uncertainty_files(uncertainty, stem), overwrite=overwrite)


def uncertainty_files(uncertainty: Array, stem: Path) -> dict[Path, bytes]:
    """STEM.uncertainty.png, to look at (16 bits, white is 0.1 and above), and STEM.uncertainty.npy (float32).

    uncertainty: (height, width, channels), standard deviations where white of the photo is 1; the array of a grey photo
    is (height, width).
    """
    picture, array = uncertainty_paths(stem)
    preview = (uncertainty / _UNCERTAINTY_WHITE).astype(np.float32)
    values = uncertainty[..., 0] if uncertainty.shape[2] == 1 else uncertainty
    return {picture: encode(Photo(preview, depth=16), ".png"), array: _npy(values)}


def uncertainty_paths(stem: Path) -> tuple[Path, Path]:
    """The picture and the array that write_uncertainty writes."""
    return stem.with_name(f"{stem.name}.uncertainty.png"), stem.with_name(f"{stem.name}.uncertainty.npy")


def _npy(values: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.astype(np.float32))
    return buffer.getvalue()


def _write_both(files: dict[Path, bytes], *, overwrite: bool) -> tuple[Path, Path]:
    write_together(files.items(), overwrite=overwrite)
    picture, array = files
    return picture, array


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


def _file_bytes(path: Path, most_pixels: int) -> bytes:
    _check_bytes(check_file(path), most_pixels)
    try:
        return path.read_bytes()
    except OSError as error:
        raise PhotoError(f"The file cannot be read, because {reason(error)}.") from error


def _check_bytes(count: int, most_pixels: int) -> None:
    if count > most_bytes(most_pixels):
        raise PhotoError(
            f"The file is larger than any photo of {most_pixels / 1e6:g} megapixels, which is the limit. Save it in "
            "another format, or raise the limit with --max-megapixels."
        )


def _decoded(data: bytes, minimum_side: int, most_pixels: int) -> Photo:
    _check_bytes(len(data), most_pixels)
    if not data:
        raise PhotoError("The file is empty. Copy it again from its source.")
    return (_from_heif if heif.is_heif(data) else _from_opencv)(data, minimum_side, most_pixels)


def _from_opencv(data: bytes, minimum_side: int, most_pixels: int) -> Photo:
    header = read_header(data)
    check_size(header.width, header.height, minimum_side, most_pixels)
    page = header.page
    samples, blocks = _decoded_by_opencv(data if page is None else _plain_tiff(page))
    if samples.shape[:2] != (header.height, header.width):
        raise PhotoError(UNDECODABLE)
    exif, icc, xmp = map(blocks.get, (cv2.IMAGE_METADATA_EXIF, cv2.IMAGE_METADATA_ICCP, cv2.IMAGE_METADATA_XMP))
    if page is not None:
        icc, xmp, description = page.raw(tags.ICC_PROFILE), page.raw(tags.XMP), page.description()
        exif = tags.exif_block(description, page.order) if description else None
    orientation, exif = tags.upright(exif) if exif else (1, None)
    photo = _upright(samples, 8 * samples.itemsize, orientation, exif, icc, xmp, header.dpi, grey=header.grey)
    photo = dataclasses.replace(photo, jpeg_quality=_quality_of(header.tables))
    return photo.with_pixels(np.iinfo(photo.stored.dtype).max - photo.stored) if header.inverted else photo


def _from_heif(data: bytes, minimum_side: int, most_pixels: int) -> Photo:
    container = heif.opened(data)
    check_size(container.width, container.height, minimum_side, most_pixels)
    orientation, exif = tags.upright(container.exif.removeprefix(_EXIF_PREFIX)) if container.exif else (1, None)
    if container.format == "HEIC":
        samples, orientation = container.heic_samples(), 1  # what EXIF says has been done by the decoder
    else:
        samples, _ = _decoded_by_opencv(data)
    if samples.shape[:2] != (container.height, container.width) or samples.max() >> container.bits:
        raise PhotoError(UNDECODABLE)
    return _upright(samples, container.bits, orientation, exif, container.icc, container.xmp)


def _upright(
    samples: Array,
    bits: int,
    orientation: int,
    exif: bytes | None,
    icc: bytes | None,
    xmp: bytes | None,
    dpi: tuple[float, float] | None = None,
    *,
    grey: bool = False,
) -> Photo:
    """The photo of samples (height, width, channels) as stored: integers of `bits` bits, grey, BGR or BGRA."""
    samples = _turned(samples, orientation)
    depth = 8 if bits == 8 else 16
    colours = samples[..., :1] if grey else samples[..., 2::-1]
    stored = np.ascontiguousarray(colours)
    alpha = np.ascontiguousarray(samples[..., 3]) if samples.shape[2] == 4 else None
    if bits != depth:
        stored = as_integers(stored, depth, 2**bits - 1)
        alpha = None if alpha is None else as_integers(alpha, depth, 2**bits - 1)
    if dpi and orientation in tags.ON_ITS_SIDE:
        dpi = dpi[::-1]
    return Photo(stored, alpha, depth, exif, icc, _plain_xmp(xmp) if xmp else None, dpi or _dpi_of(exif))


def check_size(width: int, height: int, minimum_side: int, most_pixels: int) -> None:
    """Raise PhotoError, which does not name the file, for a picture that is too small or too large."""
    size = f"The picture is {width}x{height} pixels"
    if min(width, height) < minimum_side:
        raise PhotoError(f"{size}. Each side must have at least {minimum_side}.")
    if width * height > _OPENCV_PIXELS or max(width, height) > _OPENCV_SIDE:
        most = f"{min(most_pixels, _OPENCV_PIXELS) // 1_000_000} megapixels and {_OPENCV_SIDE} on a side"
        raise PhotoError(f"{size}, and the limit is {most}. Crop it.")
    if width * height > most_pixels:
        needed = -(-width * height // 1_000_000)
        raise PhotoError(
            f"{size}, and the limit is {most_pixels / 1e6:g} megapixels. Crop it, or raise the limit with "
            f"--max-megapixels {needed}."
        )


def _dpi_of(exif: bytes | None) -> tuple[float, float] | None:
    with contextlib.suppress(PhotoError):  # a block that makes no sense
        return next(tags.directories(exif)).dpi() if exif else None
    return None


def _plain_xmp(xmp: bytes) -> bytes:
    """The XMP packet with orientation 1 and without thumbnails, which show the blurred picture."""
    xmp = xmp.removeprefix(_XMP_PREFIX).rstrip(b"\0")
    for name in _XMP_THUMBNAILS:
        before, _, rest = xmp.partition(b"<" + name)
        _, closed, after = rest.partition(b"</" + name + b">")
        xmp = before + after if closed else xmp
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def _quality_of(tables: tuple[tuple[int, ...], ...]) -> int:
    """The least JPEG quality, at least 95, whose tables are nowhere coarser than these, one for each component."""
    for quality in range(JPEG_QUALITY, _FINEST_JPEG_QUALITY):
        own = _tables_of(quality)
        if all(map(np.all, map(np.less_equal, own, tables))):
            return quality
    return _FINEST_JPEG_QUALITY


@functools.cache
def _tables_of(quality: int) -> tuple[tuple[int, ...], ...]:
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, *_ENCODER_SETTINGS[".jpg"]]
    return read_header(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8), settings)[1].tobytes()).tables


def _plain_tiff(page: tags.Directory) -> bytes:
    """The TIFF file with tags that OpenCV applies differently from version to version, or wrongly, made neutral.

    It turns some orientations and refuses others, inverts white-is-zero at 8 bits but not at 16, and multiplies 8-bit
    colours by their transparency unless told that they are multiplied already.
    """
    neutral = {tags.ORIENTATION: 1, tags.EXTRA_SAMPLES: tags.ASSOCIATED_ALPHA}
    if page.number(tags.PHOTOMETRIC) == tags.WHITE_IS_ZERO:
        neutral[tags.PHOTOMETRIC] = tags.BLACK_IS_ZERO
    return page.with_numbers(neutral)


def _decoded_by_opencv(data: bytes) -> tuple[Array, dict[int, bytes]]:
    """(height, width, channels) in OpenCV's order (grey, BGR or BGRA) as stored; the metadata that OpenCV finds."""
    buffer = np.frombuffer(data, np.uint8)
    try:
        with silent_opencv() as said:
            decoded = cv2.imdecodeWithMetadata(buffer, flags=cv2.IMREAD_UNCHANGED)  # by name: OpenCV 5 moved it
            said.seek(0)
            damaged = _JPEG_DAMAGE.search(said.read())
    except cv2.error as error:
        raise PhotoError(UNDECODABLE) from error
    # The type stubs of OpenCV know neither that the picture is None on failure nor that it may be grey.
    picture = cast("Array | None", decoded[0])
    if damaged or picture is None or picture.dtype not in (np.uint8, np.uint16):
        raise PhotoError(UNDECODABLE)
    blocks = {int(kind): np.asarray(content).tobytes() for kind, content in zip(decoded[1], decoded[2], strict=True)}
    exif = blocks.get(cv2.IMAGE_METADATA_EXIF, b"").removeprefix(_EXIF_PREFIX)
    return np.atleast_3d(picture), blocks | {cv2.IMAGE_METADATA_EXIF: exif}


@contextlib.contextmanager
def silent_opencv() -> Iterator[IO[bytes]]:
    """Keep OpenCV from printing what we say in an exception; the libraries beneath it print into the file given.

    Their messages go to the process's stderr itself. That and OpenCV's log level are global, so both are put back, and
    one thread at a time has them.
    """
    logging: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 has moved these functions
    with _ONE_AT_A_TIME, _temporary_file() as said, contextlib.ExitStack() as afterwards:
        afterwards.callback(logging.setLogLevel, logging.getLogLevel())
        logging.setLogLevel(_OPENCV_SILENT)
        with contextlib.suppress(OSError):  # stderr may be closed
            stderr = os.dup(_STDERR)
            afterwards.callback(os.close, stderr)
            afterwards.callback(os.dup2, stderr, _STDERR)
            os.dup2(said.fileno(), _STDERR)
        yield said


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # where everything is read-only: what is printed is lost
        return open(os.devnull, "w+b")


def _turned(picture: Array, orientation: int) -> Array:
    """The picture (height, width, ...) as it stands upright, from one stored with an EXIF orientation of 1 to 8."""
    if orientation in tags.ON_ITS_SIDE:
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return picture


def _encoded(photo: Photo, ending: str) -> bytes | None:
    """The bytes of the file; None when the format cannot hold them."""
    depth = photo.depth if ending in _HOLDS_16_BITS else 8
    colours = as_integers(photo.stored, depth)
    alpha = photo.alpha
    if alpha is not None and depth != photo.depth:
        alpha = as_integers(alpha, depth)
    grey = colours.shape[2] == 1
    grey_alpha_png = grey and alpha is not None and ending == ".png"
    if alpha is None or grey_alpha_png:
        picture = colours[..., ::-1]
    else:
        picture = np.dstack([np.broadcast_to(colours, (*colours.shape[:2], 3))[..., ::-1], alpha])
    icc = _fitting_profile(photo.icc, grey=picture.shape[2] == 1 and ending != ".webp")
    data = _encoded_by_opencv(np.ascontiguousarray(picture), ending, dataclasses.replace(photo, icc=icc))
    if data is None:
        return None
    if ending == ".jpg":
        return _completed_jpeg(data, photo)
    if ending == ".tiff":
        return _completed_tiff(data, dataclasses.replace(photo, icc=icc))
    if ending == ".png":
        data = _grey_alpha_png(data, colours[..., 0], alpha) if grey_alpha_png and alpha is not None else data
        return _completed_png(data, dataclasses.replace(photo, icc=icc))
    return data


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


def _fitting_profile(icc: bytes | None, *, grey: bool) -> bytes | None:
    """The colour profile if it is one for grey or RGB pixels as they are; formats forbid any other."""
    colour_space = b"GRAY" if grey else b"RGB "
    return icc if icc is not None and icc[16:20] == colour_space else None


def _encoded_by_opencv(picture: Array, ending: str, photo: Photo) -> bytes | None:
    """picture: the samples of the photo in OpenCV's order. With the metadata that OpenCV writes well."""
    settings = _ENCODER_SETTINGS.get(ending, [])
    exif, icc, xmp = photo.exif, photo.icc, photo.xmp
    if ending == ".png":
        icc = xmp = None
    elif ending == ".webp":
        exif = _exif_with_dpi(photo)
    elif ending == ".jpg":
        settings = [cv2.IMWRITE_JPEG_QUALITY, photo.jpeg_quality, *settings]
        xmp = _XMP_PREFIX + xmp if xmp else None
    else:
        exif = icc = xmp = None
    blocks = {cv2.IMAGE_METADATA_EXIF: exif, cv2.IMAGE_METADATA_ICCP: icc, cv2.IMAGE_METADATA_XMP: xmp}
    held = {kind: np.frombuffer(block, np.uint8) for kind, block in blocks.items() if block}
    try:
        with silent_opencv():
            succeeded, data = cv2.imencodeWithMetadata(ending, picture, list(held), list(held.values()), settings)
    except cv2.error:
        return None
    return data.tobytes() if succeeded else None


def _exif_with_dpi(photo: Photo) -> bytes | None:
    """The EXIF block, which says the resolution if the photo has one; None when there is nothing to say."""
    if photo.dpi is None or _dpi_of(photo.exif):
        return photo.exif
    if photo.exif is None:
        return tags.exif_block(tags.resolution(photo.dpi))
    with contextlib.suppress(PhotoError):  # a block that makes no sense stays as it is
        return tags.with_tags(photo.exif, tags.resolution(photo.dpi))
    return photo.exif


def _completed_jpeg(data: bytes, photo: Photo) -> bytes:
    """A JPEG file of OpenCV with the resolution in its first segment, which otherwise says that there is none."""
    if photo.dpi is None:
        return data
    changed = bytearray(data)
    struct.pack_into(">BHH", changed, _JFIF_UNIT, _JFIF_PER_INCH, *map(round, photo.dpi))
    return bytes(changed)


def _completed_png(data: bytes, photo: Photo) -> bytes:
    """A PNG file with colour profile, resolution and XMP.

    The profile is ours to write since OpenCV, asked to write one that is slightly wrong, writes no file at all.
    """
    chunks = []
    if photo.icc:
        chunks.append((b"iCCP", _PNG_PROFILE + zlib.compress(photo.icc)))
    if photo.dpi is not None:
        per_metre = (round(value / METRES_PER_INCH) for value in photo.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if photo.xmp:
        chunks.append((b"iTXt", _PNG_XMP + photo.xmp))
    return png_with_chunks(data, chunks) if chunks else data


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


def _grey_alpha_png(data: bytes, grey: Array, alpha: Array) -> bytes:
    """A grey PNG file with an alpha channel added, which OpenCV cannot write. grey, alpha: (height, width) integers."""
    samples = np.dstack([grey, alpha])
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(len(samples), -1).view(np.uint8)
    unfiltered = np.pad(rows, ((0, 0), (1, 0)))  # each row begins with the number of its filter: none
    chunks = [chunk for chunk in png_chunks(data) if chunk[0] != b"IDAT"]
    (_, header), *others, end = chunks
    header = header[:_PNG_COLOUR_TYPE] + bytes([_PNG_GREY_ALPHA]) + header[_PNG_COLOUR_TYPE + 1 :]
    pixels = zlib.compress(unfiltered.tobytes())
    return png_file([(b"IHDR", header), *others, (b"IDAT", pixels), end])


def _array_of_npy(data: bytes) -> Array:
    try:
        # Not np.load, which would also take archives.
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise KernelError("The file is no array of numbers in NumPy's format, or it is damaged.") from error


def _checked_kernel(values: Array) -> npt.NDArray[np.float64]:
    """The kernel as float64 with odd sides and sum 1. Raises KernelError when it is no blur kernel."""
    if values.dtype.kind not in "biuf" or values.ndim != 2 or values.size == 0:
        raise KernelError("A blur kernel is a table of real numbers with rows and columns.")
    kernel = values.astype(np.float64)
    if not np.isfinite(kernel).all():
        raise KernelError("The kernel contains values that are not finite numbers.")
    negative, kernel = -kernel.clip(max=0).sum(), kernel.clip(min=0)
    if not kernel.any():
        raise KernelError("The kernel is nowhere positive. At least one value must be.")
    if negative > _NEGATIVE_SHARE * kernel.sum():
        raise KernelError("The kernel is largely negative, and light cannot be. Check the file, or its sign.")
    kernel = np.pad(kernel, [(0, 1 - side % 2) for side in kernel.shape])
    kernel /= kernel.max()  # so that the sum cannot overflow
    return cast("npt.NDArray[np.float64]", kernel / kernel.sum())
