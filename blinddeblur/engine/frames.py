"""Frames of one scene as tensors, made when they are asked for, so that a long sequence takes little memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blinddeblur.engine.pixels import Pixels
from blinddeblur.errors import PhotoError, UsageError
from blinddeblur.tiles import Tile


class Frames(Sequence[Tensor]):
    """Frames as tensors (1, C, H, W) on the device, made when they are asked for; grey as (1, 1, H, W).

    Raises:
        UsageError: there are none.
        PhotoError: one that is no picture, or unlike the others in shape or type.
    """

    def __init__(self, arrays: Sequence[NDArray[Any]], device: torch.device) -> None:
        if len(arrays) == 0:
            raise UsageError("There are no frames. Give at least one.")
        first = np.asarray(arrays[0])
        for index, array in enumerate(arrays):
            if np.shape(array) != first.shape or np.asarray(array).dtype != first.dtype:
                raise PhotoError(
                    f"All frames must have one size and type: frame {index} is {np.shape(array)} of "
                    f"{np.asarray(array).dtype}, the first {first.shape} of {first.dtype}."
                )
        photos = [Pixels(array, device) for array in arrays]
        self.channels = max(photo.channels for photo in photos)
        self._photos = [photo if photo.channels == self.channels else photo.in_colour() for photo in photos]
        self.height, self.width = photos[0].height, photos[0].width

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self._photos[index].whole()

    def image(self, x: Tensor) -> Pixels:
        """An image (1, C, H, W) in the shape and type of the frames."""
        like = self._photos[0].like()
        like.write(0, x)
        return like


class Grey(Sequence[Tensor]):
    """The mean of the channels of a part of each frame."""

    def __init__(self, frames: Frames, part: Tile) -> None:
        self._frames, self._part = frames, part

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self._part.of(self._frames[index]).mean(dim=1, keepdim=True)
