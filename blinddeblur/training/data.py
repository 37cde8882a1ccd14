"""What the recipes learn from, and what they are validated on: photos, kernels, and photos blurred by kernels."""

import hashlib
import itertools
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from blinddeblur.errors import PhotoError
from blinddeblur.physics.kernels import PRIOR_SIZE, to_prior
from blinddeblur.training import pairs
from blinddeblur.training.loop import Batch, TrainingStatus
from blinddeblur.training.options import Options
from blinddeblur.training.photo_crops import SCALES, Group, PhotoCrops, Pixels, find_photos, random_crop, read_pixels
from blinddeblur.training.random_kernels import random_kernel

EXAMPLES, PAIRS = 16, 8  # in a step, by default
HELD_OUT = 0.05  # share of the photos that are kept for validation
VALIDATION_IMAGES = 32
VALIDATION_SIDE = 64  # pixels; at every level together as costly as five steps, so that it can be done at each save
NAMED = 3  # unreadable files that are named; of more only the number is given
MOST_WORKERS = 16  # more do not feed one GPU any faster

Warn = Callable[[str], None]


@dataclass
class Data:
    """What a network learns from.

    Attributes:
        examples: gives (batch, what could not be read meanwhile).
        clean: (N, C, H, W), for validation.
        validated: what the validation is on, for people.
        described: what the network has learned from so far, for people.
        left_out: what could not be read so far.
        photos: for the validation of what is conditioned on photos: (N, 1, H, W), and their noise (N,).
    """

    examples: IterableDataset[tuple[Batch, list[str]]]
    clean: Tensor
    validated: str
    described: Callable[[TrainingStatus], str]
    left_out: list[str] = field(default_factory=list)
    photos: tuple[Tensor, Tensor] | None = None

    def batches(self, workers: int | None, device: torch.device, warn: Warn) -> Iterator[Batch]:
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


def image_data(photos: Path, options: Options, seed: Sequence[int], warn: Warn) -> Data:
    """Crops of the photos of a folder."""
    parted = _part(photos, options, warn)

    def described(status: TrainingStatus) -> str:
        return f"{parted.described()}, {status.examples:,} crops of {options.crop}x{options.crop}"

    return Data(
        examples=PhotoCrops(parted.groups, options.crop, options.batch or EXAMPLES, seed, options.memory),
        clean=parted.held_out_crops(VALIDATION_SIDE),
        validated=parted.validated,
        described=described,
        left_out=parted.left_out,
    )


def kernel_data(options: Options, seed: Sequence[int]) -> Data:
    """Random kernels."""
    return Data(
        examples=_Kernels(options.batch or EXAMPLES, seed),
        clean=_kernels(VALIDATION_IMAGES, np.random.default_rng(VALIDATION_IMAGES)),
        validated="random kernels of another seed",
        described=lambda status: f"{status.examples:,} random kernels (blinddeblur.training.kernels)",
    )


def pair_data(photos: Path, options: Options, seed: Sequence[int], warn: Warn) -> Data:
    """Crops of the photos of a folder, blurred by random kernels."""
    parted = _part(photos, options, warn)
    batch = options.batch or PAIRS
    sharp = PhotoCrops(parted.groups, pairs.SHARP_SIDE, batch, seed, options.memory, grey=0)  # all become grey anyway
    held_out = parted.held_out_crops(pairs.SHARP_SIDE)
    y, sigma, u = pairs.blurred(held_out, np.random.default_rng(VALIDATION_IMAGES))

    def described(status: TrainingStatus) -> str:
        crops = f"{status.examples:,} crops of {pairs.SIDE}x{pairs.SIDE}"
        return f"{parted.described()}, {crops} blurred by as many random kernels (blinddeblur.training.kernels)"

    return Data(
        examples=pairs.BlurredPhotos(sharp),
        clean=u,
        validated=f"{parted.validated}, blurred by random kernels of another seed",
        described=described,
        left_out=parted.left_out,
        photos=(y, sigma),
    )


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
        worker = get_worker_info()
        rng = np.random.default_rng([*self.seed, 0 if worker is None else worker.id])
        while True:
            yield _kernels(self.batch, rng), []


def _kernels(number: int, rng: np.random.Generator) -> Tensor:
    return torch.cat([to_prior(torch.from_numpy(random_kernel(rng, PRIOR_SIZE - 1))) for _ in range(number)])


@dataclass
class _Parted:
    """The photos of a folder, parted into those to learn from and those to validate on.

    Attributes:
        folder: where they are.
        number: of all of them.
        groups: to learn from.
        held_out: the pixels of those to validate on; at least one.
        validated: what they are, for people.
        left_out: what could not be read so far.
    """

    folder: Path
    number: int
    groups: list[Group]
    held_out: list[Pixels]
    validated: str
    left_out: list[str]

    def held_out_crops(self, side: int) -> Tensor:
        """(VALIDATION_IMAGES, 3, side, side) in [0, 1], always the same ones."""
        rng = np.random.default_rng(VALIDATION_IMAGES)
        shown = itertools.islice(itertools.cycle(self.held_out), VALIDATION_IMAGES)
        crops = [random_crop(pixels, side, SCALES, rng) for pixels in shown]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255

    def described(self) -> str:
        """What they are, for people."""
        return f"{self.number - len(self.left_out):,} photographs of the folder {self.folder.resolve().name}"


def _part(photos: Path, options: Options, warn: Warn) -> _Parted:
    """Photos to learn from, and others to validate on where there are others."""
    groups = find_photos(photos, options.shares, beside=options.output)
    paths = sorted({path for group in groups for path in group.paths})
    left_out: list[str] = []
    lots = {path: _lot(path.relative_to(photos)) for path in paths}
    held_out = {path for path in paths if lots[path] < HELD_OUT}
    drawn = sorted(held_out, key=lots.__getitem__)  # by lot, so that no subfolder comes first
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
    kept = [Group(g.share, [path for path in g.paths if path not in held_out] or g.paths) for g in groups]
    return _Parted(photos, len(paths), kept, [pixels for _, pixels in shown], validated, left_out)


def _lot(path: Path) -> float:
    """A number in [0, 1) that is drawn by the name: whatever else comes and goes, a photo stays where it was."""
    return int.from_bytes(hashlib.sha256(path.as_posix().encode()).digest()[:8]) / 2**64


def _readable(paths: Iterable[Path], left_out: list[str], warn: Warn) -> Iterator[tuple[Path, Pixels]]:
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
