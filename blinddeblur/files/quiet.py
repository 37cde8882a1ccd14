"""OpenCV without a word on stderr: what it and the libraries beneath it print, we say in an exception."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Any

import cv2

_SILENT = 0  # log level
_STDERR = 2  # file descriptor
_ONE_AT_A_TIME = threading.Lock()


@contextlib.contextmanager
def silent_opencv() -> Iterator[IO[bytes]]:
    """Keep OpenCV from printing what we say in an exception; the libraries beneath it print into the file given.

    Their messages go to the process's stderr itself. That and OpenCV's log level are global, so both are put back, and
    one thread at a time has them.
    """
    logging: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 has moved these functions
    with _ONE_AT_A_TIME, _temporary_file() as said, contextlib.ExitStack() as afterwards:
        afterwards.callback(logging.setLogLevel, logging.getLogLevel())
        logging.setLogLevel(_SILENT)
        with contextlib.suppress(OSError):  # stderr may be closed
            stderr = os.dup(_STDERR)
            afterwards.callback(os.close, stderr)
            afterwards.callback(os.dup2, stderr, _STDERR)
            os.dup2(said.fileno(), _STDERR)
        yield said


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # where everything is read-only: what is printed is lost
        return open(os.devnull, "w+b")
