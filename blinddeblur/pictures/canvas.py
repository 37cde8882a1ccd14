"""Pictures on white, (H, W, C) uint8: made of photos and kernels, brought to a size, and laid out in rows."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

GROUND = 255  # white, which shows how large a kernel's array is: that is black at its borders
INK = 40  # the grey of letters
GAP = 8  # pixels between two pictures
LINE = 16  # pixels from one line of text to the next
FONT, SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42  # of letters; the size is OpenCV's scale


def as_bytes(values: NDArray[Any], white: float = 1) -> Picture:
    """Turn values from 0 to `white` into 0 to 255; what lies outside is clipped, and what is no number is black."""
    return np.rint(np.nan_to_num(np.float32(255) * values / white).clip(0, 255)).astype(np.uint8)


def of_kernel(kernel: NDArray[np.floating]) -> Picture:
    """Show a kernel, (K, K) and not negative, as (K, K, 1), its maximum white."""
    return as_bytes(kernel, max(kernel.max(), np.finfo(np.float32).tiny))[..., np.newaxis]


def enlarged(picture: Picture, side: int) -> Picture:
    """Make each pixel a square, as large as a long side of `side` pixels allows, or leave the picture as it is."""
    factor = max(1, side // max(picture.shape[:2]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def fitted(photo: NDArray[Any], side: int) -> Picture:
    """Shrink a photo, (H, W) or (H, W, C), of integers or floats in [0, 1], to a long side of `side` pixels at most."""
    photo = np.atleast_3d(photo)
    height, width, channels = photo.shape
    scale = side / max(height, width)
    if scale < 1:
        height, width = (max(1, round(scale * length)) for length in (height, width))
        photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, channels)
    return as_bytes(photo, np.iinfo(photo.dtype).max if photo.dtype.kind == "u" else 1)


def placed(picture: Picture, height: int, width: int, at: float = 0.5) -> Picture:
    """Put a picture on white, (height, width, C): at 0 into the upper left corner, at 0.5 into the middle."""
    down, right = height - picture.shape[0], width - picture.shape[1]
    top, left = int(at * down), int(at * right)
    return np.pad(picture, ((top, down - top), (left, right - left), (0, 0)), constant_values=GROUND)


def beside(pictures: Sequence[Picture], gap: int = GAP, at: float = 0.5) -> Picture:
    """Lay out pictures from left to right, `gap` pixels apart: lower ones at 0 at the top, at 0.5 in the middle.

    The canvas has the most channels of all, and grey pictures fill each of them.
    """
    heights, widths, channels = zip(*(picture.shape for picture in pictures), strict=True)
    canvas = np.full((max(heights), sum(widths) + gap * (len(pictures) - 1), max(channels)), GROUND, np.uint8)
    left = 0
    for picture, height, width in zip(pictures, heights, widths, strict=True):
        top = int(at * (len(canvas) - height))
        canvas[top : top + height, left : left + width] = picture
        left += width + gap
    return canvas


def below(pictures: Sequence[Picture], gap: int = GAP, at: float = 0.5) -> Picture:
    """Lay out pictures from top to bottom, otherwise as `beside` does."""
    return beside([picture.swapaxes(0, 1) for picture in pictures], gap, at).swapaxes(0, 1)


def sheet(rows: Sequence[Sequence[Picture]], gap: int = GAP, at: float = 0.5) -> Picture:
    """Lay out rows of pictures from top to bottom; they may differ in length."""
    return below([beside(row, gap, at) for row in rows], gap, at)


def framed(picture: Picture, width: int = GAP) -> Picture:
    """Put a white frame around a picture, `width` pixels on each side."""
    return placed(picture, len(picture) + 2 * width, picture.shape[1] + 2 * width)


def written(text: Sequence[str]) -> Picture:
    """Write lines of text, (H, W, 1), as wide as the longest of them."""
    width = max(1, *(cv2.getTextSize(line, FONT, SIZE, 1)[0][0] for line in text))
    picture = np.full((LINE * len(text), width, 1), GROUND, np.uint8)
    for number, line in enumerate(text, start=1):
        cv2.putText(picture, line, (0, LINE * number - 4), FONT, SIZE, (INK,), 1, cv2.LINE_AA)
    return picture
