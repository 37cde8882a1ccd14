"""Kernels that a user gives, and sizes of kernels that a user asks for, as far as they fit the photo."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.engine.pixels import Pixels
from blinddeblur.errors import KernelError
from blinddeblur.physics import kernels


def given_kernel(kernel: NDArray[Any], photo: Pixels) -> Tensor:
    """A kernel of the user's as (K, K) on the device, square, odd and normalised.

    Raises KernelError where it is no table of numbers, or too large for the photo.
    """
    values = torch.from_numpy(np.asarray(kernel, dtype=np.float32))
    if values.ndim != 2 or not torch.isfinite(values).all() or not values.clamp_min(0).sum() > 0:
        raise KernelError("A kernel is a table of finite numbers with something positive in it.")
    rows, columns = values.shape
    size = max(rows, columns) // 2 * 2 + 1
    top, left = (size - rows) // 2, (size - columns) // 2
    square = F.pad(values, (left, size - columns - left, top, size - rows - top))
    limit = kernels.largest((photo.height, photo.width))
    if size > limit:
        raise KernelError(f"The kernel has {rows}x{columns} pixels, too many for this photo: at most {limit} fit.")
    return kernels.normalise(square).to(photo.device)


def checked_size(size: int | None, photo: Pixels) -> int | None:
    """The size that was asked for. Raises KernelError where a kernel of that size does not fit into the photo."""
    limit = kernels.largest((photo.height, photo.width))
    if size is not None and size > limit:
        raise KernelError(f"A kernel of {size} pixels is too large for this photo: at most {limit} fit.")
    return size
