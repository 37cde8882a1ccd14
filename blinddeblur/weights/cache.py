"""Weights on the disk: where they lie, whether they are undamaged, and how a published file gets into the cache.

Knows files and checksums, not networks: what a prior does with its tensors is the prior's business. Nothing here is
downloaded: whoever needs weights asks `load_state`, which names the command when they are missing.

For an entry NAME whose published file is FILE, the cache folder holds

    FILE               the published file, until it is converted; a person may also put it there
    NAME.safetensors   the converted file, the only one that is loaded
    NAME.json          the checksums of both (see `_Pin`)
    NAME.lock          held while NAME is being installed
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import platformdirs

from blinddeblur.errors import DownloadError, OutputError, UsageError, WeightsError
from blinddeblur.weights.manifest import RETRAIN, Entry

if TYPE_CHECKING:
    from torch import Tensor

COMMAND = "blinddeblur download-weights"


class State(StrEnum):
    """What is on the disk of an entry."""

    BUNDLED = "bundled"
    PRESENT = "present"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Stored:
    """State of an entry, the file that is loaded (there or not), and a sentence about it."""

    state: State
    path: Path
    detail: str


@dataclass(frozen=True)
class _Pin:
    """What the cache knows of a converted file, so that a later damage or exchange is noticed."""

    source_sha256: str  # of the published file
    size: int  # of the converted file, in bytes
    sha256: str  # of the converted file


def cache_folder() -> Path:
    """The folder of downloaded weights: BLINDDEBLUR_CACHE, else the platform's cache folder. It may not exist yet."""
    if chosen := os.environ.get("BLINDDEBLUR_CACHE"):
        return Path(chosen).expanduser()
    return platformdirs.user_cache_path("blinddeblur", appauthor=False)


def checksum(entry: Entry) -> str | None:
    """The sha256 that the published file must have: as listed, else as pinned when it was first accepted."""
    if entry.sha256 is not None:
        return entry.sha256
    pin = _read_pin(entry)
    return pin.source_sha256 if pin else None


def status(entry: Entry, *, hashed: bool = False) -> Stored:
    """What is on the disk of an entry, by its size and, if `hashed`, its sha256 (seconds for a large file)."""
    path = _loadable(entry)
    if not path.is_file():
        return Stored(State.MISSING, path, f"The weights {entry.name} are not there ({path}).")
    if problem := _stored_problem(entry, path, hashed):
        return Stored(State.DAMAGED, path, f"The weights {entry.name} ({path}) are damaged: {problem}.")
    state = State.BUNDLED if entry.bundled else State.PRESENT
    return Stored(state, path, f"The weights {entry.name} are in {path}.")


def locate(entry: Entry) -> Path:
    """The safetensors file to load: bundled and trained ones checked by sha256, those in the cache by their size.

    Raises WeightsError where it is missing or damaged; the message names the command that gets it.
    """
    found = status(entry, hashed=entry.home is not None)
    if found.state in (State.BUNDLED, State.PRESENT):
        return found.path
    if entry.bundled:
        raise WeightsError(f"{found.detail} Reinstall blinddeblur.")
    raise WeightsError(f"{found.detail} {RETRAIN if entry.home else f'Run `{COMMAND} {entry.name}` first.'}")


def load_state(entry: Entry) -> "dict[str, Tensor]":
    """The tensors of an entry by their names, in float32 on the CPU. Never downloads. Raises WeightsError as locate."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = locate(entry)
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise WeightsError(
            f"The weights {entry.name} ({path}) are damaged: {error}. Run `{COMMAND} {entry.name}` to replace them."
        ) from error


def place(entry: Entry, source: Path, *, trust: bool = False) -> Path:
    """Check and convert a file that a person has fetched, which stays as it is; returns what `load_state` reads.

    Raises:
        UsageError: the file cannot be read, the entry needs none, or no checksum is known and `trust` was not given.
        WeightsError: the file is not as listed, or no checkpoint.
        OutputError: the cache cannot be written.
    """
    if entry.bundled:
        raise UsageError(f"The weights {entry.name} come with blinddeblur. They need no file.")
    require_checksum(entry, trust)
    try:
        digest = proven_digest(entry, source)
    except OSError as error:
        raise UsageError(f"The file {source} cannot be read: {error.strerror}.") from error
    with installing(entry):
        return install(entry, source, digest)


def require_checksum(entry: Entry, trust: bool) -> None:
    """Raise UsageError where no checksum is known and the user has not said to trust what arrives."""
    if checksum(entry) is None and not trust:
        raise UsageError(
            f"Nobody has published a checksum of {entry.file}, so a wrong file could not be told from the right one. "
            f"Give --trust to accept the weights {entry.name} as they are and to record their checksum for later."
        )


def proven_digest(entry: Entry, path: Path) -> str:
    """The sha256 of a published file. Raises WeightsError if it is not the listed or pinned file."""
    expected = checksum(entry)
    if problem := _difference(path, entry.size, expected):
        pinned = f" What to expect was recorded in {_pin_path(entry)} when the file was first accepted."
        origin = pinned if entry.sha256 is None and expected else ""
        raise WeightsError(f"{path} is not the file listed as {entry.name}: {problem}.{origin}")
    return expected or _sha256(path)


@contextlib.contextmanager
def installing(entry: Entry) -> Iterator[None]:
    """Hold the lock of an entry in the cache folder, made if need be. An OSError meanwhile becomes an OutputError.

    Where another process holds it, that is a DownloadError. The system frees it when a process ends, however it does.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f"{entry.name}.lock", timeout=0):
            yield
    except filelock.Timeout:
        raise DownloadError(
            f"Another process is just now installing the weights {entry.name}. Try again when it has finished."
        ) from None
    except OSError as error:
        raise OutputError(
            f"The cache {folder} cannot be written: {error.strerror}. "
            "Make room or permit writing there, or set BLINDDEBLUR_CACHE to another folder."
        ) from error


def install(entry: Entry, original: Path, digest: str) -> Path:
    """Convert a checked checkpoint of that sha256 to safetensors and pin both checksums; returns the new file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = _read_checkpoint(entry, original)
    path = _loadable(entry)
    temporary = path.with_suffix(".tmp")
    try:
        save_file(state, temporary)
        # The pin comes first: whatever is interrupted here is then found missing or damaged, never taken for good.
        _write_pin(entry, _Pin(digest, temporary.stat().st_size, _sha256(temporary)))
        temporary.replace(path)
    except SafetensorError as error:
        raise OutputError(f"The weights {entry.name} could not be written to {temporary}: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _read_checkpoint(entry: Entry, path: Path) -> "dict[str, Tensor]":
    """The tensors of a pickled checkpoint, read without executing what it contains."""
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken pickle makes the unpickler raise
        raise WeightsError(
            f"{path} is no checkpoint of {entry.name} that can be read without executing code. "
            "Remove it, and fetch the file from its authors."
        ) from error
    if isinstance(checkpoint, dict) and len(checkpoint) == 1:
        (inner,) = checkpoint.values()
        if isinstance(inner, dict):
            checkpoint = inner  # {"state_dict": {...}}: there is nothing else that could be meant
    flat = isinstance(checkpoint, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in checkpoint.items()
    )
    if not flat or not checkpoint:
        raise WeightsError(f"{path} is no checkpoint of {entry.name}: it holds other things than named tensors.")
    # Copies, because safetensors refuses tensors that share memory.
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in checkpoint.items()}


def _loadable(entry: Entry) -> Path:
    """Where the file that is loaded belongs."""
    return cache_folder() / f"{entry.name}.safetensors" if entry.home is None else entry.home / entry.file


def _stored_problem(entry: Entry, path: Path, hashed: bool) -> str | None:
    """What is wrong with the file that is loaded, or None."""
    if entry.home is not None:
        return _difference(path, entry.size, entry.sha256 if hashed else None)
    pin = _read_pin(entry)
    if pin is None:
        return "the record of its checksum is missing"
    if pin.source_sha256 != checksum(entry):
        return f"it was made from a file with sha256 {pin.source_sha256}, and {entry.sha256} is listed"
    return _difference(path, pin.size, pin.sha256 if hashed else None)


def _difference(path: Path, size: int | None, sha256: str | None) -> str | None:
    """How a file differs from the size and sha256 it should have (None: anything will do), or None."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found} bytes, expected {size}"
    if sha256 is not None and (digest := _sha256(path)) != sha256:
        return f"its sha256 is {digest}, expected {sha256}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pin_path(entry: Entry) -> Path:
    return cache_folder() / f"{entry.name}.json"


def _read_pin(entry: Entry) -> _Pin | None:
    try:
        return _Pin(**json.loads(_pin_path(entry).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # a record that cannot be read proves nothing


def _write_pin(entry: Entry, pin: _Pin) -> None:
    temporary = _pin_path(entry).with_suffix(".json.tmp")
    temporary.write_text(json.dumps(asdict(pin), indent=2), encoding="utf-8")
    temporary.replace(_pin_path(entry))
