"""Colour through a prior of grey images: brightness and two opponent colours, each an image of its own.

The axes are orthogonal, so that noise which is white over red, green and blue is white over them. Most of what is to be
seen is in the brightness, where three channels tell of it together; colours vary little and slowly, and are denoised at
half the size (as JPEG stores them), where averaging takes half of their noise away.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from blinddeblur.priors import half_size

# Brightness, red against blue, and green against both, so that white is 1 and colours lie in [-0.5, 0.5].
AXES = ((1 / 3, 1 / 3, 1 / 3), (1 / 2, 0, -1 / 2), (1 / 4, -1 / 2, 1 / 4))
GREY = 0.5  # where colours are centred for a prior that knows [0, 1]


def denoised(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor) -> Tensor:
    """The noise-free image (B, 3, H, W) estimated from a noisy one.

    Args:
        denoise: of grey images (B, 1, H, W), each with noise of its own standard deviation (B,).
        x: (B, 3, H, W).
        sigma: standard deviation of its noise, (B,).
    """
    axes = x.new_tensor(AXES)
    brightness, red, green = torch.einsum("ac,bchw->abhw", axes, x)
    of_brightness, of_red, of_green = axes.norm(dim=1)[:, None] * sigma
    colours = half_size.denoised(denoise, torch.cat([red, green])[:, None] + GREY, torch.cat([of_red, of_green])) - GREY
    parts = torch.cat([denoise(brightness[:, None], of_brightness), *colours.chunk(2)], dim=1)
    return torch.einsum("ca,bahw->bchw", torch.linalg.inv(axes), parts)
