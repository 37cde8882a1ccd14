"""Contenders on cases: each run a process of its own, its seconds and memory measured, its result compared."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import measured, metrics
from benchmarks.contenders import BLURRED, FIRST, Contender
from benchmarks.results import Results, Row, cores
from benchmarks.sets import Case
from blinddeblur.errors import BlindDeblurError, EstimationError
from blinddeblur.estimation.noise import estimate_sigma
from blinddeblur.files import decoding, encoding, kernel_files
from blinddeblur.files.names import kernel_paths
from blinddeblur.files.photo import Photo, as_integers
from blinddeblur.files.together import write_together

KERNEL_SIZE = 31  # pixels; told where there is no true kernel
LINES, BYTES = 5, 4000  # of what a program that failed has said, its end


@dataclass(frozen=True)
class Usage:
    """Seconds and MB that a process took."""

    seconds: float
    peak: float


class NoResultError(Exception):
    """A contender gave no result. The message is a sentence."""


class Bench:
    """Runs contenders on cases.

    Args:
        cases: of the set.
        results: where rows go.
        folder: where restored pictures and kernels go, in a folder for each contender.
        seeds: that everything is run with.
        jobs: processes at once, which share the cores.
        say: hears of every row.
    """

    def __init__(
        self,
        cases: list[Case],
        results: Results[Row],
        folder: Path,
        seeds: list[int],
        jobs: int,
        say: Callable[[Row], None],
    ) -> None:
        self.cases, self.results, self.folder = cases, results, folder
        self.seeds, self.jobs, self.say = seeds, jobs, say
        self.threads = max(1, cores() // jobs)
        self._sigmas: dict[str, float] = {}
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, contenders: Iterable[Contender]) -> None:
        """Everything that is not finished yet; contenders that are given a kernel after the one that finds it."""
        for case in self.cases:
            if not self.finished(case.name, BLURRED, self.seeds[0]):
                figures = self._figures(case, _pixels(case.blurred), None)
                self._add(Row(case.name, BLURRED, self.seeds[0], **figures, seconds=0.0))
        groups: dict[bool, list[Contender]] = {False: [], True: []}
        for contender in contenders:
            groups[contender.uses("kernel")].append(contender)
        for group in groups.values():
            wanted = [(case, contender, seed) for case in self.cases for seed in self.seeds for contender in group]
            self._all([job for job in wanted if not self.finished(job[0].name, job[1].key, job[2])])

    def finished(self, case: str, contender: str, seed: int) -> bool:
        """Whether this result is there."""
        row = self.results.rows.get((case, contender, seed))
        return row is not None and row.finished

    def stem(self, contender: str, case: Case, seed: int) -> Path:
        """What the names of one result begin with: STEM.png, STEM.kernel.png, STEM.kernel.npy."""
        folder = self.folder / contender
        return (folder if len(self.seeds) == 1 else folder / f"seed-{seed}") / case.name

    def _all(self, wanted: list[tuple[Case, Contender, int]]) -> None:
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._row, *job) for job in wanted]
            try:
                for future in as_completed(futures):
                    self._add(future.result())
            except BaseException:
                self._stop()
                pool.shutdown(cancel_futures=True)
                raise

    def _add(self, row: Row) -> None:
        self.results.add(row)
        self.say(row)

    def _row(self, case: Case, contender: Contender, seed: int) -> Row:
        if contender.uses("true_kernel") and case.kernel is None:
            return Row(case.name, contender.key, seed, skipped="no true kernel is known")
        stem = self.stem(contender.key, case, seed)
        try:
            restored, kernel, usage = self._restored(case, contender, seed)
            encoding.write(restored, _png(stem), overwrite=True)
            if kernel is not None:
                write_together(kernel_files.kernel_files(kernel, stem).items(), overwrite=True)
            figures = self._figures(case, restored.pixels, kernel)
        except (NoResultError, EstimationError) as error:
            return Row(case.name, contender.key, seed, failure=str(error))
        return Row(case.name, contender.key, seed, **figures, **asdict(usage))

    def _restored(self, case: Case, contender: Contender, seed: int) -> tuple[Photo, NDArray[np.float64] | None, Usage]:
        """The picture, the kernel where the contender tells it, and what it took. Raises NoResultError."""
        with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
            work = Path(name)
            given, output = work / "input", work / "output"
            given.mkdir()
            output.mkdir()
            picture = given / case.blurred.name
            shutil.copyfile(case.blurred, picture)
            values = {
                "python": sys.executable,
                "blurred": str(picture),
                "input": str(given),
                "output": str(output),
                "seed": str(seed),
                "threads": str(self.threads),
                "kernel_size": str(KERNEL_SIZE),
            }
            if case.kernel is not None:
                values["true_kernel"] = str(case.kernel.with_suffix("").absolute())
                values["kernel_size"] = str(max(kernel_files.read_kernel(case.kernel).shape))
            if contender.uses("sigma"):
                values["sigma"] = f"{self._sigma(case):.5f}"
            if contender.uses("kernel"):
                found, _ = kernel_paths(self.stem(FIRST, case, seed))
                if not self.finished(case.name, FIRST, seed) or not found.exists():
                    raise NoResultError(f"{FIRST} has found no kernel for it.")
                values["kernel"] = str(found.with_suffix("").absolute())
            usage = self._measured(contender.filled(values), work, contender.timeout)
            restored = _read(decoding.read, _only(output, contender.result))
            kernel = _read(kernel_files.read_kernel, _only(output, contender.kernel)) if contender.kernel else None
        wanted = decoding.read(case.blurred).stored.shape[:2]
        if restored.stored.shape[:2] != wanted:
            height, width = restored.stored.shape[:2]
            raise NoResultError(f"The result has {width}x{height} pixels, and the picture {wanted[1]}x{wanted[0]}.")
        return Photo(restored.stored, depth=restored.depth), kernel, usage

    def _measured(self, command: list[str], work: Path, timeout: float) -> Usage:
        """Run a command. Raises NoResultError when it cannot be run, fails, or takes too long."""
        report, log = work / "report.json", work / "log"
        launcher = [sys.executable, "-I", "-S", measured.__file__, str(report), str(timeout), *command]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        if shutil.which(command[0]) is None:
            raise NoResultError(f"The program {command[0]} is missing.")
        with log.open("wb") as said, self._lock:
            if self._stopped:
                raise NoResultError("Interrupted.")
            # A session of its own: Ctrl-C is for this process, which ends the others and waits for them.
            process = subprocess.Popen(
                launcher,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, **threads},
                start_new_session=True,
            )
            self._running.add(process)
        process.wait()
        with self._lock:
            self._running.discard(process)
        if not report.exists():
            raise NoResultError(f"The program {command[0]} could not be started. {_last_words(log)}".strip())
        found = json.loads(report.read_text())
        if found["late"]:
            raise NoResultError(f"It was ended after {timeout:g} s. {_last_words(log)}".strip())
        if found["code"] != 0:
            what = f"signal {-found['code']}" if found["code"] < 0 else f"exit code {found['code']}"
            raise NoResultError(f"It ended with {what}. {_last_words(log)}".strip())
        return Usage(found["seconds"], found["peak"])

    def _stop(self) -> None:
        """End all processes; no more are started."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)  # which ends what it runs

    def _sigma(self, case: Case) -> float:
        if case.name not in self._sigmas:
            y = torch.from_numpy(_pixels(case.blurred)).permute(2, 0, 1)[None]
            self._sigmas[case.name] = estimate_sigma(y)
        return self._sigmas[case.name]

    @staticmethod
    def _figures(case: Case, restored: NDArray[Any], kernel: NDArray[Any] | None) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        if case.sharp is not None:
            figures |= asdict(metrics.likeness(restored, _pixels(case.sharp)))
        if case.kernel is not None and kernel is not None:
            figures["mnc"] = metrics.agreement(kernel, kernel_files.read_kernel(case.kernel))
        return figures


def pictures_of(bench: Bench, contenders: dict[str, str], case: Case, seed: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """What a contact sheet shows of a case: title -> picture uint8 (H, W, C), and `title kernel` -> kernel.

    contenders: title of each key.
    """
    yield BLURRED, _bytes(case.blurred)
    for key, title in contenders.items():
        stem = bench.stem(key, case, seed)
        if bench.finished(case.name, key, seed) and _png(stem).exists():
            yield title, _bytes(_png(stem))
            kernel = kernel_paths(stem)[1]
            if kernel.exists():
                yield f"{title} kernel", kernel_files.read_kernel(kernel)
    if case.sharp is not None:
        yield "truth", _bytes(case.sharp)
    if case.kernel is not None:
        yield "truth kernel", kernel_files.read_kernel(case.kernel)


def _png(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.png")


def _pixels(path: Path) -> NDArray[np.float32]:
    return decoding.read(path).pixels


def _bytes(path: Path) -> NDArray[Any]:
    return as_integers(decoding.read(path).stored, 8)


def _only(folder: Path, pattern: str) -> Path:
    """The one file in a folder that matches a pattern. Raises NoResultError."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in (found or sorted(folder.iterdir()))[:LINES])
        what = f"{len(found)} files match" if found else "No file matches"
        raise NoResultError(f"{what} {pattern} among its results: {names or 'there are none'}.")
    return found[0]


def _read(reader: Callable[[Path], Any], path: Path) -> Any:
    try:
        return reader(path)
    except BlindDeblurError as error:
        raise NoResultError(f"Its result cannot be read. {error}") from error


def _last_words(log: Path) -> str:
    """The end of what a program has said, as a sentence."""
    lines = log.read_bytes()[-BYTES:].decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()][-LINES:]
    return f"It said: {' / '.join(said)}" if said else "It said nothing."
