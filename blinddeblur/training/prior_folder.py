"""The folder of a trained prior: what a training leaves there, and how it finds that again.

checkpoint.pt      everything needed to go on (see loop.py)
log.csv            a line for about every second: the loss is the mean over the last fifty steps
NAME.safetensors   the weights, 16 bit
weights.toml       the entry that `--prior FOLDER` reads
validation.json    figures on held-out data
samples.png        held-out examples: a row for each noise level, in threes: noisy, denoised, clean
training.lock      held while a training writes here; the system frees it even if the process dies
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import filelock
from safetensors.torch import save
from torch import Tensor

from blinddeblur.errors import OutputError
from blinddeblur.files import encoding
from blinddeblur.files.photo import Photo
from blinddeblur.files.together import write_bytes
from blinddeblur.pictures.canvas import Picture
from blinddeblur.training.loop import TrainingStatus

LOG_HEADER = "step,minutes,loss,learning_rate\n"


class PriorFolder:
    """A folder that belongs to one training at a time; it is made when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.pt"
        self.log, self.weights = path / "log.csv", path / "weights.toml"
        self.validation, self.samples = path / "validation.json", path / "samples.png"

    def begun(self) -> bool:
        """Whether there is the checkpoint of an earlier run.

        Raises OutputError where there is none, but files that this training would replace.
        """
        if self.checkpoint.exists():
            return True
        # A log without a line is left where a run was stopped before its first checkpoint.
        results = (self.weights, self.validation, self.samples, self.log)
        taken = [path for path in results if path.exists() and (path != self.log or path.stat().st_size)]
        if taken:
            raise OutputError(
                f"{self.path} holds {taken[0].name}, but no checkpoint to go on from. Choose another folder with -o."
            )
        return False

    def require_no_training(self) -> None:
        """Raise OutputError where there is what this training would replace, the checkpoint of another one included."""
        if self.begun():
            raise OutputError(f"{self.path} holds the training of a network. Choose another folder with -o.")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder against a second training.

        Raises OutputError where another training holds it, or it cannot be written.
        """
        with contextlib.ExitStack() as held:
            with self._writing():
                self.path.mkdir(parents=True, exist_ok=True)
                # Workers outlive a killed training by seconds; filelock, from 4 on, closes the lock that they inherit.
                held.enter_context(filelock.FileLock(self.path / "training.lock", timeout=0))
            yield

    @contextlib.contextmanager
    def opened(self) -> Iterator[IO[str]]:
        """The same for the training of a network; gives the log, to be appended to."""
        with contextlib.ExitStack() as opened:
            opened.enter_context(self.held())
            with self._writing():
                log = opened.enter_context(self.log.open("a", encoding="utf-8"))
            yield log

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except filelock.Timeout:
            raise OutputError(
                f"Another training is just now writing to {self.path}. Wait until it has finished, or choose "
                "another -o."
            ) from None
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}. Choose another -o.") from error

    def publish(
        self,
        tensors: Mapping[str, Tensor],
        entry: dict[str, Any],
        name: str,
        figures: dict[str, Any],
        samples: Picture | None = None,
    ) -> list[Path]:
        """Write what the folder is used for, the entry last; returns every file.

        Args:
            tensors: by their names, in the precision to keep.
            entry: fields of weights.toml but those that follow from the file.
            name: of the entry and of the file.
            figures: how good it is.
            samples: a picture of that, (H, W, C) uint8.
        """
        weights = self.path / f"{name}.safetensors"
        data = save({key: value.cpu().contiguous() for key, value in tensors.items()})
        write_bytes(data, weights, overwrite=True)
        write_bytes((json.dumps(figures, indent=2) + "\n").encode(), self.validation, overwrite=True)
        if samples is not None:
            encoding.write(Photo(samples), self.samples, overwrite=True)
        digest = hashlib.sha256(data).hexdigest()
        fields = entry | {"file": weights.name, "addresses": [], "size": len(data), "sha256": digest, "bundled": False}
        write_bytes(_toml(name, fields).encode(), self.weights, overwrite=True)
        paths = [weights, self.weights, self.validation, self.samples, self.log, self.checkpoint]
        return [path for path in paths if path.exists()]


def record(log: IO[str], status: TrainingStatus) -> None:
    """Add a line to a log."""
    if log.tell() == 0:
        log.write(LOG_HEADER)
    log.write(f"{status.step},{status.minutes:.4f},{status.loss:.5f},{status.learning_rate:.3g}\n")
    log.flush()


def _toml(name: str, fields: dict[str, Any]) -> str:
    """An entry of weights.toml. JSON writes numbers, lists and printable strings as TOML does."""

    def value(content: Any) -> str:
        if isinstance(content, dict):
            return "{ " + ", ".join(f"{key} = {value(inner)}" for key, inner in content.items()) + " }"
        return json.dumps(content, ensure_ascii=False)

    return "".join([f"[{name}]\n", *(f"{key} = {value(content)}\n" for key, content in fields.items())])
