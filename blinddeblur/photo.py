"""File <-> Photo: pixels, alpha, bit depth, EXIF and ICC profile, orientation; kernel files; safe writing.

Nothing is lost or changed without a word: what cannot be read or written faithfully is refused in a sentence.
"""

import contextlib
import dataclasses
import errno
import io
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from blinddeblur import tifftags
from blinddeblur.errors import EstimationError, KernelError, OutputError, PhotoError
from blinddeblur.imageheader import png_chunks, png_file, read_header

Array = npt.NDArray[Any]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")

MINIMUM_SIDE = 32  # pixels; below, there is no blur to be told from the picture
MAXIMUM_PIXELS = 200_000_000  # 2.4 GB as float32 RGB; beyond every camera, and what a forged header is caught by

_JPEG_QUALITY = 95
_WEBP_LOSSLESS = 101  # OpenCV's convention: a quality above 100
_ENCODER_SETTINGS = {
    ".jpg": [
        cv2.IMWRITE_JPEG_QUALITY,
        _JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, _WEBP_LOSSLESS],
}
_SAME_ENDING = {".jpeg": ".jpg", ".tif": ".tiff"}
_HOLDS_16_BITS = frozenset({".png", ".tiff"})
_HOLDS_ALPHA = frozenset({".png", ".tiff", ".webp"})
_HOLDS_METADATA = frozenset({".jpg", ".png", ".webp"})  # by OpenCV's encoders

_NEGATIVE_SHARE = 0.1  # of a kernel's mass: what a least-squares estimate leaves, and is taken as zero

_UNCERTAINTY_WHITE = 0.1  # what is white in the picture of an uncertainty map: most maps lie below, and all compare

_OPENCV_SILENT = 0  # log level

_EXIF_PREFIX = b"Exif\0\0"  # part of the JPEG segment, and put in front by some writers of PNG and WebP as well
_PNG_GREY_ALPHA = 4  # colour type
_PNG_COLOUR_TYPE = 9  # its place in the IHDR chunk


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """A picture as it stands upright, and everything of its file that outlives a restoration.

    pixels: float32 (height, width, channels), sRGB-encoded, [0, 1]; one channel is grey, three are RGB.
    alpha: (height, width), uint8 or uint16 as depth says, untouched; None for an opaque picture.
    depth: bits per sample of the file, 8 or 16.
    exif: EXIF block, its orientation 1. icc: colour profile. None when the file has none.
    """

    pixels: npt.NDArray[np.float32]
    alpha: Array | None = None
    depth: int = 8
    exif: bytes | None = None
    icc: bytes | None = None

    def with_pixels(self, pixels: npt.NDArray[np.float32]) -> "Photo":
        """The photo with new pixels, float32 (height, width, channels), and all else kept."""
        return dataclasses.replace(self, pixels=pixels)


def read(path: Path) -> Photo:
    """Read a photo, turned upright. Raises PhotoError, naming the file, for whatever cannot be restored faithfully.

    Of a TIFF the colour profile and the orientation are kept, other tags are not.
    """
    try:
        return _decoded(_file_bytes(path), MINIMUM_SIDE)
    except PhotoError as error:
        raise PhotoError(f"{path}: {error}") from error


def write(photo: Photo, path: Path, *, overwrite: bool = False) -> None:
    """Write a photo in the format of the path's extension, rounded to 16 bits where photo and format have them, else 8.

    JPEG is written with quality 95 and full colour resolution, all else without loss, except that WebP forgets the
    colour of fully transparent pixels and cannot be grey. EXIF goes into JPEG, PNG and WebP, a colour profile also
    into TIFF, if it is one for the channels of the file. TIFF holds a grey photo with transparency as RGB.

    Raises OutputError when the format cannot hold the photo or the file cannot be written (see write_bytes), and
    EstimationError when a pixel is not finite.
    """
    ending = path.suffix.lower()
    if ending not in EXTENSIONS:
        raise OutputError(f"{path}: The ending must be one of {', '.join(EXTENSIONS)}.")
    ending = _SAME_ENDING.get(ending, ending)
    if photo.alpha is not None and ending not in _HOLDS_ALPHA:
        raise OutputError(f"{path}: This format cannot hold the transparency of the photo. Use .png instead.")
    if not np.isfinite(photo.pixels).all():
        raise EstimationError(f"{path}: The result contains values that are not numbers, so nothing was written.")
    data = _encoded(photo, ending)
    if data is None:
        raise OutputError(
            f"{path}: This format cannot hold the photo: it is too wide or too high, or its EXIF block or colour "
            "profile is too large. Use .png instead."
        )
    write_bytes(data, path, overwrite=overwrite)


def write_bytes(data: bytes, path: Path, *, overwrite: bool) -> None:
    """Write a whole file or none: into a temporary file beside it, which then takes its name.

    Missing folders are created. Raises OutputError when the file exists and may not be overwritten, and when the
    system refuses (no permission, full disk). No temporary file stays behind, not even after an interrupt.
    """
    check_free(path, overwrite=overwrite)
    # Not derived from the name, which may already be as long as the system allows.
    temporary = path.parent / f".blinddeblur-{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # some systems report a full disk only here
            _move(temporary, path, overwrite=overwrite)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: The file could not be written, because {_reason(error)}.") from error


def read_kernel(path: Path) -> npt.NDArray[np.float64]:
    """Read a blur kernel from a .npy file or a picture: float64 (height, width), odd sides, non-negative, sum 1.

    Colours are averaged and transparency is ignored. Small negative values become zero.
    An even side gets a row or column of zeros at its end.
    Raises KernelError, naming the file, when it is unreadable or no blur kernel.
    """
    try:
        data = _file_bytes(path)
        values = _array_of_npy(data) if path.suffix.lower() == ".npy" else _decoded(data, 1).pixels.mean(axis=2)
        return _checked_kernel(values)
    except (PhotoError, KernelError) as error:
        raise KernelError(f"{path}: {error}") from error


def write_kernel(kernel: Array, stem: Path, *, overwrite: bool = False) -> tuple[Path, Path]:
    """Write STEM.kernel.png, to look at (16-bit grey, its maximum white), and STEM.kernel.npy (float32, sum 1).

    kernel: (height, width), non-negative. Returns both paths. Raises EstimationError when it is no kernel, and
    OutputError as write_bytes does, before either file is written when one of them exists.
    """
    try:
        values = _checked_kernel(kernel)
    except KernelError as error:
        raise EstimationError(f"{stem}: No blur kernel was written. {error}") from error
    picture, array = kernel_paths(stem)
    for path in (picture, array):
        check_free(path, overwrite=overwrite)
    write_bytes(_npy(values), array, overwrite=overwrite)
    preview = (values / values.max()).astype(np.float32)[..., np.newaxis]
    write(Photo(preview, depth=16), picture, overwrite=overwrite)
    return picture, array


def kernel_paths(stem: Path) -> tuple[Path, Path]:
    """The picture and the array that write_kernel writes."""
    # Appended, since with_suffix would cut a name like "1.5 seconds" at its dot.
    return stem.with_name(f"{stem.name}.kernel.png"), stem.with_name(f"{stem.name}.kernel.npy")


def write_uncertainty(uncertainty: Array, stem: Path, *, overwrite: bool = False) -> tuple[Path, Path]:
    """Write STEM.uncertainty.png, to look at (16 bits, white is 0.1 and above), and STEM.uncertainty.npy (float32).

    uncertainty: (height, width, channels), standard deviations where white of the photo is 1; the array of a grey photo
    is (height, width). Returns both paths. Raises OutputError as write_bytes does, before either file is written when
    one of them exists.
    """
    picture, array = uncertainty_paths(stem)
    for path in (picture, array):
        check_free(path, overwrite=overwrite)
    write_bytes(_npy(uncertainty[..., 0] if uncertainty.shape[2] == 1 else uncertainty), array, overwrite=overwrite)
    preview = (uncertainty / _UNCERTAINTY_WHITE).astype(np.float32)
    write(Photo(preview, depth=16), picture, overwrite=overwrite)
    return picture, array


def uncertainty_paths(stem: Path) -> tuple[Path, Path]:
    """The picture and the array that write_uncertainty writes."""
    return stem.with_name(f"{stem.name}.uncertainty.png"), stem.with_name(f"{stem.name}.uncertainty.npy")


def _npy(values: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.astype(np.float32))
    return buffer.getvalue()


def _file_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PhotoError(f"The file cannot be read, because {_reason(error)}.") from error
    if not data:
        raise PhotoError("The file is empty. Copy it again from its source.")
    return data


def _decoded(data: bytes, minimum_side: int) -> Photo:
    header = read_header(data)
    _check_size(header.width, header.height, minimum_side)
    page = header.page
    picture, exif, icc = _decoded_by_opencv(data if page is None else _plain_tiff(page))
    orientation, exif = tifftags.upright(exif) if exif else (1, None)
    if page is not None:
        orientation, icc = page.number(tifftags.ORIENTATION, 1), page.raw(tifftags.ICC_PROFILE)
    picture = _turned(picture, orientation)
    alpha = np.ascontiguousarray(picture[..., 3]) if picture.shape[2] == 4 else None
    colours = picture[..., :1] if header.grey else picture[..., 2::-1]
    pixels = np.ascontiguousarray(colours, dtype=np.float32) / np.float32(np.iinfo(picture.dtype).max)
    return Photo(1 - pixels if header.inverted else pixels, alpha, picture.dtype.itemsize * 8, exif, icc)


def _check_size(width: int, height: int, minimum_side: int) -> None:
    if min(width, height) < minimum_side:
        raise PhotoError(f"The picture is {width}x{height} pixels. Each side must have at least {minimum_side}.")
    if width * height > MAXIMUM_PIXELS:
        limit = MAXIMUM_PIXELS // 1_000_000
        raise PhotoError(f"The picture is {width}x{height} pixels. Crop it to at most {limit} megapixels.")


def _plain_tiff(page: tifftags.Directory) -> bytes:
    """The TIFF file with tags that OpenCV applies differently from version to version, or wrongly, made neutral.

    It turns some orientations and refuses others, inverts white-is-zero at 8 bits but not at 16, and multiplies 8-bit
    colours by their transparency unless told that they are multiplied already.
    """
    neutral = {tifftags.ORIENTATION: 1, tifftags.EXTRA_SAMPLES: tifftags.ASSOCIATED_ALPHA}
    if page.number(tifftags.PHOTOMETRIC) == tifftags.WHITE_IS_ZERO:
        neutral[tifftags.PHOTOMETRIC] = tifftags.BLACK_IS_ZERO
    return page.with_numbers(neutral)


def _decoded_by_opencv(data: bytes) -> tuple[Array, bytes | None, bytes | None]:
    """(height, width, channels) in OpenCV's order (grey, BGR or BGRA) as stored, EXIF block, colour profile."""
    buffer = np.frombuffer(data, np.uint8)
    try:
        with _silent_opencv():
            decoded = cv2.imdecodeWithMetadata(buffer, flags=cv2.IMREAD_UNCHANGED)  # by name: OpenCV 5 moved it
    except cv2.error as error:
        raise PhotoError(_undecodable()) from error
    # The type stubs of OpenCV know neither that the picture is None on failure nor that it may be grey.
    picture = cast("Array | None", decoded[0])
    if picture is None or picture.dtype not in (np.uint8, np.uint16):
        raise PhotoError(_undecodable())
    metadata = {int(kind): np.asarray(content).tobytes() for kind, content in zip(decoded[1], decoded[2], strict=True)}
    exif = metadata.get(cv2.IMAGE_METADATA_EXIF, b"").removeprefix(_EXIF_PREFIX)
    icc = metadata.get(cv2.IMAGE_METADATA_ICCP, b"")
    return np.atleast_3d(picture), exif or None, icc or None


def _undecodable() -> str:
    return "The picture cannot be decoded: the file is damaged or of a rare kind. Copy it again or save it as a PNG."


@contextlib.contextmanager
def _silent_opencv() -> Iterator[None]:
    """Keep OpenCV from printing to stderr what we say in an exception. The level is global, so it is put back."""
    logging: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 has moved these functions
    level = logging.getLogLevel()
    logging.setLogLevel(_OPENCV_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


def _turned(picture: Array, orientation: int) -> Array:
    """The picture (height, width, ...) as it stands upright, from one stored with an EXIF orientation of 1 to 8."""
    if orientation in (5, 6, 7, 8):
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return picture


def _encoded(photo: Photo, ending: str) -> bytes | None:
    """The bytes of the file; None when the format cannot hold them."""
    depth = photo.depth if ending in _HOLDS_16_BITS else 8
    colours = _as_integers(photo.pixels, depth)
    alpha = None if photo.alpha is None else _as_integers(photo.alpha / np.float64(2**photo.depth - 1), depth)
    grey = colours.shape[2] == 1
    grey_alpha_png = grey and alpha is not None and ending == ".png"
    if alpha is None or grey_alpha_png:
        picture = colours[..., ::-1]
    else:
        picture = np.dstack([np.broadcast_to(colours, (*colours.shape[:2], 3))[..., ::-1], alpha])
    icc = _fitting_profile(photo.icc, grey=picture.shape[2] == 1 and ending != ".webp")
    data = _encoded_by_opencv(np.ascontiguousarray(picture), ending, photo.exif, icc)
    if data is None:
        return None
    if ending == ".tiff":
        return _completed_tiff(data, icc, has_alpha=alpha is not None)
    return _grey_alpha_png(data, colours[..., 0], alpha) if grey_alpha_png and alpha is not None else data


def _as_integers(values: Array, depth: int) -> Array:
    """Values of [0, 1] rounded to integers of 8 or 16 bits; what lies outside is clipped."""
    integers: Array = np.rint(np.clip(values, 0, 1) * (2**depth - 1)).astype(np.uint16 if depth == 16 else np.uint8)
    return integers


def _fitting_profile(icc: bytes | None, *, grey: bool) -> bytes | None:
    """The colour profile if it is one for grey or RGB pixels as they are; formats forbid any other."""
    colour_space = b"GRAY" if grey else b"RGB "
    return icc if icc is not None and icc[16:20] == colour_space else None


def _encoded_by_opencv(picture: Array, ending: str, exif: bytes | None, icc: bytes | None) -> bytes | None:
    blocks = {cv2.IMAGE_METADATA_EXIF: exif, cv2.IMAGE_METADATA_ICCP: icc} if ending in _HOLDS_METADATA else {}
    held = {kind: np.frombuffer(block, np.uint8) for kind, block in blocks.items() if block}
    settings = _ENCODER_SETTINGS.get(ending, [])
    try:
        with _silent_opencv():
            succeeded, data = cv2.imencodeWithMetadata(ending, picture, list(held), list(held.values()), settings)
    except cv2.error:
        return None
    return data.tobytes() if succeeded else None


def _completed_tiff(data: bytes, icc: bytes | None, *, has_alpha: bool) -> bytes:
    """A TIFF file of OpenCV with the tags that it leaves out: the meaning of the fourth channel, the colour profile."""
    added: dict[int, tuple[int, bytes]] = {}
    if has_alpha:
        # OpenCV writes in the byte order of the machine, as the first letters of the file say.
        unassociated = struct.pack("<H" if data.startswith(b"II") else ">H", tifftags.UNASSOCIATED_ALPHA)
        added[tifftags.EXTRA_SAMPLES] = (tifftags.SHORT, unassociated)
    if icc:
        added[tifftags.ICC_PROFILE] = (tifftags.UNDEFINED, icc)
    return tifftags.with_tags(data, added) if added else data


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


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError if the name is a folder's, or a file's that may not be overwritten."""
    # os.path, not Path: a path that cannot even be looked up is reported by the attempt to write.
    if os.path.isdir(path):
        raise OutputError(f"{path}: This is a folder. Name a file.")
    if not overwrite and os.path.lexists(path):
        raise OutputError(_exists(path))


def _exists(path: Path) -> str:
    return f"{path}: The file exists already. Choose another name, or allow to replace it with --overwrite."


def _move(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give the temporary file its final name. Raises OutputError if that is taken and may not be overwritten."""
    if not overwrite:
        try:
            # Unlike a rename, a link fails when the name was taken meanwhile.
            os.link(temporary, path)
            return
        except FileExistsError as error:
            raise OutputError(_exists(path)) from error
        except OSError:
            # A file system without links, such as FAT: a check just before the rename is the best there is.
            check_free(path, overwrite=False)
    os.replace(temporary, path)


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a part of its path is a file and no folder"
    if isinstance(error, PermissionError):
        return "the permission is missing"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return f"the system says: {error.strerror}"


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
