"""Which file goes where: what was asked for -> one job for each photo, refused as a whole before any work starts."""

import mimetypes
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from blinddeblur.errors import PhotoError, UsageError
from blinddeblur.files.names import MARK, beside, is_ours, kernel_paths, real_name, uncertainty_paths
from blinddeblur.files.photo import EXTENSIONS, MAXIMUM_PIXELS, READABLE, result_ending
from blinddeblur.files.together import all_there, check_free

STREAM = Path("-")  # standard input or output


@dataclass(frozen=True)
class Wishes:
    """What is made of each photo, and how its files are treated.

    Attributes:
        samples: how many samples of the posterior are written.
        uncertainty: whether a map of the errors to be expected is written; it always is with samples.
        compare, preview: whether a picture of before, after and kernel is written, and a small result beforehand.
        recording, kernel_map: where the animation and the grid of kernels of a single photo go.
        overwrite: whether results that exist already are replaced.
        most_pixels: larger photos are refused.
    """

    samples: int = 0
    uncertainty: bool = False
    compare: bool = False
    preview: bool = False
    recording: Path | None = None
    kernel_map: Path | None = None
    overwrite: bool = False
    most_pixels: int = MAXIMUM_PIXELS


@dataclass(frozen=True)
class Job:
    """One photo and where its results go: the restored photo, and others that begin with the stem."""

    source: Path
    restored: Path
    stem: Path
    wishes: Wishes = field(default_factory=Wishes)

    @property
    def sample_paths(self) -> tuple[Path, ...]:
        """A file for each sample, in the format of the restored photo."""
        return tuple(beside(self.stem, f".sample-{n + 1}{self.restored.suffix}") for n in range(self.wishes.samples))

    @property
    def comparison(self) -> Path:
        """The picture of before, after and kernel."""
        return beside(self.stem, ".compare.png")

    @property
    def preview(self) -> Path:
        """The small result that comes first."""
        return beside(self.stem, ".preview.jpg")

    @property
    def results(self) -> tuple[Path, ...]:
        """Every file that will be written, the restored photo last; no preview, which a small photo has not."""
        if self.restored == STREAM:
            return ()
        wishes = self.wishes
        maps = uncertainty_paths(self.stem) if wishes.samples or wishes.uncertainty else ()
        pictures = (self.comparison,) if wishes.compare else ()
        named = (path for path in (wishes.recording, wishes.kernel_map) if path is not None)
        return *kernel_paths(self.stem), *self.sample_paths, *maps, *pictures, *named, self.restored

    @property
    def finished(self) -> bool:
        """Whether all results are there already."""
        return self.restored != STREAM and all_there(self.results)

    def check(self) -> None:
        """Raise OutputError, before minutes are spent, if a result cannot be written where it belongs."""
        preview = (self.preview,) if self.wishes.preview else ()
        check_free(*self.results, *preview, overwrite=self.wishes.overwrite)


def plan(
    sources: Iterable[Path],
    output: Path | None,
    wishes: Wishes,
    recursive: bool = False,
    include: str | None = None,
) -> list[Job]:
    """The jobs that were asked for, one for each photo.

    Args:
        sources: photos, and folders whose photos are meant; "-" is standard input.
        output: None for beside each photo; a file name for a single photo; a folder, in which the folders among the
            sources are mirrored; or "-" for standard output.
        wishes: for each photo.
        recursive: whether photos in folders of the folders are meant as well.
        include: a pattern such as "IMG_*.jpg" that the names of photos in folders have to match; with a slash in it,
            their paths below the folder.

    Raises:
        PhotoError: a folder without photos.
        UsageError: two results of the same name, a result that would replace a photo of this run or leave the output
            folder, one file for several photos, or an ending of another kind of file.
    """
    found = _without_repetitions(entry for source in sources for entry in _photos_of(source, recursive, include))
    if not found:
        raise UsageError("These are all results of this program. Rename a file to restore it once more.")
    streamed = to_standard_output((source for source, _ in found), output)
    if streamed or (output is not None and _names_a_file(output)):
        if len(found) != 1:
            raise UsageError(f"{output or STREAM} is one file, and there are {len(found)} photos. Give a folder as -o.")
        target = STREAM if streamed or output is None else output
        jobs = [Job(found[0][0], target, target.with_suffix(""), wishes)]
        if streamed and (wishes.samples or wishes.uncertainty or wishes.compare or wishes.preview):
            raise UsageError("Standard output holds the restored photo alone. Give a file or a folder as -o.")
    else:
        places = [(source, (output / below) if output else source.parent) for source, below in found]
        shared = Counter((folder, source.stem) for source, folder in places)
        # photo.jpg and photo.png would share their kernel's name, so there the ending becomes a part of it.
        jobs = [_job(s, folder, s.stem if shared[folder, s.stem] == 1 else s.name, wishes) for s, folder in places]
    for option, path, ending in (("--record", wishes.recording, ".gif"), ("--kernel-map", wishes.kernel_map, ".png")):
        if path is not None and path.suffix.lower() != ending:
            raise UsageError(f"{path}: {option} writes {ending[1:].upper()}. Name a file that ends in {ending}.")
        if path is not None and len(jobs) != 1:
            raise UsageError(f"{option} shows how one photo is restored, and there are {len(jobs)}. Name a single one.")
    _refuse_collisions(jobs)
    if output is not None and not streamed:
        _keep_inside(jobs, output)
    return jobs


def to_standard_output(sources: Iterable[Path], output: Path | None) -> bool:
    """Whether the restored photo goes to standard output: as it is asked to, or since it came from standard input."""
    return output == STREAM or (output is None and STREAM in sources)


def _photos_of(source: Path, recursive: bool, include: str | None) -> Iterator[tuple[Path, Path]]:
    """Photos with the folder, below the source, that they lie in."""
    if not os.path.isdir(source):  # Path.is_dir raises an error for names that are too long
        # Beside its kernel; else it is a photo that happens to have such a name.
        if not (is_ours(source) and os.path.lexists(kernel_paths(_stem_of(source))[1])):
            yield source, Path()
        return
    found = False
    for folder, subfolders, names in os.walk(source):
        subfolders[:] = sorted(name for name in subfolders if recursive and not name.startswith("."))
        below = Path(folder).relative_to(source)
        for name in sorted(names):
            path = Path(folder) / name
            if path.suffix.lower() not in READABLE or is_ours(path) or not path.is_file():
                continue
            if include and not fnmatch(str(below / name) if "/" in include else name, include):
                continue
            found = True
            yield path, below
    if not found:
        fitting = f" that matches {include}" if include else ""
        raise PhotoError(
            f"{source}: There is no photo in this folder{fitting}. Photos end in {', '.join(READABLE)}."
            + ("" if recursive else " Those in subfolders need --recursive.")
        )


def _without_repetitions(found: Iterable[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    kept: dict[str, tuple[Path, Path]] = {}
    for source, below in found:
        kept.setdefault(real_name(source), (source, below))
    return list(kept.values())


def _names_a_file(output: Path) -> bool:
    if os.path.isdir(output):
        return False
    if output.suffix.lower() in EXTENSIONS:
        return True
    kind, _ = mimetypes.guess_type(output.name)
    if kind is not None:
        raise UsageError(f"{output}: Photos are written with the endings {', '.join(EXTENSIONS)}.")
    return False


def _stem_of(result: Path) -> Path:
    """What the names of a photo's results have in common."""
    return result.with_name(Path(result.stem).stem)


def _job(source: Path, folder: Path, name: str, wishes: Wishes) -> Job:
    if source == STREAM:
        return Job(source, folder / f"standard-input{MARK}.png", folder / "standard-input", wishes)
    return Job(source, folder / f"{name}{MARK}{result_ending(source.suffix)}", folder / name, wishes)


def _refuse_collisions(jobs: list[Job]) -> None:
    owners: dict[str, Path] = {real_name(job.source): job.source for job in jobs}
    sources = set(owners)
    for job in jobs:
        for result in job.results:
            real = real_name(result)
            if real in sources:
                raise UsageError(f"{result} would replace a photo that is to be restored. Choose another -o.")
            if real in owners:
                raise UsageError(
                    f"{job.source} and {owners[real]} would both be written to {result}. Restore them into two folders."
                )
            owners[real] = job.source


def _keep_inside(jobs: list[Job], output: Path) -> None:
    """A link in the output folder must not lead results out of it."""
    root = Path(real_name(output if not _names_a_file(output) else output.parent))
    for job in jobs:
        if not Path(real_name(job.restored.parent)).is_relative_to(root):
            raise UsageError(f"{job.restored.parent} leads out of {output} by a link. Choose another -o.")
