"""How this process uses the machine: set before torch starts, and only where the user has not."""

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt(3)
KEPT = 2**31 - 1  # bytes that are free before any go back to the system


def prepare() -> None:
    """Threads that wait for each other sleep, and memory that is free again is kept.

    A thread that spins takes the core that the thread it waits for needs, once others compute there as well; and pages
    that come from the system anew at every step took a fifth of the time.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl has not
        if mallopt is not None:
            mallopt(MMAP_MAX, 0)
            mallopt(TRIM_THRESHOLD, KEPT)
