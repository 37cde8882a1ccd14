"""Tilt fields as a picture: the hue of a place says where it was moved, the saturation how far."""

import cv2
import numpy as np
from numpy.typing import NDArray

MOST_PANELS = 16  # frames that are shown, evenly chosen
SIDE = 240  # pixels of the long side of a frame's panel
GAP = 8  # pixels between panels, and around all
TITLE = 18  # pixels above a panel, for its number
WIDER = 1.4  # than high: the sheet, about
WHEEL = 120  # pixels of the wheel that says what the colours mean
GROUND, INK = 255, 60  # grey levels
FONT, SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
LONG = 99.5  # percentile of all lengths that has to fit into the scale; what is longer has the full colour
LEAST = 0.01  # pixels, of the scale: where nothing moves, all is white


def tilt_picture(tilts: NDArray[np.floating], spacing: int, height: int, width: int) -> NDArray[np.uint8]:
    """Panels of frames with their numbers, in rows, and a wheel that says what the colours mean.

    Args:
        tilts: (N, 2, h, w), row and column displacement in pixels, at the centres of cells.
        spacing: side of a cell in pixels.
        height, width: of a frame.

    Returns:
        (rows, columns, 3) uint8: white where nothing moves; the more colourful, the further, up to the radius that
        stands beside the wheel.
    """
    shown = np.unique(np.linspace(0, len(tilts) - 1, min(len(tilts), MOST_PANELS)).round().astype(int))
    scale = _scale(np.hypot(tilts[:, 0], tilts[:, 1]))
    panels = [_panel(tilts[index] / scale, spacing, height, width, f"frame {index}") for index in shown]
    columns = min(max(1, round(np.sqrt(WIDER * len(panels) * panels[0].shape[0] / panels[0].shape[1]))), len(panels))
    blank = np.full_like(panels[0], GROUND)
    panels += [blank] * (-len(panels) % columns)
    rows = [np.hstack(panels[start : start + columns]) for start in range(0, len(panels), columns)]
    sheet, legend = np.vstack(rows), _legend(scale)
    tall = max(len(sheet), len(legend))
    both = [np.pad(part, ((0, tall - len(part)), (0, 0), (0, 0)), constant_values=GROUND) for part in (sheet, legend)]
    return np.pad(np.hstack(both), ((GAP, 0), (GAP, 0), (0, 0)), constant_values=GROUND)


def coloured(field: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(2, H, W) displacements whose full length is 1 -> (H, W, 3) RGB.

    Right is red, and down, left and up are a quarter of the wheel further each.
    """
    hue = np.degrees(np.arctan2(field[0], field[1])) % 360
    saturation = np.hypot(field[0], field[1]).clip(max=1)
    colours = np.stack([hue, saturation, np.ones_like(hue)], axis=-1).astype(np.float32)
    return np.rint(255 * cv2.cvtColor(colours, cv2.COLOR_HSV2RGB)).astype(np.uint8)


def _scale(lengths: NDArray[np.floating]) -> float:
    """1, 2 or 5 times a power of ten, in pixels: the least that holds nearly all."""
    longest = max(float(np.percentile(lengths, LONG)), LEAST)
    power = 10.0 ** np.floor(np.log10(longest))
    return float(next((step * power for step in (1, 2, 5) if step * power >= longest), 10 * power))


def _panel(field: NDArray[np.floating], spacing: int, height: int, width: int, title: str) -> NDArray[np.uint8]:
    shrunk = SIDE / max(height, width)
    rows, columns = max(1, round(shrunk * height)), max(1, round(shrunk * width))
    # Where the pixels of the panel lie, counted in cells: the last cells may reach beyond the frame.
    row = ((np.arange(rows) + 0.5) * height / rows / spacing - 0.5).astype(np.float32)
    column = ((np.arange(columns) + 0.5) * width / columns / spacing - 0.5).astype(np.float32)
    places = np.meshgrid(column, row)
    looked_up = [
        cv2.remap(part.astype(np.float32), *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for part in field
    ]
    panel = np.full((TITLE + rows + GAP, columns + GAP, 3), GROUND, np.uint8)
    panel[TITLE : TITLE + rows, :columns] = coloured(np.stack(looked_up))
    cv2.rectangle(panel, (0, TITLE), (columns - 1, TITLE + rows - 1), (GROUND - INK,) * 3)
    _write(panel, title, 2, TITLE - 5)
    return panel


def _legend(scale: float) -> NDArray[np.uint8]:
    side = np.linspace(-1, 1, WHEEL, dtype=np.float32)
    field = np.stack(np.meshgrid(side, side, indexing="ij"))
    wheel = coloured(field)
    wheel[np.hypot(field[0], field[1]) > 1] = GROUND
    legend = np.full((2 * TITLE + WHEEL + GAP, WHEEL + GAP, 3), GROUND, np.uint8)
    legend[TITLE : TITLE + WHEEL, :WHEEL] = wheel
    cv2.circle(legend, (WHEEL // 2, TITLE + WHEEL // 2), WHEEL // 2 - 1, (INK,) * 3, 1, cv2.LINE_AA)
    _write(legend, f"radius: {scale:g} px", 2, TITLE + WHEEL + TITLE - 3)
    return legend


def _write(picture: NDArray[np.uint8], text: str, left: int, base: int) -> None:
    cv2.putText(picture, text, (left, base), FONT, SIZE, (INK,) * 3, 1, cv2.LINE_AA)
