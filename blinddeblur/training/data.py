"""What the recipes learn from, and what they are validated on: photos, kernels, and photos blurred by kernels."""

import hashlib
import itertools
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from blinddeblur.errors import PhotoError, UsageError
from blinddeblur.files import decoding
from blinddeblur.files.photo import EXTENSIONS
from blinddeblur.physics.kernels import PRIOR_SIZE, to_prior
from blinddeblur.training import pairs
from blinddeblur.training.options import Options
from blinddeblur.training.photo_crops import RGB8, SCALES, Group, PhotoCrops, random_crop
from blinddeblur.training.random_kernels import random_kernel

EXAMPLES, PAIRS = 16, 8  # in a step, by default
HELD_OUT = 0.05  # share of the photos that are kept for validation
VALIDATION_IMAGES = 32
VALIDATION_SIDE = 64  # pixels; at every level together as costly as five steps, so that it can be done at each save
NAMED = 3  # unreadable files that are named; of more only the number is given
MOST_WORKERS = 16  # more do not feed one GPU any faster
RANDOM_KERNELS = "random kernels (blinddeblur.training.random_kernels)"

Warn = Callable[[str], None]


@dataclass
class Data:
    """What a network learns from.

    Attributes:
        examples: gives (batch, what could not be read meanwhile).
        made: what the examples are, for people.
        clean: (N, C, H, W), for validation.
        validated: what the validation is on, for people.
        sources: the photos that the examples are made of, for people.
        left_out: what could not be read of these so far.
        photos: for the validation of what is conditioned on photos: (N, 1, H, W), and their noise (N,).
    """

    examples: IterableDataset[tuple[Any, list[str]]]
    made: str
    clean: Tensor
    validated: str
    sources: Callable[[], str] = str
    left_out: list[str] = field(default_factory=list)
    photos: tuple[Tensor, Tensor] | None = None

    def batches(self, workers: int | None, device: torch.device, warn: Warn) -> Iterator[Any]:
        """The examples, made in worker processes where a GPU would wait for them; says what could not be read."""
        if workers is None:
            workers = min(MOST_WORKERS, (os.cpu_count() or 1) - 1) if device.type == "cuda" else 0
        loader = DataLoader(
            self.examples,
            batch_size=None,
            num_workers=workers,
            worker_init_fn=_begin_worker,
            pin_memory=device.type == "cuda",
            prefetch_factor=4 if workers else None,
        )
        for batch, unreadable in loader:
            for problem in unreadable:
                _leave_out(problem, self.left_out, warn)
            yield batch

    def described(self, examples: int) -> str:
        """What the network has learned from after that many examples, for people."""
        return f"{self.sources()}{examples:,} {self.made}"


def image_data(photos: Path, options: Options, seed: Sequence[int], warn: Warn) -> Data:
    """What an image prior learns from: crops of the photos of a folder."""
    groups, held_out, facts = _parted(photos, options, VALIDATION_SIDE, warn)
    crops = PhotoCrops(groups, read_pixels, options.crop, options.batch or EXAMPLES, seed)
    return Data(crops, f"crops of {options.crop}x{options.crop}", held_out, **facts)


def kernel_data(options: Options, seed: Sequence[int]) -> Data:
    """What a kernel prior learns from: random kernels."""
    clean = _kernels(VALIDATION_IMAGES, np.random.default_rng(VALIDATION_IMAGES))
    examples = _Kernels(options.batch or EXAMPLES, seed)
    return Data(examples, RANDOM_KERNELS, clean, "random kernels of another seed")


def pair_data(photos: Path, options: Options, seed: Sequence[int], warn: Warn) -> Data:
    """What a kernel prior conditioned on a photo learns from: crops of photos, blurred by random kernels."""
    groups, held_out, facts = _parted(photos, options, pairs.SHARP_SIDE, warn)
    facts["validated"] += ", blurred by random kernels of another seed"
    batch = options.batch or PAIRS
    sharp = PhotoCrops(groups, read_pixels, pairs.SHARP_SIDE, batch, seed, grey=0)  # all become grey
    y, sigma, u = pairs.blurred(held_out, np.random.default_rng(VALIDATION_IMAGES))
    made = f"crops of {pairs.SIDE}x{pairs.SIDE} blurred by as many {RANDOM_KERNELS}"
    return Data(BlurredPhotos(sharp), made, u, photos=(y, sigma), **facts)


def find_photos(folder: Path, shares: Mapping[str, float] | None = None, beside: Path | None = None) -> list[Group]:
    """The photos of a folder and its subfolders.

    Args:
        folder: where to look.
        shares: weights of the subfolders to use; by default all, and each photo counts the same.
        beside: a folder to leave out.

    Raises:
        PhotoError: there is none.
        UsageError: a subfolder of `shares` holds none.
    """
    if not folder.is_dir():
        raise PhotoError(f"{folder} is no folder. Give a folder of sharp photographs to learn from.")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    if beside is not None:
        found = [p for p in found if beside.resolve() not in p.resolve().parents]
    if not found:
        raise PhotoError(f"There is no photo in {folder}. Give a folder of sharp photographs to learn from.")
    if not shares:
        return [Group(1.0, found)]
    groups = [Group(share, [p for p in found if p.is_relative_to(folder / name)]) for name, share in shares.items()]
    for name, group in zip(shares, groups, strict=True):
        if not group.paths:
            raise UsageError(f"There is no photo in {folder / name}. Give --share only for subfolders with photos.")
    return groups


@dataclass
class Draw:
    """Photos to draw from one by one.

    Attributes:
        groups: of photos, none of them empty.
        warn: told of files that cannot be read, the first few of them.
        left_out: what was said of these.
    """

    groups: Sequence[Group]
    warn: Warn
    left_out: list[str] = field(default_factory=list)

    def photo(self, rng: np.random.Generator) -> RGB8 | None:
        """A photo (H, W, 3), its group drawn by the shares; None where it cannot be read."""
        shares = np.array([group.share for group in self.groups])
        paths = self.groups[int(rng.choice(len(shares), p=shares / shares.sum()))].paths
        try:
            return read_pixels(paths[int(rng.integers(len(paths)))])
        except PhotoError as error:
            _leave_out(str(error), self.left_out, self.warn)
            return None

    @property
    def number(self) -> int:
        """Of photos."""
        return len({path for group in self.groups for path in group.paths})


def without_held_out(photos: Path, options: Options, warn: Warn) -> tuple[Draw, Draw]:
    """The photos of a folder to learn from, and those to validate on; where there are none of the one kind, the other.

    For the errors see `find_photos`.
    """
    groups = find_photos(photos, options.shares, beside=options.output)
    held_out = set(_held_out(groups, photos))
    parts = [_only(groups, lambda path: path not in held_out), _only(groups, held_out.__contains__)]
    if not all(parts):
        warn("No photo is left to validate on: the figures are on what was learned from, and say little.")
    return Draw(parts[0] or parts[1], warn), Draw(parts[1] or parts[0], warn)


def _only(groups: Sequence[Group], wanted: Callable[[Path], bool]) -> list[Group]:
    """Groups of the photos that are wanted, without those of which none is."""
    parts = [Group(group.share, [path for path in group.paths if wanted(path)]) for group in groups]
    return [group for group in parts if group.paths]


def read_pixels(path: Path) -> RGB8:
    """(H, W, 3), RGB, 8 bits. Raises PhotoError for what is no photo, or damaged."""
    pixels = decoding.read(path).pixels
    levels = np.rint(255 * pixels).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3)))


def _begin_worker(index: int) -> None:
    """Ctrl-C reaches every process of a terminal and is the business of the first. Batches go to it by name: handing
    over a descriptor takes a conversation, and one that an interrupt breaks off is shown to the user as a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]


class _Kernels(IterableDataset[tuple[Tensor, list[str]]]):
    """Endless batches of random kernels as a kernel prior sees them: (batch, 1, 64, 64) in [0, 1]."""

    def __init__(self, batch: int, seed: Sequence[int]) -> None:
        self.batch, self.seed = batch, seed

    def __iter__(self) -> Iterator[tuple[Tensor, list[str]]]:
        rng = _of_worker(self.seed)
        while True:
            yield _kernels(self.batch, rng), []


class BlurredPhotos(IterableDataset[tuple[pairs.Pairs, list[str]]]):
    """Endless batches of crops of SHARP_SIDE pixels, `blurred`, each with what could not be read meanwhile."""

    def __init__(self, sharp: PhotoCrops) -> None:
        self.sharp = sharp

    def __iter__(self) -> Iterator[tuple[pairs.Pairs, list[str]]]:
        rng = _of_worker(self.sharp.seed, 1)  # the 1 keeps kernels and noise from the numbers of the crops
        for crops, unreadable in self.sharp:
            yield pairs.blurred(crops, rng), unreadable


def _of_worker(seed: Sequence[int], *more: int) -> np.random.Generator:
    """Randomness that is each worker's own."""
    worker = get_worker_info()
    return np.random.default_rng([*seed, 0 if worker is None else worker.id, *more])


def _kernels(number: int, rng: np.random.Generator) -> Tensor:
    return torch.cat([to_prior(torch.from_numpy(random_kernel(rng, PRIOR_SIZE - 1))) for _ in range(number)])


def _parted(photos: Path, options: Options, side: int, warn: Warn) -> tuple[list[Group], Tensor, dict[str, Any]]:
    """The photos of a folder, parted into those to learn from and, where there are others, those to validate on.

    Returns:
        The first; crops of the second, (VALIDATION_IMAGES, 3, side, side) in [0, 1], always the same ones; and what
        Data says of both.
    """
    groups = find_photos(photos, options.shares, beside=options.output)
    paths = sorted({path for group in groups for path in group.paths})
    left_out: list[str] = []
    drawn = _held_out(groups, photos)
    held_out = set(drawn)
    shown = list(itertools.islice(_readable(drawn, left_out, warn), VALIDATION_IMAGES))
    others = _readable((path for path in paths if path not in held_out), left_out, warn)
    if not shown:
        shown = list(itertools.islice(others, 1))
        held_out = {path for path, _ in shown}
    if not shown:
        raise PhotoError(f"None of the {len(paths)} files in {photos} can be read as a photo. {left_out[0]}")
    validated = "held-out photos"
    if next(others, None) is None:
        held_out, validated = set(), "photos that were also learned from"
        warn("There is no second photo to validate on: the figures are on what was learned from, and say little.")
    rng = np.random.default_rng(VALIDATION_IMAGES)
    repeated = itertools.islice(itertools.cycle(shown), VALIDATION_IMAGES)
    crops = torch.from_numpy(np.stack([random_crop(pixels, side, SCALES, rng) for _, pixels in repeated]))

    def sources() -> str:
        return f"{len(paths) - len(left_out):,} photographs of the folder {photos.resolve().name}, "

    kept = [Group(g.share, [path for path in g.paths if path not in held_out] or g.paths) for g in groups]
    facts = {"validated": validated, "sources": sources, "left_out": left_out}
    return kept, crops.permute(0, 3, 1, 2).float() / 255, facts


def _held_out(groups: Sequence[Group], photos: Path) -> list[Path]:
    """Those of a folder's photos that are kept for validation, by lot, so that no subfolder comes first."""
    lots = {path: _lot(path.relative_to(photos)) for group in groups for path in group.paths}
    return sorted((path for path, lot in lots.items() if lot < HELD_OUT), key=lots.__getitem__)


def _lot(path: Path) -> float:
    """A number in [0, 1) that is drawn by the name: whatever else comes and goes, a photo stays where it was."""
    return int.from_bytes(hashlib.sha256(path.as_posix().encode()).digest()[:8]) / 2**64


def _readable(paths: Iterable[Path], left_out: list[str], warn: Warn) -> Iterator[tuple[Path, RGB8]]:
    for path in paths:
        try:
            yield path, read_pixels(path)
        except PhotoError as error:
            _leave_out(str(error), left_out, warn)


def _leave_out(problem: str, left_out: list[str], warn: Warn) -> None:
    """Count a file that cannot be read; the first few are named."""
    if problem not in left_out:
        left_out.append(problem)
        if len(left_out) <= NAMED:
            warn(f"A file was left out. {problem}")
