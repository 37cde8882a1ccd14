"""How image and kernel came about, as an animated GIF: what the engine's callback is told, thinned and kept small.

The image is on the left and the kernel on the right. Nothing is written here; the bytes are the caller's.
"""

import io
from typing import Any

import cv2
import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from blinddeblur.progress import Step
from blinddeblur.tiles import Tile

SIDE = 480  # pixels of the square that image and kernel each have
STEPS = 100  # of a sampler that are shown at most: ten seconds
FIRST, BETWEEN, LAST = 1000, 100, 2000  # milliseconds for which a frame stands
GROUND = 255  # around both: white, so that the 256 colours of a frame hold the white of the kernel's maximum


class Recording:
    """A callback for Engine.restore that makes an animation of what it is told.

    Example:
        >>> recording = Recording()
        >>> result = Engine().restore(pixels, callback=recording)  # doctest: +SKIP
        >>> Path("photo.gif").write_bytes(recording.gif())  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._kept: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []  # image and kernel
        self._shape: tuple[int, ...] = ()  # height and width of what is shown

    def __call__(self, step: Step) -> None:
        """Keep a state of the sampler: start and result always, and at most STEPS of its steps, evenly.

        Samplers see beyond the frame by the kernel's radius: what is shown has the size of the first image.
        """
        index, total = step.index, step.total
        if 0 <= index < total and (index + 1) * STEPS // total == index * STEPS // total:
            return
        height, width = step.image.shape[-2:]
        self._shape = self._shape or (height, width)
        frame = Tile((height - self._shape[0]) // 2, (width - self._shape[1]) // 2, *self._shape)
        image = _within_side(frame.of(step.image[0]).detach().permute(1, 2, 0).float().cpu().numpy()).clip(0, 1)
        kernel = _within_side(step.kernel.detach().float().cpu().numpy()[..., None])
        self._kept.append((_as_bytes(image), _as_bytes(kernel / max(kernel.max(), np.finfo(np.float32).tiny))))

    def gif(self) -> bytes:
        """The animation: 960x480 pixels, endless, its first and last frame held."""
        between = len(self._kept) - 2
        durations = [FIRST, *[BETWEEN] * between, LAST] if between >= 0 else LAST
        file = io.BytesIO()
        writer: Any = iio.imopen(file, "w", extension=".gif", plugin="pillow")
        with writer:
            for image, kernel in self._kept:  # at 8 bits a pixel, frames wait in a third of the memory
                writer.write(_side_by_side(image, kernel), bits=8, duration=durations, loop=0)
        return file.getvalue()


def _within_side(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, C), shrunk where it is larger than the square."""
    scale = SIDE / max(picture.shape)
    if scale >= 1:
        return picture
    height, width = (max(1, round(scale * side)) for side in picture.shape[:2])
    shrunk = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    return shrunk.reshape(height, width, -1)


def _as_bytes(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(255 * np.nan_to_num(picture)).astype(np.uint8)  # when a sampler diverges, the engine says so


def _side_by_side(image: NDArray[np.uint8], kernel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(SIDE, 2 SIDE, 3) of two (H, W, C), each enlarged by a whole factor, so that pixels stay pixels."""
    canvas = np.full((SIDE, 2 * SIDE, 3), GROUND, np.uint8)
    for left, picture in ((0, image), (SIDE, kernel)):
        factor = SIDE // max(picture.shape[:2])
        large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
        top, left = (SIDE - large.shape[0]) // 2, left + (SIDE - large.shape[1]) // 2
        canvas[top : top + large.shape[0], left : left + large.shape[1]] = large
    return canvas
