"""Files in, files out: which photo goes where, and one photo after the other through the engine."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blinddeblur import photo as photos
from blinddeblur.console import Console
from blinddeblur.engine import Engine, Result
from blinddeblur.errors import BlindDeblurError, OutputError, PhotoError, UsageError
from blinddeblur.photo import EXTENSIONS
from blinddeblur.recording import Recording
from blinddeblur.settings import Settings

MARK = ".deblurred"
MINE = re.compile(rf"{re.escape(MARK)}|\.kernel|\.sample-\d+|\.uncertainty")  # our own results: no photos to restore


@dataclass(frozen=True)
class Job:
    """One photo and where its results go: the restored photo, and stem.kernel.png and .npy.

    With samples also stem.sample-1.EXT and so on, and stem.uncertainty.png and .npy; with a recording, that animation.
    """

    source: Path
    restored: Path
    stem: Path
    samples: int = 0
    recording: Path | None = None

    @property
    def sample_paths(self) -> tuple[Path, ...]:
        """A file for each sample, in the format of the restored photo."""
        names = (f"{self.stem.name}.sample-{number + 1}{self.restored.suffix}" for number in range(self.samples))
        return tuple(self.stem.with_name(name) for name in names)

    @property
    def results(self) -> tuple[Path, ...]:
        """Every file that will be written."""
        maps = photos.uncertainty_paths(self.stem) if self.samples else ()
        recording = () if self.recording is None else (self.recording,)
        return self.restored, *photos.kernel_paths(self.stem), *self.sample_paths, *maps, *recording


def plan(sources: Iterable[Path], output: Path | None, samples: int = 0, record: Path | None = None) -> list[Job]:
    """What has to be done.

    Args:
        sources: photos, and folders whose photos are meant.
        output: None for beside each photo; a file name for a single photo; or a folder.
        samples: how many samples of each photo will be written.
        record: where the animation of a single photo goes.

    Raises:
        PhotoError: a folder without photos.
        UsageError: two results of the same name, a result that would replace a photo of this run, or an animation
            of several photos or of another format than GIF.
    """
    files = [file for source in sources for file in _photos_of(source)]
    if output is not None and output.suffix.lower() in EXTENSIONS and not output.is_dir():
        if len(files) != 1:
            raise UsageError(f"{output} names one file, and there are {len(files)} photos. Give a folder with -o.")
        jobs = [Job(files[0], output, output.with_suffix(""), samples)]
    else:
        jobs = [_job(file, output or file.parent, samples) for file in files]
    if record is not None:
        if record.suffix.lower() != ".gif":
            raise UsageError(f"{record}: The animation of --record is a GIF. Name a file that ends in .gif.")
        if len(jobs) != 1:
            raise UsageError(f"--record shows how one photo is restored, and there are {len(jobs)}. Name a single one.")
        jobs = [replace(jobs[0], recording=record)]
    _refuse_collisions(jobs)
    return jobs


def run(jobs: list[Job], settings: Settings, console: Console, *, overwrite: bool = False) -> int:
    """Restore every photo, going on after a failure.

    Returns:
        how many failed.

    Raises:
        BlindDeblurError: what concerns all photos alike, such as weights that are missing.
    """
    engine = Engine(settings)
    failures: list[tuple[Path, str]] = []
    for job in jobs:
        try:
            _restore(job, engine, console, overwrite=overwrite)
        except BlindDeblurError as error:
            if len(jobs) == 1 and error.exit_code != 1:
                raise
            failures.append((job.source, str(error)))
            console.failure(job.source, str(error))
    if len(jobs) > 1:
        console.summary(len(jobs) - len(failures), failures)
    return len(failures)


def _restore(job: Job, engine: Engine, console: Console, *, overwrite: bool) -> None:
    picture = photos.read(job.source)
    _check_outputs(job, overwrite=overwrite)

    def keep(index: int, sample: Any) -> None:
        photos.write(picture.with_pixels(sample), job.sample_paths[index], overwrite=overwrite)

    with console.work(job.source.name) as work:
        recording = Recording()
        callback = (lambda step: None) if job.recording is None else recording
        result = engine.restore(picture.pixels, work.stage, callback, keep)
    if result.sharp and job.restored.suffix == job.source.suffix:
        photos.write_bytes(job.source.read_bytes(), job.restored, overwrite=overwrite)  # not compressed once more
    else:
        photos.write(picture.with_pixels(result.image), job.restored, overwrite=overwrite)
    photos.write_kernel(result.kernel, job.stem, overwrite=overwrite)
    if result.uncertainty is not None:
        photos.write_uncertainty(result.uncertainty, job.stem, overwrite=overwrite)
    if job.recording is not None:
        photos.write_bytes(recording.gif(), job.recording, overwrite=overwrite)
    facts = _facts(job, result)
    sentence = f"{job.source} -> {job.restored} ({result.seconds:.1f} s)"
    details = (
        f"  noise {255 * result.sigma:.2f}/255, kernel {facts['kernel_extent'][0]}x{facts['kernel_extent'][1]} px in "
        f"{job.results[1]}, residual {255 * result.residual:.2f}/255"
    )
    if result.uncertainty is not None:
        details += f", uncertainty {255 * facts['mean_uncertainty']:.2f}/255"
    if result.confidence is not None:
        details += f", confidence {result.confidence:.2f}"
    console.result(sentence, details, facts)
    for warning in result.warnings:
        console.warning(f"{job.source}: {warning}")


def _facts(job: Job, result: Result) -> dict[str, Any]:
    """What --json says of a photo."""
    preview, array = photos.kernel_paths(job.stem)
    used = result.kernel > 0
    facts = {
        "input": str(job.source),
        "restored": str(job.restored),
        "kernel_preview": str(preview),
        "kernel": str(array),
        "recording": None if job.recording is None else str(job.recording),
        "seconds": round(result.seconds, 3),
        "sigma": result.sigma,
        "kernel_size": result.kernel.shape[0],
        "kernel_extent": [int(_extent(used.any(axis=axis))) for axis in (1, 0)],  # rows, columns
        "residual": result.residual,
        "sharp": result.sharp,
        "confidence": result.confidence,
        "warnings": list(result.warnings),
        "seed": result.seed,
        "method": result.method,
        "steps": result.steps,
        "prior": result.prior,
        "prior_sha256": result.checksum,
    }
    if result.uncertainty is not None:
        preview, array = photos.uncertainty_paths(job.stem)
        facts |= {
            "samples": [str(path) for path in job.sample_paths],
            "uncertainty_preview": str(preview),
            "uncertainty": str(array),
            "mean_uncertainty": float(result.uncertainty.mean()),
        }
    return facts


def _extent(used: Any) -> int:
    positions = used.nonzero()[0]
    return int(positions[-1] - positions[0] + 1)


def _photos_of(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = sorted(p for p in source.iterdir() if p.suffix.lower() in EXTENSIONS and not _is_ours(p) and p.is_file())
    if not found:
        raise PhotoError(f"{source}: There is no photo in this folder. Photos end in {', '.join(EXTENSIONS)}.")
    return found


def _is_ours(path: Path) -> bool:
    return MINE.fullmatch(Path(path.stem).suffix) is not None


def _job(source: Path, folder: Path, samples: int) -> Job:
    # Appended, since with_suffix would cut a name like "1.5 seconds" at its dot.
    return Job(source, folder / f"{source.stem}{MARK}{source.suffix}", folder / source.stem, samples)


def _refuse_collisions(jobs: list[Job]) -> None:
    owners: dict[str, Path] = {os.path.realpath(job.source): job.source for job in jobs}
    sources = set(owners)
    for job in jobs:
        for result in job.results:
            real = os.path.realpath(result)
            if real in sources:
                raise UsageError(f"{result} would replace a photo that is to be restored. Choose another -o.")
            if real in owners:
                raise UsageError(
                    f"{job.source} and {owners[real]} would both be written to {result}. Restore them into two folders."
                )
            owners[real] = job.source


def _check_outputs(job: Job, *, overwrite: bool) -> None:
    """Before minutes are spent: can the results be written where they belong?"""
    for path in job.results:
        photos.check_free(path, overwrite=overwrite)
        folder = path.parent
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if not existing.is_dir():
            raise OutputError(f"{folder}: {existing} is a file and no folder. Choose another place for {path.name}.")
        if not os.access(existing, os.W_OK):
            raise OutputError(f"{folder}: There is no permission to write here. Choose another place for {path.name}.")
