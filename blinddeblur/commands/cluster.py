"""Jobs on the workers of a dask.distributed scheduler, on any number of machines; workers.py is for this one alone.

The workers need this package, but no files of this machine. The package `distributed` is only imported here.
"""

import asyncio
import logging
import pickle
import threading
from collections.abc import Callable, Generator, Iterable
from importlib import import_module
from itertools import islice
from typing import Any

from blinddeblur.commands.outcome import attempt
from blinddeblur.commands.workers import LOST, E, J, T
from blinddeblur.errors import BlindDeblurError, EstimationError, UsageError

PATIENCE = 10.0  # seconds for a scheduler to answer, and for its first worker

_making = threading.Lock()  # a worker may run several jobs at once, but makes one engine
_made: dict[bytes, Any] = {}


def run(
    task: Callable[[E, J], T], jobs: Iterable[J], make: Callable[[], E], address: str, patience: float = PATIENCE
) -> Generator[tuple[J, T | Exception], None, None]:
    """Do the jobs on the workers of a dask scheduler, which need this package but no files of this machine.

    A job whose worker dies is done again by another; the scheduler gives up when that has happened more often than its
    setting distributed.scheduler.allowed-failures says, which is three. What it gave up is done once more, alone, after
    all the others: it may only have waited on workers that another job ended. Yields as workers.run does.

    Args:
        task, jobs: as of workers.run.
        make: makes the engine, once in each process of the cluster.
        address: of the scheduler, such as tcp://host:8786.
        patience: seconds for it to answer, and for its first worker.

    Raises:
        UsageError: `distributed` is not installed, no scheduler answers, it has no workers, or they lack this package.
        EstimationError: the scheduler is lost on the way.
        BlindDeblurError: an engine cannot be made.
    """
    try:
        distributed, dask = import_module("distributed"), import_module("dask")
    except ImportError as error:
        raise UsageError("A cluster needs the package distributed: pip install 'blinddeblur[cluster]'.") from error
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it has to say are exceptions as well
    fresh, made = iter(jobs), pickle.dumps(make)
    running: dict[Any, J] = {}
    given_up: list[J] = []
    last_chance = False
    _check_scheduler(distributed, address, patience)
    client = distributed.Client(address, timeout=patience, set_as_default=False)
    try:
        try:
            client.wait_for_workers(1, timeout=patience)
        except TimeoutError as error:
            raise UsageError(f"The scheduler at {address} has no workers. Start some: dask worker {address}") from error
        finished = distributed.as_completed(loop=client.loop)

        def send() -> None:
            """A job for each idle thread, no more: when a worker dies, dask blames all jobs that it has.

            One at least, even if all workers are gone for the moment: it waits for the next one.
            """
            nonlocal last_chance
            room = max(0 if running else 1, sum(client.nthreads().values()) - len(running))
            jobs = list(islice(fresh, room))
            if not jobs and not running and given_up:
                last_chance = True
                jobs = [given_up.pop()]
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):  # photos are large
                for job in jobs:
                    future = client.submit(_on_cluster, task, made, job, pure=False)
                    running[future] = job
                    finished.add(future)

        send()
        while running:
            future = next(finished)
            job = running.pop(future)
            try:
                outcome = future.result()
            except distributed.KilledWorker:
                if not last_chance:
                    given_up.append(job)
                    send()
                    continue
                outcome = EstimationError(LOST)
            except BlindDeblurError:  # on the way to an engine
                raise
            except distributed.CancelledError as error:
                raise EstimationError(
                    f"The connection to the scheduler at {address} was lost. Restore what is missing once it is back."
                ) from error
            except Exception as error:
                raise UsageError(
                    f"The workers of {address} cannot do this: {error}. Install the same version of blinddeblur there."
                ) from error
            send()
            yield job, outcome
    finally:
        client.cancel(list(running))
        client.close()


def _check_scheduler(distributed: Any, address: str, patience: float) -> None:
    """Raise UsageError if none answers. A Client would say so as well, but not end for another 20 seconds."""

    async def ask() -> None:
        async with asyncio.timeout(patience):
            security = distributed.Security().get_connection_args("client")
            comm = await distributed.connect(address, timeout=patience, **security)
            await comm.close()

    try:
        asyncio.run(ask())
    except Exception as error:  # of any kind: what answers may be no scheduler
        raise UsageError(f"No dask scheduler answers at {address}. Start one, or correct the address.") from error


def _on_cluster(task: Callable[[E, J], T], made: bytes, job: J) -> T | Exception:
    """A job on a worker of a cluster, where several threads may share the engine."""
    with _making:
        if made not in _made:
            _made.clear()
            _made[made] = pickle.loads(made)()
        engine = _made[made]
    return attempt(task, engine, job)
