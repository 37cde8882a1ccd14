"""Array <-> tensors, a tile at a time, so that a photo of any size takes little memory besides its own."""

from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blinddeblur.errors import EstimationError, PhotoError
from blinddeblur.settings import MINIMUM_SIDE
from blinddeblur.tiles import Tile, evenly, grid

PATCH_SIDE = 512  # pixels of the patches that stand for a large photo; whole blocks of JPEG
PATCHES = 16  # that stand for a large photo
BEYOND = 0.5  # by which floating point photos may leave [0, 1]: the overshoot of a resize, not another scale


class Pixels:
    """A photo, or a place for one, read and written in tiles.

    Grey that is stored as three equal channels counts as one: it is a third of the work, and stays grey.

    Attributes:
        array: (H, W), (H, W, 1) or (H, W, 3), as given.
        height, width, channels: of it; channels is 1 for grey.

    Raises PhotoError for an array that is no photo, or too small.
    """

    def __init__(self, array: NDArray[Any], device: torch.device, grey: bool | None = None) -> None:
        values = np.asarray(array)
        planes = values[..., None] if values.ndim == 2 else values
        if planes.ndim != 3 or planes.shape[2] not in (1, 3) or planes.dtype.kind not in "uf":
            raise PhotoError(
                f"A photo is an array (H, W), (H, W, 1) or (H, W, 3) of uint8, uint16 or floating point in [0, 1]; "
                f"this is {values.shape} of {values.dtype}. Take transparency off first."
            )
        self.height, self.width, stored = planes.shape
        if min(self.height, self.width) < MINIMUM_SIDE:
            raise PhotoError(
                f"The picture is {self.width}x{self.height} pixels. Each side must have at least {MINIMUM_SIDE}."
            )
        if planes.dtype.kind == "f" and not np.isfinite(planes).all():
            raise PhotoError("The photo contains values that are not numbers.")
        if planes.dtype.kind == "f" and not (planes.min() >= -BEYOND and planes.max() <= 1 + BEYOND):
            raise PhotoError(
                f"Floating point photos lie in [0, 1]; this one goes from {planes.min():g} to {planes.max():g}. "
                "Divide it by its white."
            )
        self.array, self.device = values, device
        self._planes = planes
        self._white = np.float32(np.iinfo(planes.dtype).max if planes.dtype.kind == "u" else 1)
        if grey is None:
            grey = stored == 1 or all(np.array_equal(planes[..., 0], planes[..., c]) for c in (1, 2))
        self.channels = 1 if grey else 3

    def like(self) -> "Pixels":
        """A black photo of the same shape and type, to write to."""
        return Pixels(np.zeros_like(self.array), self.device, grey=self.channels == 1)

    def in_colour(self) -> "Pixels":
        """The same photo, of whose channels none is left out although they are equal."""
        other = copy(self)
        other.channels = 3
        return other

    def of(self, tile: Tile) -> Tensor:
        """(1, C, h, w) float32 in [0, 1] on the device: the part under a tile."""
        part = self._planes[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width, : self.channels]
        values = np.ascontiguousarray(part.transpose(2, 0, 1)).astype(np.float32) / self._white
        return torch.from_numpy(values)[None].to(self.device)

    def whole(self) -> Tensor:
        """The whole photo, (1, C, H, W) float32 in [0, 1], on the device."""
        return self.of(Tile(0, 0, self.height, self.width))

    def values(self) -> NDArray[np.float32]:
        """The whole photo as an array, (H, W, C) float32 in [0, 1]."""
        return self._planes[..., : self.channels].astype(np.float32) / self._white

    def shaped(self, values: Tensor) -> NDArray[np.float32]:
        """Bring a map (C, H, W) into the shape of the array; grey fills all its channels."""
        planes = values.permute(1, 2, 0).cpu().numpy()
        return np.broadcast_to(planes, self._planes.shape).reshape(self.array.shape)

    def patches(self) -> Tensor:
        """(B, C, h, w): the whole of a photo that is not large; of others patches that are spread over it evenly."""
        if self.height * self.width <= PATCHES * PATCH_SIDE**2:
            return self.whole()
        tiles = grid(self.height, self.width, PATCH_SIDE, 0)
        chosen = [tiles[index] for index in evenly(len(tiles) - 1, PATCHES)]
        on_blocks = [Tile(t.top // 16 * 16, t.left // 16 * 16, t.height, t.width) for t in chosen]
        return torch.cat([self.of(tile) for tile in on_blocks])

    def write(self, top: int, band: Tensor) -> None:
        """Write rows (1, C, h, W) from row `top` on, clipped to [0, 1] and rounded.

        Raises EstimationError where something in them is not a number.
        """
        if not torch.isfinite(band).all():
            raise EstimationError(
                "The restored photo holds values that are not numbers. Check the weights of its prior with "
                "`blinddeblur download-weights --verify`, or choose another --prior."
            )
        values = band[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy() * self._white
        rounded = np.rint(values) if self._planes.dtype.kind == "u" else values
        self._planes[top : top + band.shape[-2]] = rounded.astype(self._planes.dtype)
