"""One picture of before, after and kernel side by side, to look at."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 960  # pixels of a photo's long side: two photos and a kernel fill a wide screen
GAP = 8  # pixels between two of them
LINE = 2  # and between two kernels of a grid
GROUND = 255  # around them: white, against which the black of a kernel shows how large its array is


def compare(
    before: NDArray[Any], after: NDArray[Any], kernel: NDArray[np.floating], side: int = SIDE
) -> NDArray[np.uint8]:
    """Photo, restored photo and kernel, from left to right on white.

    Args:
        before, after: (H, W) or (H, W, C) with one or three channels, uint8, uint16 or floating point in [0, 1].
        kernel: (K, K), not negative.
        side: pixels of the long side that larger photos are shrunk to.

    Returns:
        (height, width, C) uint8. The kernel is grey, its maximum white, and no larger than the short side of a photo,
        unless even its own pixels are.
    """
    photos = [fitted(before, side), fitted(after, side)]
    panels = [*photos, enlarged(kernel, min(photos[0].shape[:2]))]
    heights, widths, channels = zip(*(panel.shape for panel in panels), strict=True)
    canvas = np.full((max(heights), sum(widths) + GAP * (len(panels) - 1), max(channels)), GROUND, np.uint8)
    left = 0
    for panel in panels:
        height, width = panel.shape[:2]
        top = (len(canvas) - height) // 2
        canvas[top : top + height, left : left + width] = panel
        left += width + GAP
    return canvas


def fitted(picture: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """A photo, (H, W) or (H, W, C), as (h, w, C) uint8, shrunk where its long side is above `side` pixels."""
    picture = np.atleast_3d(picture)
    height, width, channels = picture.shape
    scale = side / max(height, width)
    if scale < 1:
        height, width = (max(1, round(scale * length)) for length in (height, width))
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, channels)
    white = np.iinfo(picture.dtype).max if picture.dtype.kind == "u" else 1
    return np.rint(255 * np.clip(picture / np.float32(white), 0, 1)).astype(np.uint8)


def enlarged(kernel: NDArray[np.floating], side: int) -> NDArray[np.uint8]:
    """A kernel, (K, K), as (k, k, 1) uint8, its maximum white, each pixel a square: as large as `side` allows."""
    factor = max(1, side // max(kernel.shape))
    grey = np.rint(255 * kernel / kernel.max()).astype(np.uint8)[..., np.newaxis]
    return grey.repeat(factor, axis=0).repeat(factor, axis=1)


def drawn(kernel_map: NDArray[np.floating], side: int = SIDE) -> NDArray[np.uint8]:
    """The kernels of a photo whose blur varies, each where it belongs, as one picture with thin white lines between.

    Args:
        kernel_map: (R, C, K, K), not negative.
        side: pixels of the long side that the picture fills as far as whole multiples of a pixel do.

    Returns:
        (height, width) uint8; the maximum of each kernel is white, since a long kernel is faint beside a short one.
    """
    rows, columns, size = kernel_map.shape[:3]
    each = max(size, side // max(rows, columns) - LINE)
    tiles = np.stack([enlarged(kernel, each)[..., 0] for kernel in kernel_map.reshape(-1, size, size)])
    lined = np.pad(tiles, ((0, 0), (0, LINE), (0, LINE)), constant_values=GROUND)
    step = lined.shape[-1]
    picture = lined.reshape(rows, columns, step, step).swapaxes(1, 2).reshape(rows * step, columns * step)
    return picture[:-LINE, :-LINE]
