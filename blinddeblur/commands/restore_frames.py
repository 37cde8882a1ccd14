"""One sequence through the engine for turbulence: what is read, which files come out, and what is said of them."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blinddeblur.commands.console import Console
from blinddeblur.commands.outcome import SequenceOutcome, attempt, exit_code, told
from blinddeblur.commands.plan import STREAM
from blinddeblur.errors import UsageError
from blinddeblur.files import encoding, kernel_files, sequence
from blinddeblur.files.names import MARK, real_name
from blinddeblur.files.photo import EXTENSIONS, MAXIMUM_PIXELS, Array, Photo
from blinddeblur.files.together import Together, all_there, check_free, recover
from blinddeblur.pictures.film import ENDINGS, FPS, film
from blinddeblur.pictures.tilts import tilt_picture
from blinddeblur.progress import Progress, unheard, unseen
from blinddeblur.settings import SequenceSettings

if TYPE_CHECKING:
    from blinddeblur.engine.result import SequenceResult
    from blinddeblur.engine.scene import TurbulenceEngine

NAMES = ("kernel.png", "kernel.npy", "tilt.png", "tilt.npz", "restored.png")  # of the results, always the same


@dataclass(frozen=True)
class SequenceJob:
    """A sequence, and where its results go.

    Attributes:
        name: what was given.
        sources: the files of the frames.
        folder: for the results, whose names are always the same.
        stabilised, recording: where a film without tilt and an animation of the restoration go; None for none.
        chosen: which frames are taken.
        overwrite: whether results that exist already are replaced.
        most_pixels: a larger frame is refused.
    """

    name: Path
    sources: tuple[Path, ...]
    folder: Path
    stabilised: Path | None = None
    recording: Path | None = None
    chosen: slice = field(default_factory=lambda: slice(None))
    overwrite: bool = False
    most_pixels: int = MAXIMUM_PIXELS

    @property
    def named(self) -> list[Path]:
        """The picture and the array of the kernel, the picture and the fields of the tilt, and the restored picture."""
        return [self.folder / name for name in NAMES]

    @property
    def results(self) -> tuple[Path, ...]:
        """Every file that will be written, the restored picture last."""
        *others, restored = self.named
        return *others, *(path for path in (self.stabilised, self.recording) if path is not None), restored


def plan(inputs: Iterable[Path], output: Path | None, **wishes: Any) -> SequenceJob:
    """The job that was asked for.

    Args:
        inputs: a folder, a pattern, a video, or pictures.
        output: the folder for the results; None for NAME.deblurred beside the input.
        wishes: attributes of the job.

    Raises:
        PhotoError: a folder or a pattern without pictures.
        UsageError: a place for results that is none, or that is a frame's.
    """
    given = list(inputs)
    sources = tuple(sequence.find(given))
    if output is None:
        # Of several pictures, their folder is the sequence. A file keeps its ending, so that no two share a folder.
        start = given[0] if len(given) == 1 and os.path.exists(given[0]) else sources[0].parent
        start = start if start.name.strip(".") else start.resolve()
        output = start.with_name(start.name + MARK)
    elif output == STREAM:
        raise UsageError("The results are several files. Give a folder as -o.")
    elif output.suffix.lower() in (*EXTENSIONS, *ENDINGS) and not output.is_dir():
        raise UsageError(f"{output}: The results are several files, with names of their own. Give a folder as -o.")
    job = SequenceJob(given[0] if len(given) == 1 else sources[0].parent, sources, output, **wishes)
    for option, path, endings in (("--stabilised", job.stabilised, ENDINGS), ("--record", job.recording, (".gif",))):
        if path is not None and path.suffix.lower() not in endings:
            raise UsageError(f"{path}: {option} writes a film. Name a file that ends in {' or '.join(endings)}.")
    _refuse_collisions(job)
    return job


def run(job: SequenceJob, settings: SequenceSettings, console: Console) -> int:
    """Restore a sequence, unless that was finished before. Returns the exit code.

    Raises BlindDeblurError for what does not concern the frames, such as weights that are missing.
    """
    from blinddeblur.engine.scene import TurbulenceEngine

    for folder in {path.parent for path in job.results}:
        recover(folder, [job.results])
    if not job.overwrite and all_there(job.results):
        console.skipped(job.name, job.folder)
        return 0
    engine = TurbulenceEngine(settings)
    with console.work(job.name.name or str(job.name)) as work:
        outcome = attempt(restore, engine, job, work.stage)
    if isinstance(outcome, Exception):
        console.failure(job.name, outcome)
        return exit_code(outcome)
    console.result(outcome)
    return 0


def restore(engine: "TurbulenceEngine", job: SequenceJob, progress: Progress = unheard) -> SequenceOutcome:
    """Read the frames, restore the scene, and write all results together. Raises BlindDeblurError if it cannot."""
    from blinddeblur.pictures.evolution import Recording

    check_free(*job.results, overwrite=job.overwrite)  # before minutes are spent
    seen = sequence.read(list(job.sources), job.chosen, job.most_pixels, progress)
    recording = Recording()
    result = engine.restore(seen.frames, progress, unseen if job.recording is None else recording)
    with Together(overwrite=job.overwrite) as files:
        *paths, restored = job.named
        kernel = kernel_files.kernel_files(result.kernel, job.folder / "kernel").values()
        for path, data in zip(paths, (*kernel, *_tilt_files(result, seen)), strict=True):
            files.add(data, path)
        if job.stabilised is not None:
            files.add(_stabilised(result, seen, job.stabilised.suffix.lower(), progress), job.stabilised)
        if job.recording is not None:
            files.add(recording.gif(), job.recording)
        files.add(encoding.encode(seen.like.with_pixels(result.image), ".png"), restored)
    return _outcome(job, seen, result)


def _tilt_files(result: "SequenceResult", seen: sequence.Film) -> tuple[bytes, bytes]:
    """The bytes of the picture and of the fields of the tilt."""
    height, width = seen.frames[0].shape[:2]
    picture = Photo(tilt_picture(result.tilts, result.spacing, height, width))
    names = np.array(seen.names)
    fields = kernel_files.npz(tilts=result.tilts, spacing=result.spacing, weights=result.weights, names=names)
    return encoding.encode(picture, ".png"), fields


def _stabilised(result: "SequenceResult", seen: sequence.Film, ending: str, progress: Progress) -> bytes:
    """A film of the frames without their tilt."""
    from blinddeblur.engine.scene import stabilised

    def frames() -> Iterator[Array]:
        for index, (frame, tilt) in enumerate(zip(seen.frames, result.tilts, strict=True)):
            yield stabilised(frame, tilt, result.spacing)
            progress("stabilised", index + 1, len(seen.frames))

    return film(frames(), seen.fps or FPS, ending)


def _refuse_collisions(job: SequenceJob) -> None:
    """No result takes the place of a frame or of another result, or lies where it would be taken for a frame."""
    frames = {real_name(source) for source in job.sources}
    taken: set[str] = set()
    for result in job.results:
        real = real_name(result)
        if real in frames:
            raise UsageError(f"{result} would replace what is to be restored. Choose another name.")
        if real in taken:
            raise UsageError(f"Two results would both be written to {result}. Choose another name for one.")
        taken.add(real)
    if len(frames) > 1 and real_name(job.folder) in {os.path.dirname(frame) for frame in frames}:
        raise UsageError(
            f"{job.folder} holds the frames, and results there would be taken for more. Choose another -o."
        )


def _outcome(job: SequenceJob, seen: sequence.Film, result: "SequenceResult") -> SequenceOutcome:
    lengths = np.hypot(result.tilts[:, 0], result.tilts[:, 1])
    kernel_preview, kernel, tilt_preview, tilt, restored = job.named
    return SequenceOutcome(
        input=job.name,
        restored=restored,
        kernel_preview=kernel_preview,
        kernel=kernel,
        recording=job.recording,
        **told(result) | {"warnings": (*seen.warnings, *result.warnings)},
        tilt_preview=tilt_preview,
        tilt=tilt,
        stabilised=job.stabilised,
        frames=len(seen.frames),
        left_out=seen.left_out,
        weights=tuple(map(float, result.weights)),
        tilt_rms=float(np.sqrt(np.square(lengths).mean())),
        tilt_largest=float(lengths.max()),
    )
