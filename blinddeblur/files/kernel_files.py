"""Kernel files: read as float64 arrays, and written as a picture to look at and an array; so are uncertainty maps.

Fields of tilts are arrays as well. The bytes are the caller's.
"""

import io
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from blinddeblur.errors import EstimationError, KernelError, PhotoError
from blinddeblur.files.decoding import decode, read_bytes
from blinddeblur.files.encoding import encode
from blinddeblur.files.names import kernel_paths, uncertainty_paths
from blinddeblur.files.photo import Array, Photo

_NEGATIVE_SHARE = 0.1  # of a kernel's mass: what a least-squares estimate leaves, and is taken as zero

_UNCERTAINTY_WHITE = 0.1  # what is white in the picture of an uncertainty map: most maps lie below, and all compare


def read_kernel(path: Path) -> npt.NDArray[np.float64]:
    """Read a blur kernel from a .npy file or a picture: float64 (height, width), odd sides, non-negative, sum 1.

    Colours are averaged and transparency is ignored. Small negative values become zero.
    An even side gets a row or column of zeros at its end.
    Raises KernelError, naming the file, when it is unreadable or no blur kernel.
    """
    try:
        data = read_bytes(path)
        if path.suffix.lower() == ".npy":
            values = _array_of_npy(data)
        else:
            values = decode(data, least_side=1).pixels.mean(axis=2)
        return _checked_kernel(values)
    except (PhotoError, KernelError) as error:
        raise KernelError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error


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


def uncertainty_files(uncertainty: Array, stem: Path) -> dict[Path, bytes]:
    """STEM.uncertainty.png, to look at (16 bits, white is 0.1 and above), and STEM.uncertainty.npy (float32).

    uncertainty: (height, width, channels), standard deviations where white of the photo is 1; the array of a grey photo
    is (height, width).
    """
    picture, array = uncertainty_paths(stem)
    preview = (uncertainty / _UNCERTAINTY_WHITE).astype(np.float32)
    values = uncertainty[..., 0] if uncertainty.shape[2] == 1 else uncertainty
    return {picture: encode(Photo(preview, depth=16), ".png"), array: _npy(values)}


def npz(**arrays: Any) -> bytes:
    """A compressed archive of arrays, by their names."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _npy(values: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.astype(np.float32))
    return buffer.getvalue()


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
