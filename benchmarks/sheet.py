"""A contact sheet: the same crop of every contender's picture side by side, a row for each case, to look at."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from blinddeblur.engine.crops import informative_crop
from blinddeblur.engine.pixels import Pixels
from blinddeblur.files import encoding
from blinddeblur.files.photo import Photo
from blinddeblur.pictures.canvas import (
    LINE,
    Picture,
    below,
    beside,
    enlarged,
    fitted,
    framed,
    of_kernel,
    placed,
    written,
)
from blinddeblur.tiles import Tile, evenly

MOST_ROWS = 12  # So many cases are shown at most, spread evenly over all.
SIDE = 160  # Pixels of a crop at most.
INSET = 56  # Pixels of a kernel in its corner.
FAINT = 0.02  # Of a kernel's maximum; where less than that lies around a kernel, it is cut away.
TRUTH, BLURRED = "truth", "blurred"  # In the first of these pictures that there is, the crop is chosen.
KERNEL = " kernel"  # A kernel has this after the name of the picture that it lies in.
GAP = 6  # Pixels between pictures, and around all.
LETTERS = 20  # So many fit into a line of text above a crop.

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
    cells = zip(*(_cells(shown, titles) for _, shown in rows), strict=True)
    header = LINE * max(len(_lines(title)) for title in titles)
    columns = [[_text("", header), *(_text(name, SIDE) for name, _ in rows)]]
    columns += [[_text(title, header), *column] for title, column in zip(titles, cells, strict=True)]
    sheet = beside([below(column, GAP, at=0) for column in columns], GAP, at=0)
    encoding.write(Photo(framed(sheet, GAP)), path, overwrite=True)


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


def _cells(shown: Shown, titles: Sequence[str]) -> list[Picture]:
    """The crops of a case under the titles of the columns, each in the corner of its place (SIDE, SIDE, 3)."""
    place, kernels = _place(shown), _insets(shown)
    crops = [_panel(shown[title], kernels.get(title), place) if title in shown else written([""]) for title in titles]
    return [placed(crop, SIDE, SIDE, at=0) for crop in crops]


def _place(shown: Shown) -> Tile:
    """Where a crop tells most."""
    reference = next((shown[title] for title in (TRUTH, BLURRED) if title in shown), next(iter(shown.values())))
    height, width = reference.shape[:2]
    if min(height, width) <= SIDE:
        return Tile(0, 0, min(height, SIDE), min(width, SIDE))
    return informative_crop(Pixels(reference, torch.device("cpu")), SIDE, Tile(0, 0, height, width))


def _insets(shown: Shown) -> dict[str, Picture]:
    """The kernels (k, k, 1) of a case after the titles of their pictures, all on one scale."""
    kernels = {title.removesuffix(KERNEL): k for title, k in shown.items() if _is_kernel(title, shown) and k.max() > 0}
    reach = max((_reach(kernel) for kernel in kernels.values()), default=0)
    insets = {}
    for title, kernel in kernels.items():
        top, left = (side // 2 for side in kernel.shape)
        window = np.pad(kernel, reach)[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
        insets[title] = framed(fitted(enlarged(of_kernel(window), INSET), INSET), 1)
    return insets


def _reach(kernel: NDArray[Any]) -> int:
    """How far from the middle of its array a kernel goes, along rows or columns."""
    seen = np.argwhere(kernel > FAINT * kernel.max())
    return int(np.abs(seen - [side // 2 for side in kernel.shape]).max())


def _panel(picture: Picture, inset: Picture | None, place: Tile) -> Picture:
    """A crop as (h, w, 3), each pixel a square, with an inset in the lower right corner."""
    crop = picture[place.top : place.top + place.height, place.left : place.left + place.width]
    panel = enlarged(np.broadcast_to(crop, (*crop.shape[:2], 3)), SIDE)
    if inset is not None:
        panel[-len(inset) :, -inset.shape[1] :] = inset[-len(panel) :, -panel.shape[1] :]
    return panel


def _lines(text: str) -> list[str]:
    return textwrap.wrap(text, LETTERS) or [""]


def _text(text: str, height: int) -> Picture:
    """Text at the top of a place so high; what does not fit is cut off."""
    picture = written(_lines(text))[:height]
    return placed(picture, height, picture.shape[1], at=0)
