"""Tilt fields as a picture: the hue of a place says where it was moved, the saturation how far."""

import cv2
import numpy as np
from numpy.typing import NDArray

from blinddeblur.pictures.canvas import GROUND, INK, Picture, as_bytes, below, beside, framed, sheet, written

MOST_PANELS = 16  # frames that are shown at most, evenly chosen
SIDE = 240  # pixels of the long side of a frame's panel
EDGE = 195  # the grey of the line around it
WIDER = 1.4  # how many times as wide as high the sheet is, about
WHEEL = 120  # pixels of the wheel that says what the colours mean
LONG = 99.5  # percentile of all lengths that has to fit into the scale; what is longer has the full colour
LEAST = 0.01  # pixels, of the scale: where nothing moves, all is white


def tilt_picture(tilts: NDArray[np.floating], spacing: int, height: int, width: int) -> Picture:
    """Draw panels of frames with their numbers, in rows, and a wheel that says what the colours mean.

    Args:
        tilts: (N, 2, h, w), row and column displacement in pixels, at the centres of cells.
        spacing: side of a cell in pixels.
        height, width: of a frame.

    Returns:
        (rows, columns, 3): white where nothing moves; the more colourful, the further, up to the radius that stands
        below the wheel.
    """
    shown = np.unique(np.linspace(0, len(tilts) - 1, min(len(tilts), MOST_PANELS)).round().astype(int))
    scale = _scale(np.hypot(tilts[:, 0], tilts[:, 1]))
    fields = zip(shown, (tilts[shown] / scale).astype(np.float32), strict=True)
    panels = [_panel(field, spacing, height, width, f"frame {index}") for index, field in fields]
    columns = min(max(1, round(np.sqrt(WIDER * len(panels) * panels[0].shape[0] / panels[0].shape[1]))), len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return framed(beside([sheet(rows, at=0), _legend(scale)], at=0))


def coloured(field: NDArray[np.floating]) -> Picture:
    """Colour displacements (2, H, W) whose full length is 1: (H, W, 3).

    Right is red, and down, left and up are a quarter of the wheel further each.
    """
    hue = np.degrees(np.arctan2(field[0], field[1])) % 360
    saturation = np.hypot(field[0], field[1]).clip(max=1)
    colours = np.stack([hue, saturation, np.ones_like(hue)], axis=-1).astype(np.float32)
    return as_bytes(cv2.cvtColor(colours, cv2.COLOR_HSV2RGB))


def _scale(lengths: NDArray[np.floating]) -> float:
    """Find the least of 1, 2 or 5 times a power of ten, in pixels, that nearly all lengths stay below."""
    longest = max(float(np.percentile(lengths, LONG)), LEAST)
    power = 10.0 ** np.floor(np.log10(longest))
    return float(next((step * power for step in (1, 2, 5) if step * power >= longest), 10 * power))


def _panel(field: NDArray[np.floating], spacing: int, height: int, width: int, title: str) -> Picture:
    """Draw a field (2, h, w) whose full length is 1 as large as a frame (height, width) appears, under a title."""
    shrunk = SIDE / max(height, width)
    rows, columns = max(1, round(shrunk * height)), max(1, round(shrunk * width))
    # Where the pixels of the panel lie, counted in cells: the last cells may reach beyond the frame.
    row = ((np.arange(rows) + 0.5) * height / rows / spacing - 0.5).astype(np.float32)
    column = ((np.arange(columns) + 0.5) * width / columns / spacing - 0.5).astype(np.float32)
    places = np.meshgrid(column, row)
    remapped = [cv2.remap(part, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for part in field]
    panel = coloured(np.stack(remapped))
    cv2.rectangle(panel, (0, 0), (columns - 1, rows - 1), (EDGE,) * 3)
    return below([written([title]), panel], gap=0, at=0)


def _legend(scale: float) -> Picture:
    """Draw the wheel, beginning where the panels do, and the length that its border means below it."""
    side = np.linspace(-1, 1, WHEEL, dtype=np.float32)
    field = np.stack(np.meshgrid(side, side, indexing="ij"))
    wheel = coloured(field)
    wheel[np.hypot(field[0], field[1]) > 1] = GROUND
    cv2.circle(wheel, (WHEEL // 2, WHEEL // 2), WHEEL // 2 - 1, (INK,) * 3, 1, cv2.LINE_AA)
    return below([written([""]), wheel, written([f"radius: {scale:g} px"])], gap=0, at=0)
