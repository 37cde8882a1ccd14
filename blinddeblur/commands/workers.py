"""Jobs on several processes of this machine: which runs where, and what happens when a process dies.

Knows nothing of photos and files: a task is any function of an engine and a job. For other machines see cluster.py.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from blinddeblur.commands.outcome import attempt
from blinddeblur.errors import EstimationError

E = TypeVar("E")  # an engine: whatever is made once in a process, and used by one job after the other
J = TypeVar("J")  # a job
T = TypeVar("T")  # its outcome

GRACE = 5.0  # seconds a process has to tidy up its files; a tensor operation, which it has to finish, takes less

LOST = (
    "Every process that worked on this photo was ended by the system; most likely the memory did not suffice. "
    "Use fewer workers, or a smaller photo."
)
NOT_STARTED = (
    "The processes were ended by the system while they started; most likely the memory did not suffice. "
    "Use fewer workers."
)

_SPAWN = multiprocessing.get_context("spawn")  # a forked copy of a process that has used torch may hang


def run(
    task: Callable[[E, J], T], jobs: Iterable[J], makers: Sequence[Callable[[], E]]
) -> Generator[tuple[J, T | Exception], None, None]:
    """Do the jobs in processes of this machine, one for each maker of an engine.

    A job whose process dies is done once more, after all the others and in a fresh process. Closing the iterator ends
    all processes; use contextlib.closing, so that an exception on the way does it as well. They raise SystemExit
    where they are, which lets them remove half-written files. Raises BlindDeblurError where an engine cannot be made.

    Args:
        task: a function at the top of a module, called with an engine and a job.
        jobs: that can be pickled.
        makers: functions that can be pickled, each called once, in its process.

    Yields:
        each job with its outcome, in the order in which they are done. The outcome is an exception if the task raised
        one: a BlindDeblurError as it was, anything else as a RuntimeError with the traceback. It is an EstimationError
        if the process died twice.
    """
    fresh, again = ((job, False) for job in jobs), deque[tuple[J, bool]]()  # jobs, and whether it is the second time
    working: dict[Any, _Worker[E, J]] = {}
    processes = []
    proven: Callable[[], E] | None = None  # what has made an engine and may do so again

    def next_turn() -> tuple[J, bool] | None:
        return next(fresh, None) or (again.popleft() if again else None)

    def start(make: Callable[[], E]) -> None:
        if turn := next_turn():
            worker = _Worker(task, make, turn)
            working[worker.pipe] = worker
            processes.append(worker.process)

    try:
        for make in makers:
            start(make)
        while working:
            for pipe in wait(list(working)):
                worker = working[pipe]
                job, second = worker.turn
                try:
                    outcome = worker.pipe.recv()
                except (EOFError, OSError):  # the process is dead
                    del working[pipe]
                    if worker.ready and second:
                        yield job, EstimationError(LOST)
                    else:
                        again.append((job, second or worker.ready))
                    if worker.ready:
                        start(worker.make)
                    elif not working:  # one that has died while it started is done without, as long as there are others
                        if proven is None:
                            raise EstimationError(NOT_STARTED) from None
                        start(proven)
                        proven = None
                    continue
                if not worker.ready:
                    if isinstance(outcome, Exception):
                        raise outcome
                    proven = worker.make
                    worker.begin()
                    continue
                if turn := next_turn():
                    worker.turn = turn
                    worker.begin()
                else:
                    del working[pipe]
                    worker.pipe.close()  # the process ends
                yield job, outcome
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(GRACE)
            process.kill()
            process.join()


class _Worker(Generic[E, J]):
    """A process with its engine, and the job it works on: (job, whether it is the second time)."""

    def __init__(self, task: Callable[[E, J], Any], make: Callable[[], E], turn: tuple[J, bool]) -> None:
        self.make, self.turn, self.ready = make, turn, False
        self.pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(task, make, theirs), daemon=True)
        with _interrupts_kept_from_children():
            self.process.start()
        theirs.close()  # so that the pipe ends with the process

    def begin(self) -> None:
        """The engine stands, or the last job is done."""
        self.ready = True
        with contextlib.suppress(OSError):  # has just died: the end of the pipe will tell
            self.pipe.send(self.turn[0])


@contextlib.contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Ctrl-C goes to all processes of a terminal. One that starts inherits what is blocked, and so never sees it."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(task: Callable[[E, J], Any], make: Callable[[], E], pipe: "Connection[Any, Any]") -> None:
    """What a process does: make the engine, say so, and then one job after the other until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    engine = attempt(make)
    with contextlib.suppress(EOFError, OSError):
        pipe.send(engine if isinstance(engine, Exception) else None)
        while True:
            pipe.send(attempt(task, engine, pipe.recv()))


def _end_with_parent() -> None:
    """However the parent ends, even killed: nobody would take the results."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
