"""Random crops of photographs: what the image prior learns from, and, blurred, the conditioned kernel prior."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from blinddeblur.errors import PhotoError

FIRST = 32  # photos to read before the first crop
READ_EVERY = 32  # crops between two further photos: reading them stays a small part of a step
SCALES = (0.5, 1.5)  # of a photo: below 1 smaller and sharper than it was taken, above 1 larger and softer
MEMORY = 4 * 2**30  # bytes of photos to hold at once, over all workers
GREY = 0.2  # share of the crops turned into grey ones, with three equal channels

RGB8 = NDArray[np.uint8]  # the pixels of a photo, (H, W, 3)


@dataclass
class Group:
    """Photos that together make up a share of the crops.

    Attributes:
        share: of the crops, relative to those of the other groups.
        paths: the photos; each counts the same.
    """

    share: float
    paths: list[Path]


class PhotoCrops(IterableDataset[tuple[Tensor, list[str]]]):
    """Endless batches of random crops, (batch, 3, size, size) in [0, 1], each with what could not be read meanwhile.

    Photos are held in memory. Those beyond `memory` take turns: while crops are drawn, the next photo comes in and
    the one that was held longest goes. Each worker of a DataLoader has photos and a share of the memory of its own.

    A crop is drawn at a random scale as well as a random place: one network has to serve every level of a
    pyramid (where photos are sharper than they were taken) and photos that are soft at pixel level.

    Args:
        groups: the photos.
        read: gives the pixels of one, (H, W, 3); raises PhotoError where it cannot.
        size: side of a crop in pixels.
        batch: crops in a batch.
        seed: of everything random, with the number of the worker.
        memory: bytes of photos to hold over all workers; at least one of each group is.
        scales, grey: see SCALES and GREY.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        read: Callable[[Path], RGB8],
        size: int,
        batch: int,
        seed: Sequence[int],
        memory: float = MEMORY,
        scales: tuple[float, float] = SCALES,
        grey: float = GREY,
    ) -> None:
        self.groups, self.read, self.size, self.batch, self.seed = groups, read, size, batch, seed
        self.memory, self.scales, self.grey = memory, scales, grey

    def __iter__(self) -> Iterator[tuple[Tensor, list[str]]]:
        worker = get_worker_info()
        index, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None:
            cv2.setNumThreads(0)  # its threads do not survive the fork of a process
        rng = np.random.default_rng([*self.seed, index])
        # A group of fewer photos than workers is left whole, or some workers would draw too much from the others.
        parts = [Group(g.share, g.paths[index::workers] if len(g.paths) >= workers else g.paths) for g in self.groups]
        window = _Window(parts, self.read, self.memory / workers, rng)
        unreadable = [problem for _ in range(max(FIRST, len(parts))) for problem in window.advance()]
        while window.empty and window.waiting:
            unreadable += window.advance()
        drawn = 0
        while not window.empty:
            crops = torch.stack([self._crop(window, rng) for _ in range(self.batch)])
            yield crops, unreadable
            unreadable = []
            for _ in range((drawn + self.batch) // READ_EVERY - drawn // READ_EVERY):
                unreadable += window.advance()
            drawn += self.batch

    def _crop(self, window: "_Window", rng: np.random.Generator) -> Tensor:
        """(3, size, size) in [0, 1]: of two candidates the one with more texture."""
        candidates = [random_crop(window.draw(), self.size, self.scales, rng) for _ in range(2)]
        crop: NDArray[Any] = max(candidates, key=_texture)
        if rng.random() < self.grey:
            crop = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))).float() / 255


def random_crop(pixels: RGB8, size: int, scales: tuple[float, float], rng: np.random.Generator) -> RGB8:
    """A part of a photo (H, W, 3) at a random place, scale, orientation and handedness: (size, size, 3)."""
    scale = math.exp(rng.uniform(math.log(scales[0]), math.log(scales[1])))
    side = min(max(8, round(size / scale)), *pixels.shape[:2])
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in pixels.shape[:2])
    crop: NDArray[Any] = pixels[top : top + side, left : left + side]
    if side != size:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)
    crop = np.rot90(crop, int(rng.integers(4)))
    return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)


@dataclass
class _Shelf:
    """Photos of a group: those in memory, the oldest first, and those whose turn comes."""

    share: float
    waiting: deque[Path]
    held: deque[tuple[Path, RGB8]] = field(default_factory=deque)


class _Window:
    """The photos in memory: a window that moves over those of the groups, in a random order without end."""

    def __init__(
        self, groups: Sequence[Group], read: Callable[[Path], RGB8], memory: float, rng: np.random.Generator
    ) -> None:
        self.read, self.memory, self.rng = read, memory, rng
        self.shelves = [_Shelf(g.share, deque(g.paths[i] for i in rng.permutation(len(g.paths)))) for g in groups]
        self.bytes = 0

    @property
    def empty(self) -> bool:
        return not any(shelf.held for shelf in self.shelves)

    @property
    def waiting(self) -> bool:
        return any(shelf.waiting for shelf in self.shelves)

    def advance(self) -> list[str]:
        """Read the next photo, if there is one that is not held; returns what is wrong with it, if anything is."""
        shelves = [shelf for shelf in self.shelves if shelf.waiting]
        if not shelves:
            return []
        shelf = next((shelf for shelf in shelves if not shelf.held), None) or self._choose(shelves)
        path = shelf.waiting.popleft()
        try:
            pixels = self.read(path)
        except PhotoError as error:
            return [str(error)]
        shelf.held.append((path, pixels))
        self.bytes += pixels.nbytes
        while self.bytes > self.memory and len(shelf.held) > 1:
            path, pixels = shelf.held.popleft()
            shelf.waiting.append(path)
            self.bytes -= pixels.nbytes
        return []

    def draw(self) -> RGB8:
        """A random photo of those held."""
        held = self._choose([shelf for shelf in self.shelves if shelf.held]).held
        return held[int(self.rng.integers(len(held)))][1]

    def _choose(self, shelves: Sequence[_Shelf]) -> _Shelf:
        shares = np.array([shelf.share for shelf in shelves])
        return shelves[int(self.rng.choice(len(shelves), p=shares / shares.sum()))]


def _texture(crop: RGB8) -> float:
    grey = crop.astype(np.float32).mean(axis=2)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())
