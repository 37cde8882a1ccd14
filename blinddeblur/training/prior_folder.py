"""The folder of a trained prior: what a training leaves there, and how it finds that again.

checkpoint.pt      everything needed to go on (see loop.py)
log.csv            a line for about every second: the loss is the mean over the last fifty steps
NAME.safetensors   the weights, 16 bit
weights.toml       the entry that `--prior FOLDER` reads
validation.json    figures on held-out data
samples.png        held-out examples: a row for each noise level, in threes: noisy, denoised, clean
"""

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from safetensors.torch import save
from torch import nn

from blinddeblur.errors import OutputError, UsageError
from blinddeblur.files import encoding
from blinddeblur.files.photo import Photo
from blinddeblur.files.together import write_bytes
from blinddeblur.training.loop import Status, read_checkpoint
from blinddeblur.training.validation import Report

if sys.platform != "win32":
    import fcntl

LOG_HEADER = "step,minutes,loss,learning_rate\n"


class PriorFolder:
    """A folder that belongs to one training at a time.

    Args:
        path: the folder; made when it is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.pt"
        self.log, self.weights = path / "log.csv", path / "weights.toml"
        self.validation, self.samples = path / "validation.json", path / "samples.png"

    def default_name(self) -> str:
        """A name made from that of the folder. Raises UsageError where nothing of it can be used."""
        name = re.sub("[^a-z0-9]+", "-", self.path.resolve().name.lower()).strip("-")
        return checked_name(name)

    def resumed(self) -> dict[str, Any] | None:
        """What the checkpoint of an earlier run says of it, if there is one: "step", "seconds" and "about".

        Raises:
            WeightsError: it is damaged.
            OutputError: there is none, but files that this training would replace.
        """
        if self.checkpoint.exists():
            checkpoint = read_checkpoint(self.checkpoint)
            return {key: checkpoint[key] for key in ("step", "seconds", "about")}
        taken = [path for path in (self.weights, self.validation, self.samples, self.log) if path.exists()]
        # A log without a line is left where a run was stopped before its first checkpoint.
        taken = [path for path in taken if path != self.log or path.stat().st_size]
        if taken:
            raise OutputError(
                f"{self.path} holds {taken[0].name}, but no checkpoint to go on from. Choose another folder with -o."
            )
        return None

    @contextlib.contextmanager
    def opened(self) -> Iterator[IO[str]]:
        """Hold the folder against a second training; gives the log, to be appended to.

        Raises:
            OutputError: another training holds it, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            log = self.log.open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}. Choose another -o.") from error
        with log:
            _lock(log, self.path)
            yield log

    def publish(self, average: nn.Module, entry: dict[str, Any], name: str, report: Report) -> list[Path]:
        """Write what the folder is used for, the entry last; returns every file.

        Args:
            average: the network.
            entry: fields of weights.toml but those that follow from the file.
            name: of the entry and of the file.
            report: figures and pictures.
        """
        weights = self.path / f"{name}.safetensors"
        data = save({key: value.half().cpu().contiguous() for key, value in average.state_dict().items()})
        write_bytes(data, weights, overwrite=True)
        write_bytes((json.dumps(report.figures, indent=2) + "\n").encode(), self.validation, overwrite=True)
        encoding.write(Photo(report.samples), self.samples, overwrite=True)
        digest = hashlib.sha256(data).hexdigest()
        fields = entry | {"file": weights.name, "addresses": [], "size": len(data), "sha256": digest, "bundled": False}
        write_bytes(_toml(name, fields).encode(), self.weights, overwrite=True)
        return [weights, self.weights, self.validation, self.samples, self.log, self.checkpoint]


def record(log: IO[str], status: Status) -> None:
    """Add a line to a log."""
    if log.tell() == 0:
        log.write(LOG_HEADER)
    log.write(f"{status.step},{status.minutes:.4f},{status.loss:.5f},{status.learning_rate:.3g}\n")
    log.flush()


def checked_name(name: str) -> str:
    """The name, if it can be that of an entry and of a file. Raises UsageError."""
    if not re.fullmatch("[a-z0-9][a-z0-9-]{0,63}", name):
        raise UsageError(f"A prior cannot be named {name!r}: give a --name of a-z, 0-9 and -, up to 64 of them.")
    return name


def _toml(name: str, fields: dict[str, Any]) -> str:
    """An entry of weights.toml. JSON writes numbers, lists and printable strings as TOML does."""

    def value(content: Any) -> str:
        if isinstance(content, dict):
            return "{ " + ", ".join(f"{key} = {value(inner)}" for key, inner in content.items()) + " }"
        return json.dumps(content, ensure_ascii=False)

    return "".join([f"[{name}]\n", *(f"{key} = {value(content)}\n" for key, content in fields.items())])


def _lock(log: IO[str], folder: Path) -> None:
    """Lock the log until it is closed, which the system does even if the process dies.

    A record lock: unlike the other kind it is not passed on to worker processes, which outlive a killed training.
    """
    if sys.platform != "win32":
        try:
            fcntl.lockf(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"Another training is just now writing to {folder}. Wait until it has finished, or choose another -o."
            ) from None
        except OSError:
            pass  # a network drive without locks
