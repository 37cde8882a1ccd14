"""What became of a photo, to look at: before, after and kernel side by side, and kernels where they belong."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from blinddeblur.pictures.canvas import Picture, beside, enlarged, fitted, of_kernel, sheet

SIDE = 960  # pixels of the long side of a photo: two of them and a kernel fill a wide screen
LINE = 2  # pixels between two kernels of a grid


def compare(before: NDArray[Any], after: NDArray[Any], kernel: NDArray[np.floating], side: int = SIDE) -> Picture:
    """Show photo, restored photo and kernel, from left to right on white.

    Args:
        before, after: (H, W) or (H, W, C) with one or three channels, uint8, uint16 or floating point in [0, 1].
        kernel: (K, K), not negative.
        side: pixels of the long side that larger photos are shrunk to.

    Returns:
        (height, width, C). The kernel is grey, its maximum white, and no larger than the short side of a photo, unless
        even its own pixels are.
    """
    photos = [fitted(before, side), fitted(after, side)]
    return beside([*photos, enlarged(of_kernel(kernel), min(photos[0].shape[:2]))])


def drawn(kernel_map: NDArray[np.floating], side: int = SIDE) -> Picture:
    """Show the kernels of a photo whose blur varies, each where it belongs, with thin white lines between them.

    Returns (height, width, 1); the maximum of each kernel is white, since a long kernel is faint beside a short one.

    Args:
        kernel_map: (R, C, K, K), not negative.
        side: pixels of the long side that the picture fills as far as whole multiples of a pixel do.
    """
    each = side // max(kernel_map.shape[:2]) - LINE
    return sheet([[enlarged(of_kernel(kernel), each) for kernel in row] for row in kernel_map], LINE)
