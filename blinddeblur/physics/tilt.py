"""Tilt: each point of the image is seen a little beside its place, y(p) = x(p + phi(p)), as through hot air.

phi is a field (B, 2, H, W) of row and column displacements in pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(x: Tensor, tilt: Tensor) -> Tensor:
    """T_phi(x): the image seen through a tilt, (B, C, H, W) with B the larger of the two.

    By cubic interpolation, differentiable in both. What lies beyond x continues its edge.

    Args:
        x: (B, C, H + 2 m, W + 2 m) with m >= 0: it may reach beyond the field, evenly on all sides.
        tilt: (B, 2, H, W) in pixels, or (1, 2, H, W) for all.
    """
    height, width = tilt.shape[-2:]
    rows, columns = x.shape[-2:]
    top, left = (rows - height) / 2, (columns - width) / 2
    row = torch.arange(height, device=x.device, dtype=x.dtype)[:, None] + top + tilt[:, 0]
    column = torch.arange(width, device=x.device, dtype=x.dtype) + left + tilt[:, 1]
    # grid_sample counts from -1 to 1 between the outer edges of the outer pixels, columns first
    places = torch.stack([(2 * column + 1) / columns - 1, (2 * row + 1) / rows - 1], dim=-1)
    number = max(len(x), len(tilt))
    return F.grid_sample(
        x.expand(number, -1, -1, -1),
        places.expand(number, -1, -1, -1),
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )


def within(tilt: Tensor, margin: int = 0) -> Tensor:
    """1 where p + phi(p) lies on an image that reaches beyond the field by `margin`, else 0: (B, 1, H, W)."""
    height, width = tilt.shape[-2:]
    row = torch.arange(height, device=tilt.device)[:, None] + tilt[:, :1]
    column = torch.arange(width, device=tilt.device) + tilt[:, 1:]
    inside = (row >= -margin) & (row <= height - 1 + margin) & (column >= -margin) & (column <= width - 1 + margin)
    return inside.to(tilt.dtype)


def inverse(tilt: Tensor, cell: int = 1, iterations: int = 8) -> Tensor:
    """psi with T_psi T_phi = 1, within the frame: phi(p + psi(p)) + psi(p) = 0, by repeating psi = -phi(p + psi).

    Converges where the field does not fold: its slope has to stay below 1.

    Args:
        tilt: (B, 2, h, w) in pixels, at the centres of square cells.
        cell: their side in pixels.
        iterations: how often.
    """
    result = -tilt
    for _ in range(iterations):
        result = -warp(tilt, result / cell)
    return result


def enlarged(tilt: Tensor, height: int, width: int, cell: int) -> Tensor:
    """A field at the centres of square cells, for all pixels: (B, 2, h, w) -> (B, 2, height, width).

    Args:
        height, width: of the frame; the last cells may reach beyond it.
        cell: side of a cell in pixels.
    """
    return F.interpolate(tilt, scale_factor=cell, mode="bilinear", align_corners=False)[..., :height, :width]
