"""A contact sheet: the same crop of every contender's picture side by side, a row for each case, to look at."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from blinddeblur.engine.pipeline import informative_crop
from blinddeblur.engine.pixels import Pixels
from blinddeblur.files import encoding
from blinddeblur.files.photo import Photo
from blinddeblur.pictures.comparison import enlarged, fitted
from blinddeblur.tiles import Tile, evenly

MOST_ROWS = 12  # cases that are shown, spread evenly over all
SIDE = 160  # pixels of a crop at most
INSET = 56  # pixels of a kernel in its corner
FAINT = 0.02  # of a kernel's maximum: where less than that lies around it, it is cut away
TRUTH, BLURRED = "truth", "blurred"  # pictures in which the crop is chosen, the first that there is
KERNEL = " kernel"  # after the name of the picture that it lies in

GAP = 6  # pixels between pictures, and around all
LINE = 16  # pixels from one line of text to the next
LETTERS = 20  # in a line of text: as many as fit above a crop
GROUND, INK = 255, 40  # grey levels
FONT, SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42

Picture = NDArray[np.uint8]
Shown = Mapping[str, NDArray[Any]]


def contact_sheet(pictures: Sequence[tuple[str, Shown]], path: Path) -> None:
    """Write the sheet, in the format of the path's ending; what is there is overwritten.

    Crops are chosen by the texture of the truth or, where it is not known, of the blurred picture; never by a result.

    Args:
        pictures: at least one case: its name, and its pictures (H, W, C) uint8 of one size under the titles of the
            columns, in their order; an entry "X kernel", (K, K) and not negative, is drawn into a corner of picture X.
            Where a case lacks a picture, its place stays empty.
    """
    rows = [pictures[index] for index in evenly(len(pictures) - 1, min(len(pictures), MOST_ROWS))]
    titles = _merged([title for title in shown if not _is_kernel(title, shown)] for _, shown in rows)
    names = [_lines(name) for name, _ in rows]
    margin = max(_width(line) for lines in names for line in lines) + 2 * GAP
    header = GAP + LINE * max(len(_lines(title)) for title in titles)
    step = SIDE + GAP
    sheet = np.full((header + step * len(rows) + GAP, margin + step * len(titles), 3), GROUND, np.uint8)
    for column, title in enumerate(titles):
        _write(sheet, _lines(title), margin + column * step, GAP)
    for row, (_, shown) in enumerate(rows):
        top = header + GAP + row * step
        _write(sheet, names[row], GAP, top)
        place, kernels = _place(shown), _insets(shown)
        for column, title in enumerate(titles):
            if title in shown:
                left = margin + column * step
                panel = _panel(shown[title], kernels.get(title), place)
                sheet[top : top + len(panel), left : left + panel.shape[1]] = panel
    encoding.write(Photo(sheet), path, overwrite=True)


def _is_kernel(title: str, shown: Shown) -> bool:
    return title.endswith(KERNEL) and title.removesuffix(KERNEL) in shown and shown[title].ndim == 2


def _merged(lists: Iterable[list[str]]) -> list[str]:
    """All titles once, each behind the one that precedes it in its list: a case may lack some."""
    merged: list[str] = []
    for titles in lists:
        at = 0
        for title in titles:
            if title not in merged:
                merged.insert(at, title)
            at = merged.index(title) + 1
    return merged


def _place(shown: Shown) -> Tile:
    """Where a crop tells most."""
    reference = next((shown[title] for title in (TRUTH, BLURRED) if title in shown), next(iter(shown.values())))
    height, width = reference.shape[:2]
    if min(height, width) <= SIDE:
        return Tile(0, 0, min(height, SIDE), min(width, SIDE))
    return informative_crop(Pixels(reference, torch.device("cpu")), SIDE, Tile(0, 0, height, width))


def _insets(shown: Shown) -> dict[str, Picture]:
    """The kernels (k, k) of a case after the titles of their pictures, all on one scale."""
    kernels = {title.removesuffix(KERNEL): k for title, k in shown.items() if _is_kernel(title, shown) and k.max() > 0}
    reach = max((_reach(kernel) for kernel in kernels.values()), default=0)
    insets = {}
    for title, kernel in kernels.items():
        top, left = (side // 2 for side in kernel.shape)
        window = np.pad(kernel, reach)[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
        insets[title] = np.pad(fitted(enlarged(window, INSET), INSET)[..., 0], 1, constant_values=GROUND)
    return insets


def _reach(kernel: NDArray[Any]) -> int:
    """How far from the middle of its array a kernel goes, along rows or columns."""
    seen = np.argwhere(kernel > FAINT * kernel.max())
    return int(np.abs(seen - [side // 2 for side in kernel.shape]).max())


def _panel(picture: Picture, inset: Picture | None, place: Tile) -> Picture:
    """A crop as (h, w, 3), each pixel a square, with an inset in the lower right corner."""
    crop = picture[place.top : place.top + place.height, place.left : place.left + place.width]
    factor = max(1, SIDE // max(crop.shape))
    panel = np.broadcast_to(crop, (*crop.shape[:2], 3)).repeat(factor, axis=0).repeat(factor, axis=1)
    if inset is not None:
        panel[-len(inset) :, -inset.shape[1] :] = inset[-len(panel) :, -panel.shape[1] :, np.newaxis]
    return panel


def _lines(text: str) -> list[str]:
    return textwrap.wrap(text, LETTERS) or [""]


def _width(line: str) -> int:
    return int(cv2.getTextSize(line, FONT, SIZE, 1)[0][0])


def _write(sheet: Picture, lines: list[str], left: int, top: int) -> None:
    for number, line in enumerate(lines, start=1):
        cv2.putText(sheet, line, (left, top + LINE * number - 4), FONT, SIZE, (INK,) * 3, 1, cv2.LINE_AA)
