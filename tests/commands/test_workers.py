"""Jobs on processes of this machine: all are done, whatever happens to a process, and none outlives its parent."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tasks import dying, engine, missing, square, talk, troubled, where, write_slowly

from blinddeblur.commands.restore_photos import engines
from blinddeblur.commands.workers import LOST, run
from blinddeblur.errors import EstimationError, PhotoError, WeightsError
from blinddeblur.settings import Settings

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes where Linux lists them")


MAKERS = [partial(engine, "a"), partial(engine, "b")]


def test_all_jobs_are_done_by_all_processes() -> None:
    outcomes = dict(run(where, range(12), MAKERS))
    assert set(outcomes) == set(range(12))
    assert len(set(outcomes.values())) == 2
    assert os.getpid() not in outcomes.values()


def test_each_process_has_its_own_engine() -> None:
    outcomes = dict(run(square, iter(range(20)), MAKERS))
    assert {number: value for number, (_, value) in outcomes.items()} == {number: number**2 for number in range(20)}
    assert {name for name, _ in outcomes.values()} <= {"a", "b"}


def test_no_job_needs_no_process() -> None:
    assert list(run(square, [], [missing])) == []


def test_a_dead_process_costs_its_job_a_retry_and_no_other_job_anything(tmp_path: Path) -> None:
    jobs = [(what, tmp_path / str(index)) for index, what in enumerate(["x", "die once", "die", "x", "die once", "x"])]
    outcomes = list(run(troubled, jobs, MAKERS))
    assert sorted(job for job, _ in outcomes) == sorted(jobs)
    for (what, _), outcome in outcomes:
        if what == "die":
            assert isinstance(outcome, EstimationError)
            assert str(outcome) == LOST
        else:
            assert outcome == what


def test_what_killed_its_process_is_done_after_all_others(tmp_path: Path) -> None:
    jobs = [(what, tmp_path / str(index)) for index, what in enumerate(["die once", "x", "fail"])]
    assert [what for (what, _), _ in run(troubled, jobs, MAKERS[:1])] == ["x", "fail", "die once"]


def test_exceptions_come_back_as_values(tmp_path: Path) -> None:
    jobs = [(what, tmp_path) for what in ("fail", "bug", "x")]
    outcomes = {what: outcome for (what, _), outcome in run(troubled, jobs, MAKERS)}
    assert isinstance(outcomes["fail"], PhotoError)
    assert str(outcomes["fail"]) == "The picture is too small."
    assert isinstance(outcomes["bug"], RuntimeError)
    assert "KeyError: 'bug'" in str(outcomes["bug"])
    assert "in troubled" in str(outcomes["bug"])
    assert outcomes["x"] == "x"


def test_an_engine_that_cannot_be_made_ends_it_all() -> None:
    with pytest.raises(WeightsError, match="missing"):
        list(run(square, range(3), [missing, missing]))


def test_a_process_that_dies_while_it_starts_is_done_without() -> None:
    for makers in ([dying, *MAKERS], [*MAKERS, dying]):
        assert len(list(run(square, range(4), makers))) == 4
    with pytest.raises(EstimationError, match="while they started"):
        list(run(square, range(3), [dying, dying]))


def test_processes_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert len(list(run(talk, range(2), MAKERS))) == 2
    assert capfd.readouterr() == ("", "")


def _ended(pid: int) -> bool:
    """Also if nobody has taken note of it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _eventually(condition: Callable[[], object], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.05)
    return bool(condition())


@linux
def test_closing_ends_the_process_and_leaves_no_half_written_file(tmp_path: Path) -> None:
    with contextlib.closing(run(write_slowly, [0, 60, 60], [partial(Path, tmp_path)])) as outcomes:
        next(outcomes)
        assert _eventually(lambda: list(tmp_path.iterdir()))
        pid = int(next(tmp_path.iterdir()).stem)
        assert not _ended(pid)
    assert list(tmp_path.iterdir()) == []
    assert _ended(pid)


PARENT = """
import sys
from pathlib import Path
from functools import partial
from blinddeblur.commands.workers import run
from tasks import write_slowly

if __name__ == "__main__":
    try:
        list(run(write_slowly, [60] * 5, [partial(Path, sys.argv[1])] * 2))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@linux
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_no_process_outlives_its_parent(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    script, folder = tmp_path / "parent.py", tmp_path / "files"
    script.write_text(PARENT)
    folder.mkdir()
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, script, folder],
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it for background jobs
    )
    assert _eventually(lambda: len(list(folder.iterdir())) == 2)
    pids = [int(path.stem) for path in folder.iterdir()]
    if sent is signal.SIGINT:
        os.killpg(parent.pid, sent)  # as a terminal does
    else:
        parent.send_signal(sent)
    output, _ = parent.communicate(timeout=60)
    assert parent.returncode == code
    assert output == b""
    assert _eventually(lambda: all(map(_ended, pids)), 0 if sent is signal.SIGINT else 5)
    assert list(folder.iterdir()) == []


def test_threads_are_divided_and_gpus_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [maker.args for maker in engines(Settings(device="cpu"), 3)] == [(Settings(device="cpu"), 2)] * 3
    assert [maker.args[0].device for maker in engines(Settings(), 3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [maker.args[0].device for maker in engines(Settings(device="cuda:1"), 2)] == ["cuda:1"] * 2
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert [maker.args for maker in engines(Settings(), 20)] == [(Settings(), 1)] * 20
