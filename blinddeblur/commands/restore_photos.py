"""Photos through the engine, here, in several processes or on a cluster; whatever happens to one, the others go on."""

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blinddeblur.commands import cluster, machine, report, workers
from blinddeblur.commands.console import Console
from blinddeblur.commands.outcome import FAILED, PhotoOutcome, attempt, exit_code, told
from blinddeblur.commands.plan import STREAM, Job
from blinddeblur.errors import BlindDeblurError, UsageError
from blinddeblur.files import decoding, encoding, kernel_files
from blinddeblur.files.headers import format_of
from blinddeblur.files.names import kernel_paths, uncertainty_paths
from blinddeblur.files.photo import Photo
from blinddeblur.files.together import Together, recover, write_bytes, write_together
from blinddeblur.pictures.canvas import fitted
from blinddeblur.pictures.comparison import compare, drawn
from blinddeblur.progress import Progress, unheard, unseen
from blinddeblur.settings import Settings

if TYPE_CHECKING:
    from blinddeblur.engine.pipeline import Engine
    from blinddeblur.engine.result import Result

PREVIEW_SIDE = 512  # pixels of the long side of a preview: ten to twenty seconds on two cores

Add = Callable[[bytes, Path], None]  # takes the bytes of a result and where they belong
Outcomes = Generator[tuple[Job, PhotoOutcome | Exception], None, None]


@dataclass(frozen=True)
class Parcel:
    """A job with the bytes of its photo, for a machine without our files."""

    job: Job
    data: bytes


@dataclass(frozen=True)
class Way:
    """How a batch is run.

    Attributes:
        workers: processes on this machine; 0 for this one.
        scheduler: address of a dask scheduler instead.
        fail_fast: whether to stop at the first failure.
        report: where the page about all photos goes.
    """

    workers: int = 0
    scheduler: str | None = None
    fail_fast: bool = False
    report: Path | None = None

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UsageError(f"The number of workers must be 0 or more, not {self.workers}.")
        if self.workers and self.scheduler:
            raise UsageError("Choose between --workers on this machine and a cluster's own with --dask.")


def run(jobs: list[Job], settings: Settings, console: Console, way: Way) -> int:
    """Restore every photo, going on after a failure. Finished ones of several are skipped.

    Returns the exit code: 0, or that of the error if there is a single photo, or 1 if any failed. Raises
    BlindDeblurError for what concerns all photos alike, such as weights that are missing.
    """
    start = time.monotonic()
    if way.report is not None:
        report.check(way.report, overwrite=any(job.wishes.overwrite for job in jobs))
    results = [job.results for job in jobs if job.restored != STREAM]
    for folder in {path.parent for paths in results for path in paths}:
        recover(folder, results)
    waiting = _unfinished(jobs, console)
    became: dict[Job, PhotoOutcome | str | None] = dict.fromkeys(set(jobs).difference(waiting))
    failures: list[tuple[Path, str]] = []
    code = restored = 0
    try:
        with contextlib.closing(_outcomes(waiting, settings, console, way)) as outcomes:
            for job, outcome in outcomes:
                if isinstance(outcome, Exception):
                    became[job] = why = console.failure(job.source, outcome)
                    failures.append((job.source, why))
                    code = exit_code(outcome) if len(jobs) == 1 else FAILED
                    if way.fail_fast:
                        break
                else:
                    restored += 1
                    became[job] = outcome
                    console.result(outcome)
    finally:
        if way.report is not None and became:
            ordered = [(job, became[job]) for job in jobs if job in became]
            report.write(way.report, ordered, time.monotonic() - start, overwrite=True)
    if len(jobs) > 1:
        console.summary(restored, len(jobs) - len(waiting), failures, len(waiting) - restored - len(failures))
    return code


def forecast(jobs: list[Job], settings: Settings, console: Console) -> int:
    """Say what would be done and how many minutes that would take here. Returns the exit code, as run does."""
    from blinddeblur.engine.pipeline import Engine

    engine, total, failed = Engine(settings), 0.0, False
    for job in _unfinished(jobs, console):
        try:
            job.check()
            height, width = decoding.read(job.source, job.wishes.most_pixels).stored.shape[:2]
        except BlindDeblurError as error:
            failed = True
            console.failure(job.source, error)
            continue
        seconds = engine.forecast(height, width)
        total += seconds
        facts = {"input": str(job.source), "restored": str(job.restored), "minutes": round(seconds / 60, 2)}
        console.say(f"{job.source} -> {job.restored}, about {seconds / 60:.1f} minutes", f"  {width}x{height}", facts)
    console.total(f"about {total / 60:.1f} minutes in all; nothing was done")
    return FAILED if failed else 0


def _unfinished(jobs: list[Job], console: Console) -> list[Job]:
    """Without those of several that an earlier run has finished, which is said."""
    finished = {job for job in jobs if len(jobs) > 1 and job.finished and not job.wishes.overwrite}
    for job in jobs:
        if job in finished:
            console.skipped(job.source, job.restored)
    return [job for job in jobs if job not in finished]


def _outcomes(jobs: list[Job], settings: Settings, console: Console, way: Way) -> Outcomes:
    if not jobs:
        return
    if way.scheduler is not None:
        yield from _on_cluster(jobs, settings, console, way.scheduler)
    elif way.workers:
        makers = engines(settings, min(way.workers, len(jobs)))
        with console.work("photos") as work, contextlib.closing(workers.run(restore, jobs, makers)) as outcomes:
            for done, (job, outcome) in enumerate(outcomes, start=1):
                work.stage("restored", done, len(jobs))
                yield job, outcome
    else:
        from blinddeblur.engine.pipeline import Engine

        engine = Engine(settings)
        for job in jobs:
            with console.work(job.source.name) as work:
                outcome = attempt(restore, engine, job, work.stage)
            yield job, outcome


def engines(settings: Settings, number: int) -> list[partial["Engine"]]:
    """What makes the engine in each of `number` processes: GPUs are dealt out in turn, or else the threads divided."""
    import torch

    gpus = torch.cuda.device_count() if settings.device in ("auto", "cuda") else 0
    devices = [f"cuda:{index % gpus}" if gpus else settings.device for index in range(number)]
    threads = max(1, torch.get_num_threads() // number)
    return [partial(_engine, replace(settings, device=device), threads) for device in devices]


def _engine(settings: Settings, threads: int) -> "Engine":
    machine.prepare()
    import torch

    from blinddeblur.engine.pipeline import Engine

    torch.set_num_threads(threads)
    return Engine(settings)


def _on_cluster(jobs: list[Job], settings: Settings, console: Console, scheduler: str) -> Outcomes:
    """Photos are read and results written here: the cluster needs no files of this machine."""
    from blinddeblur.engine.pipeline import Engine

    unread: list[tuple[Job, Exception]] = []

    def parcels() -> Iterator[Parcel]:
        for job in jobs:
            try:
                job.check()
                yield Parcel(job, _data(job))
            except BlindDeblurError as error:
                unread.append((job, error))

    outcomes = cluster.run(restore_parcel, parcels(), partial(Engine, settings), scheduler)
    with console.work("photos") as work, contextlib.closing(outcomes):
        for done, (parcel, result) in enumerate(outcomes, start=1):
            work.stage("restored", done, len(jobs))
            if isinstance(result, Exception):
                yield parcel.job, result
                continue
            outcome, files = result
            try:
                write_together(files, overwrite=parcel.job.wishes.overwrite)
            except BlindDeblurError as error:
                yield parcel.job, error
            else:
                yield parcel.job, outcome
    yield from unread


def restore(engine: "Engine", job: Job, progress: Progress = unheard) -> PhotoOutcome:
    """Read a photo, restore it, and write all of its results together. Raises BlindDeblurError if it cannot."""
    job.check()
    data = _data(job)
    if job.restored == STREAM:
        return produce(engine, job, data, lambda content, path: _to_standard_output(content), progress)
    with Together(overwrite=job.wishes.overwrite) as files:
        return produce(engine, job, data, files.add, progress)


def restore_parcel(engine: "Engine", parcel: Parcel) -> tuple[PhotoOutcome, list[tuple[Path, bytes]]]:
    """Restore a photo whose bytes were sent, and send those of its results back."""
    files: list[tuple[Path, bytes]] = []
    outcome = produce(engine, parcel.job, parcel.data, lambda data, path: files.append((path, data)))
    return outcome, files


def produce(engine: "Engine", job: Job, data: bytes, add: Add, progress: Progress = unheard) -> PhotoOutcome:
    """Restore a photo from the bytes of its file, hand those of each result to `add`, and return what became of it.

    The restored photo is handed over last.
    """
    from blinddeblur.pictures.evolution import Recording

    wishes = job.wishes
    picture = decoding.decode(data, wishes.most_pixels)
    ending = _ending(data) if job.restored == STREAM else job.restored.suffix
    if wishes.preview and max(picture.stored.shape) > PREVIEW_SIDE:
        small = engine.restore(fitted(picture.stored, PREVIEW_SIDE), progress).image
        write_bytes(encoding.encode(Photo(small), ".jpg"), job.preview, overwrite=wishes.overwrite)

    def keep(index: int, sample: Any) -> None:
        add(encoding.encode(picture.with_pixels(sample), ending), job.sample_paths[index])

    recording = Recording()
    result = engine.restore(picture.stored, progress, unseen if wishes.recording is None else recording, keep)
    if job.restored != STREAM:
        extras = kernel_files.kernel_files(result.kernel, job.stem)
        if result.uncertainty is not None:
            extras |= kernel_files.uncertainty_files(result.uncertainty, job.stem)
        if wishes.compare:
            side_by_side = Photo(compare(picture.stored, result.image, result.kernel))
            extras[job.comparison] = encoding.encode(side_by_side, ".png")
        if wishes.kernel_map is not None:
            kernels = result.kernel[None, None] if result.kernel_map is None else result.kernel_map
            extras[wishes.kernel_map] = encoding.encode(Photo(drawn(kernels)), ".png")
        for path, content in extras.items():
            add(content, path)
        if wishes.recording is not None:
            add(recording.gif(), wishes.recording)
    # What comes back as it was is not compressed once more.
    unchanged = result.unchanged and (job.restored == STREAM or job.restored.suffix == job.source.suffix)
    add(data if unchanged else encoding.encode(picture.with_pixels(result.image), ending), job.restored)
    return _outcome(job, result)


def _data(job: Job) -> bytes:
    if job.source == STREAM:
        return sys.stdin.buffer.read(decoding.most_bytes(job.wishes.most_pixels) + 1)
    return decoding.read_bytes(job.source, job.wishes.most_pixels)


def _ending(data: bytes) -> str:
    """The ending of a file with these bytes, where no name says it."""
    return {"JPEG": ".jpg", "TIFF": ".tiff", "WebP": ".webp", "BMP": ".bmp"}.get(format_of(data) or "", ".png")


def _to_standard_output(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _outcome(job: Job, result: "Result") -> PhotoOutcome:
    wishes = job.wishes
    kernel_preview, kernel = kernel_paths(job.stem)
    uncertain = result.uncertainty is not None
    uncertainty_preview, uncertainty = uncertainty_paths(job.stem) if uncertain else (None, None)
    return PhotoOutcome(
        input=job.source,
        restored=job.restored,
        kernel_preview=kernel_preview,
        kernel=kernel,
        recording=wishes.recording,
        **told(result),
        comparison=job.comparison if wishes.compare else None,
        kernel_map=wishes.kernel_map,
        varying=result.kernel_map is not None,
        confidence=result.confidence,
        expected_gain=result.expected_gain,
        hopeless=result.hopeless,
        kernel_prior=result.kernel_prior,
        samples=job.sample_paths or None,
        uncertainty_preview=uncertainty_preview,
        uncertainty=uncertainty,
        mean_uncertainty=None if result.uncertainty is None else float(result.uncertainty.mean()),
    )
