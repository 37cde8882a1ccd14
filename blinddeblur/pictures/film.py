"""Frames as a film: an MP4 or an animated GIF. The bytes are the caller's."""

import io
import tempfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import imageio.v3 as iio
import numpy as np

from blinddeblur.errors import OutputError
from blinddeblur.files.photo import Array, as_integers
from blinddeblur.files.quiet import silent_opencv

ENDINGS = (".mp4", ".gif")
FPS = 10.0  # frames per second where the source does not say how many
_FASTEST_GIF = 20  # milliseconds between two frames; players take less for a mistake
_CODEC = "mp4v"  # MPEG-4, which every build of OpenCV writes
_CANNOT = "This installation of OpenCV cannot write the film as MP4. Name a file that ends in .gif instead."


def film(frames: Iterable[Array], fps: float, ending: str) -> bytes:
    """The bytes of a film. Raises OutputError where the codec is missing, or the film could not be written.

    Args:
        frames: (height, width, 1 or 3) of one shape and type, uint8 or uint16; taken one by one. At least one.
        fps: frames per second.
        ending: ".mp4" (in which an odd side is a pixel longer: its last row or column twice), or ".gif".
    """
    plain = (as_integers(frame, 8) for frame in frames)
    if ending == ".gif":
        return gif(plain, max(_FASTEST_GIF, round(1000 / fps)))
    return _mp4(plain, fps)


def gif(frames: Iterable[Array], durations: int | list[int]) -> bytes:
    """The bytes of an endless animation.

    Args:
        frames: (height, width, 1 or 3) uint8 of one shape; taken one by one.
        durations: milliseconds for which frames stand, of all or of each.
    """
    file = io.BytesIO()
    writer: Any = iio.imopen(file, "w", extension=".gif", plugin="pillow")
    with writer:
        for frame in frames:
            one_plane = frame[..., 0] if frame.shape[2] == 1 else frame
            # At 8 bits a pixel, frames wait in a third of the memory.
            writer.write(one_plane, bits=8, duration=durations, loop=0)
    return file.getvalue()


def _mp4(frames: Iterable[Array], fps: float) -> bytes:
    remaining = iter(frames)
    first = next(remaining)
    height, width = (side + side % 2 for side in first.shape[:2])
    with tempfile.TemporaryDirectory(prefix="blinddeblur-") as folder:
        path = Path(folder) / "film.mp4"
        with silent_opencv():
            code = cv2.VideoWriter.fourcc(*_CODEC)
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, (width, height))
        if not writer.isOpened():
            raise OutputError(_CANNOT)
        number = 0
        for frame in chain([first], remaining):
            colours = np.broadcast_to(frame, (*frame.shape[:2], 3))[..., ::-1]
            padded = np.pad(colours, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), "edge")
            with silent_opencv():
                writer.write(padded)
            number += 1
        with silent_opencv():
            writer.release()
            # The writer says nothing where the disk is full.
            written = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FRAME_COUNT)
        if written != number:
            raise OutputError(f"The film could not be written to {folder}, where it is made. Make room there.")
        return path.read_bytes()
