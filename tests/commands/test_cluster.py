"""Jobs on a real dask scheduler with two workers: all are done, even if a worker is killed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import distributed
import pytest
from pytest_httpserver import HTTPServer
from tasks import engine, missing, troubled, where

from blinddeblur.commands import cluster
from blinddeblur.commands.workers import LOST
from blinddeblur.errors import EstimationError, PhotoError, UsageError, WeightsError

MAKE = partial(engine, "a")


def start(log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with log.open("wb") as file:
        command = [sys.executable, "-m", "dask", *arguments]
        settings = {"PYTHONPATH": paths, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}  # three take longer
        return subprocess.Popen(command, env=os.environ | settings, stdout=file, stderr=file)


def address_in(log: Path, words: str = "Scheduler at:") -> str:
    """Of the scheduler that writes the log, or that a worker who writes it has registered to."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for line in log.read_text().splitlines():
            if words in line:
                return line.split()[-1]
        time.sleep(0.1)
    pytest.fail(f"It has not started: {log.read_text()}")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a scheduler with two workers, each a process that is started again when it dies."""
    folder = tmp_path_factory.mktemp("cluster")
    processes = [start(folder / "scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")]
    try:
        address = address_in(folder / "scheduler")
        for name in ("a", "b"):
            options = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(folder)]
            processes.append(start(folder / name, "worker", address, *options))
        for name in ("a", "b"):
            address_in(folder / name, "Registered to:")
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):  # one that starts a worker again does not listen
                process.wait(5)
            process.kill()
            process.wait()


def test_a_killed_worker_costs_no_job(address: str) -> None:
    pids = set()
    outcomes = {}
    for job, pid in cluster.run(where, range(12), MAKE, address):
        if not outcomes:
            os.kill(pid, signal.SIGKILL)
        outcomes[job] = pid
        pids.add(pid)
    assert set(outcomes) == set(range(12))
    assert os.getpid() not in pids
    assert len(pids) >= 2


def test_a_job_that_always_kills_its_worker_fails_alone(address: str, tmp_path: Path) -> None:
    jobs = [(what, tmp_path / str(index)) for index, what in enumerate(["x", "die once", "die", "x", "fail", "bug"])]
    outcomes = dict(cluster.run(troubled, jobs, MAKE, address))
    assert set(outcomes) == set(jobs)
    named = {what: outcome for (what, _), outcome in outcomes.items()}
    assert isinstance(named["die"], EstimationError)
    assert str(named["die"]) == LOST
    assert isinstance(named["fail"], PhotoError)
    assert isinstance(named["bug"], RuntimeError)
    assert "KeyError: 'bug'" in str(named["bug"])
    assert (named["x"], named["die once"]) == ("x", "die once")


def test_what_the_scheduler_gave_up_is_done_once_more_alone(address: str, tmp_path: Path) -> None:
    with distributed.Client(address, set_as_default=False) as client:
        client.run_on_scheduler(blame_at_once)
        jobs = [(what, tmp_path / what) for what in ("die once", "die", "x")]
        outcomes = {what: outcome for (what, _), outcome in cluster.run(troubled, jobs, MAKE, address)}
        assert (outcomes["die once"], outcomes["x"], str(outcomes["die"])) == ("die once", "x", LOST)


def blame_at_once(dask_scheduler: distributed.Scheduler) -> None:
    dask_scheduler.allowed_failures = 0


def test_large_jobs_and_outcomes_travel(address: str) -> None:
    photo = os.urandom(20_000_000)
    ((job, outcome),) = cluster.run(returned, [photo], MAKE, address)
    assert job == outcome == photo


def returned(name: str, job: bytes) -> bytes:
    return job


def test_each_process_makes_one_engine(address: str) -> None:
    outcomes = [outcome for _, outcome in cluster.run(marked, range(10), object, address)]
    assert 1 <= len(set(outcomes)) <= 2


def marked(engine: object, job: int) -> tuple[int, int]:
    return os.getpid(), id(engine)


def test_an_engine_that_cannot_be_made_ends_it_all(address: str) -> None:
    with pytest.raises(WeightsError, match="missing"):
        list(cluster.run(where, range(3), missing, address))


def test_a_worker_without_the_package_is_reported(address: str) -> None:
    with pytest.raises(UsageError, match="Install the same version"):
        list(cluster.run(where, range(3), Unknown(), address))


class Unknown:
    """Looks on the workers for what is only here."""

    def __reduce__(self) -> tuple[object, ...]:
        return __import__, ("blinddeblur.of_another_version",)


@pytest.mark.parametrize("wrong", ["127.0.0.1:1", "nonsense", "http://127.0.0.1:8786", "127.0.0.1"])
def test_a_scheduler_that_does_not_answer_is_reported_in_time(wrong: str) -> None:
    begin = time.monotonic()
    with pytest.raises(UsageError, match="No dask scheduler answers at"):
        list(cluster.run(where, range(3), MAKE, wrong, patience=2))
    assert time.monotonic() - begin < 3


def test_what_answers_may_be_no_scheduler(httpserver: HTTPServer) -> None:
    with pytest.raises(UsageError, match="No dask scheduler answers at"):
        list(cluster.run(where, range(3), MAKE, f"{httpserver.host}:{httpserver.port}", patience=2))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match="blinddeblur\\[cluster\\]"):
        list(cluster.run(where, range(3), MAKE, "127.0.0.1:8786"))


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """One of its own, that a test may do anything to, and its address."""
    process = start(tmp_path / "scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    try:
        yield address_in(tmp_path / "scheduler"), process
    finally:
        process.kill()
        process.wait()


Scheduler = tuple[str, subprocess.Popen[bytes]]


def test_a_scheduler_without_workers_is_reported(scheduler: Scheduler) -> None:
    with pytest.raises(UsageError, match="has no workers"):
        list(cluster.run(where, range(3), MAKE, scheduler[0], patience=2))


def test_a_lost_scheduler_is_reported(scheduler: Scheduler, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    address, process = scheduler
    worker = start(tmp_path / "worker", "worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny")
    address_in(tmp_path / "worker", "Registered to:")
    with contextlib.closing(cluster.run(where, range(20), MAKE, address)) as outcomes:
        next(outcomes)
        process.kill()
        with pytest.raises(EstimationError, match="was lost"):
            list(outcomes)
    worker.wait(20)
    assert capfd.readouterr() == ("", "")
