"""Runs a command and writes its seconds, peak memory and exit code: python -I -S measured.py REPORT TIMEOUT COMMAND...

A process of its own, without libraries, since the system counts as memory of a command also what its parent holds at
the moment it starts it: beside torch, every small program would seem to take hundreds of megabytes.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType


def main(report: Path, timeout: float, command: list[str]) -> None:
    """Run the command, in a group of its own that ends with it, with this process's input, output and environment."""
    late = False
    start = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ, setsid=True)

    def end(signum: int, _: FrameType | None) -> None:
        nonlocal late
        late = signum == signal.SIGALRM
        os.killpg(child, signal.SIGKILL)

    for signum in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, end)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    _, status, usage = os.wait4(child, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss in bytes
    found = {
        "seconds": time.monotonic() - start,
        "peak": usage.ru_maxrss * unit / 2**20,
        "code": os.waitstatus_to_exitcode(status),
        "late": late,
    }
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # what it left running
    report.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
