"""What the pixels of a photo say of the light that fell on them; y = crop(k * x) + n is not quite true of all.

A clipped pixel only says that the blurred scene was at least so bright. And light is what blurs, while pixels are
sRGB-encoded: noise that is even over the pixels is not even over the light.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

CLIPPED = (1.5 / 255, 253.5 / 255)  # pixels outside have lost their noise

KNEE = 0.04045  # of sRGB (IEC 61966-2-1): linear below, a power above, ((x + OFFSET) / (1 + OFFSET))^GAMMA
TOE = 12.92  # sRGB over light below the knee
OFFSET = 0.055  # added to sRGB before the power
GAMMA = 2.4  # exponent above the knee

# A photo differs from the blurred image by more than its noise: a kernel is never quite true, and compression and
# resampling hide the noise but not the misfit. So many times the noise, and at least so much, in image units; chosen on
# Levin's photos and on Kodak's.
TRUE_KERNEL = (1.5, 0.006)  # under a kernel that is taken as true
WRONG_KERNEL = (3.0, 0.01)  # under one that is still looked for


@dataclass(frozen=True)
class Measurement:
    """A blurred photo: its pixels, and what they are worth.

    Attributes:
        y: (B, C, H, W) in [0, 1], sRGB-encoded.
        clipped: where the scene may have been brighter than y; boolean, in the shape of y. Black pixels are not
            counted: a scene is never darker than black.
        linear: whether linear light was blurred, as in a camera, or the encoded values themselves.
    """

    y: Tensor
    clipped: Tensor
    linear: bool

    @classmethod
    def of(cls, y: Tensor, linear: bool = False) -> "Measurement":
        """The measurement of pixels (B, C, H, W)."""
        return cls(y, y > CLIPPED[1], linear)

    @cached_property
    def has_clipped(self) -> bool:
        """Whether any pixel is clipped."""
        return bool(self.clipped.any())

    def map(self, part: Callable[[Tensor], Tensor]) -> "Measurement":
        """The measurement of a part of the frame."""
        return replace(self, y=part(self.y), clipped=part(self.clipped))

    def grey(self) -> "Measurement":
        """The mean over the channels, (B, 1, H, W), clipped where any of them is."""
        return replace(self, y=self.grey_of(self.y), clipped=self.clipped.any(dim=1, keepdim=True))

    def grey_of(self, x: Tensor) -> Tensor:
        """The mean over the channels of an image x, of what was blurred: (B, C, H, W) -> (B, 1, H, W)."""
        mean = self.light(x).mean(dim=1, keepdim=True)
        return encoded(mean) if self.linear else mean

    def light(self, x: Tensor) -> Tensor:
        """What was blurred, of an encoded image x of any size: linear light, or x itself."""
        return decoded(x) if self.linear else x

    def slope(self, x: Tensor) -> Tensor:
        """The derivative of light: how much more a change of x counts in light; a single 1 where light is x itself."""
        return decoding_slope(x) if self.linear else x.new_ones(())


def cut_off(pixels: Tensor) -> Tensor:
    """Which pixels in [0, 1] are so dark or so bright that their noise is cut off."""
    return (pixels < CLIPPED[0]) | (pixels > CLIPPED[1])


def decoded(x: Tensor) -> Tensor:
    """sRGB to linear light, going on beyond white, and below black with the sign, as scRGB does (IEC 61966-2-2)."""
    size = x.abs()
    return x.sign() * torch.where(size <= KNEE, size / TOE, ((size + OFFSET) / (1 + OFFSET)) ** GAMMA)


def encoded(light: Tensor) -> Tensor:
    """The inverse of `decoded`."""
    size = light.abs()
    curve = (1 + OFFSET) * size ** (1 / GAMMA) - OFFSET
    return light.sign() * torch.where(size <= KNEE / TOE, TOE * size, curve)


def decoding_slope(x: Tensor) -> Tensor:
    """The derivative of `decoded`."""
    size = x.abs()
    return torch.where(size <= KNEE, 1 / TOE, GAMMA / (1 + OFFSET) * ((size + OFFSET) / (1 + OFFSET)) ** (GAMMA - 1))


def model_error(sigma: float, kernel: tuple[float, float] = TRUE_KERNEL) -> float:
    """Standard deviation of what the best image leaves of a photo with noise sigma, both in image units."""
    return math.hypot(kernel[0] * sigma, kernel[1])
