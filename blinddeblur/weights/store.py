"""Network weights: the manifest, the cache, downloads and their verification.

Knows files and checksums, not networks: what a prior does with its tensors is the prior's business. Nothing here
prints, and nothing is downloaded unless `download` is called: whoever needs weights asks `load_state`, which names
the command when they are missing.

For an entry NAME whose published file is FILE, the cache folder holds

    FILE.part          the download under way, with FILE.part.validator: which version of the file it is a part of
    FILE               the published file, checked, until it is converted; a person may also put it there
    NAME.safetensors   the converted file, the only one that is loaded
    NAME.json          the checksums of both (see `_Pin`)
    NAME.lock          held while NAME is being installed

A prior that a user has trained lies in a folder of its own: a weights.toml with its entry, and its file beside it.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from blinddeblur.errors import DownloadError, OutputError, UsageError, WeightsError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    import requests
    from torch import Tensor

COMMAND = "blinddeblur download-weights"
KINDS = ("image", "kernel", "tilt")
ARCHITECTURES = ("compact", "conditioned", "guided-diffusion")

_PACKAGE = Path(__file__).parent.parent
_REQUIRED = {
    "kind": str,
    "architecture": str,
    "parameters": dict,
    "file": str,
    "addresses": list,
    "licence": str,
    "trained_on": str,
    "bundled": bool,
}
_OPTIONAL = {"size": int, "sha256": str, "folder": str}
_TIMEOUT = (15, 60)  # seconds to connect, and between two packets
_RETRAIN = "Run its training again, or copy its whole folder anew."
_CHUNK = 1 << 16  # bytes; also the most that a cut connection loses of what had arrived

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all where the server says so


@dataclass(frozen=True)
class Entry:
    """One prior as weights.toml lists it.

    `size` (bytes) and `sha256` belong to the published file and are None where nobody has published them. `folder` is
    a page from which a person can fetch the file. `parameters` are those of the architecture. `beside` is the folder
    that the file lies in where a user has trained it.
    """

    name: str
    kind: str
    architecture: str
    parameters: dict[str, Any]
    file: str
    addresses: tuple[str, ...]
    size: int | None
    sha256: str | None
    licence: str
    trained_on: str
    bundled: bool
    folder: str | None
    beside: Path | None = None


class State(StrEnum):
    """What is on the disk of an entry."""

    BUNDLED = "bundled"
    PRESENT = "present"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Status:
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


@functools.cache
def manifest() -> dict[str, Entry]:
    """Every entry of the shipped weights.toml by name, in its order.

    Raises:
        WeightsError: the manifest is missing or malformed.
    """
    # A wheel has it inside the package, a source checkout one folder up.
    inside = _PACKAGE / "weights.toml"
    return read_manifest(inside if inside.exists() else _PACKAGE.parent / "weights.toml")


def read_manifest(path: Path, remedy: str = "Reinstall blinddeblur.") -> dict[str, Entry]:
    """The entries of a manifest by name.

    Args:
        path: the manifest.
        remedy: what to do about an error.

    Raises:
        WeightsError: the file cannot be read, or an entry is malformed.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"The list of weights {path} cannot be read: {error}. {remedy}") from error
    entries = {}
    for name, table in tables.items():
        if problem := _manifest_problem(name, table, path.parent):
            raise WeightsError(f"The entry {name} of {path} is malformed: {problem}. {remedy}")
        fields = dict.fromkeys(_OPTIONAL) | table | {"addresses": tuple(table["addresses"])}
        entries[name] = Entry(name=name, **fields)
    return entries


def find(name: str) -> Entry:
    """The entry of that name; or of the folder of a trained prior, or of its weights.toml, given as a path.

    Raises:
        UsageError: there is none; the message lists the names there are.
        WeightsError: the manifest is malformed.
    """
    path = Path(name).expanduser()
    if name not in manifest() and path.exists():
        return _trained(path)
    return listed(name)


def listed(name: str) -> Entry:
    """The entry of that name in the shipped weights.toml. For the errors see `find`."""
    try:
        return manifest()[name]
    except KeyError:
        known = ", ".join(manifest())
        raise UsageError(f"There are no weights named {name}. The known names are: {known}.") from None


def _trained(path: Path) -> Entry:
    """The only entry of a weights.toml, or of that in a folder, with its file beside it."""
    file = path / "weights.toml" if path.is_dir() else path
    if not file.exists():
        raise UsageError(f"The folder {path} holds no trained prior: there is no weights.toml in it.")
    entries = list(read_manifest(file, _RETRAIN).values())
    if len(entries) != 1 or entries[0].sha256 is None:
        raise UsageError(f"{file} is not the list of one trained prior. Give the folder that a training wrote.")
    return replace(entries[0], bundled=False, beside=file.parent)


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


def status(entry: Entry, *, hashed: bool = False) -> Status:
    """What is on the disk of an entry, by its size and, if `hashed`, its sha256 (seconds for a large file)."""
    path = _loadable(entry)
    if not path.is_file():
        return Status(State.MISSING, path, f"The weights {entry.name} are not there ({path}).")
    if problem := _stored_problem(entry, path, hashed):
        return Status(State.DAMAGED, path, f"The weights {entry.name} ({path}) are damaged: {problem}.")
    state = State.BUNDLED if entry.bundled else State.PRESENT
    return Status(state, path, f"The weights {entry.name} are in {path}.")


def verify(entry: Entry) -> Status:
    """What is on the disk of an entry, by its size and sha256."""
    return status(entry, hashed=True)


def locate(entry: Entry) -> Path:
    """The safetensors file to load: bundled and trained ones checked by sha256, those in the cache by their size.

    Raises:
        WeightsError: it is missing or damaged; the message names the command that gets it.
    """
    found = status(entry, hashed=entry.bundled or entry.beside is not None)
    if found.state in (State.BUNDLED, State.PRESENT):
        return found.path
    remedy = "Reinstall blinddeblur." if entry.bundled else f"Run `{COMMAND} {entry.name}` first."
    raise WeightsError(f"{found.detail} {_RETRAIN if entry.beside else remedy}")


def load_state(entry: Entry) -> "dict[str, Tensor]":
    """The tensors of an entry by their names, in float32 on the CPU. Never downloads.

    Raises:
        WeightsError: the file is missing or damaged; the message names the command that gets it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = locate(entry)
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise WeightsError(
            f"The weights {entry.name} ({path}) are damaged: {error}. Run `{COMMAND} {entry.name}` to replace them."
        ) from error


def by_hand(entry: Entry) -> str:
    """How a person can place the file without our download: where from, which checksum, and where to."""
    folder = (f"the folder {entry.folder}",) if entry.folder else ()
    sources = " or ".join(entry.addresses + folder)
    known = checksum(entry)
    proof = f"sha256 {known}" if known else "no published checksum"
    trust = "" if known else " --trust"
    return (
        f"To place the file by hand, fetch {entry.file} ({proof}) from {sources} and run "
        f"`{COMMAND} {entry.name} --from-file PATH{trust}`, or save it as {cache_folder() / entry.file} and run "
        f"`{COMMAND} {entry.name}{trust}`."
    )


def download(entry: Entry, *, trust: bool = False, progress: Progress = lambda done, total: None) -> Path:
    """Download, check and convert the file of an entry, unless an undamaged one is there. Resumes what was cut.

    Args:
        entry: what to download.
        trust: accept a file that nobody has published a checksum of; the one that arrives is pinned.
        progress: called with the bytes so far and the bytes in all.

    Returns:
        The safetensors file that `load_state` reads.

    Raises:
        UsageError: no checksum is known, and `trust` was not given.
        DownloadError: no address gave the right file; the message says how to place it by hand.
        WeightsError: the file is not as listed, or no checkpoint.
        OutputError: the cache cannot be written.
    """
    if entry.bundled or verify(entry).state is State.PRESENT:
        return locate(entry)
    original = cache_folder() / entry.file
    if not entry.addresses and not original.exists():
        raise DownloadError(f"The weights {entry.name} have no address that programs may use. {by_hand(entry)}")
    _require_checksum(entry, trust)
    with _installing(entry):
        digest = _check(entry, original) if original.exists() else _fetch(entry, original, progress)
        path = _install(entry, original, digest)
        original.unlink()
        return path


def place(entry: Entry, source: Path, *, trust: bool = False) -> Path:
    """Check and convert a file that a person has fetched; the file itself stays as it is.

    Returns:
        The safetensors file that `load_state` reads.

    Raises:
        UsageError: the file cannot be read, the entry needs none, or no checksum is known and `trust` was not given.
        WeightsError: the file is not as listed, or no checkpoint.
        OutputError: the cache cannot be written.
    """
    if entry.bundled:
        raise UsageError(f"The weights {entry.name} come with blinddeblur. They need no file.")
    _require_checksum(entry, trust)
    try:
        digest = _check(entry, source)
    except OSError as error:
        raise UsageError(f"The file {source} cannot be read: {error.strerror}.") from error
    with _installing(entry):
        return _install(entry, source, digest)


def _manifest_problem(name: str, table: Any, folder: Path) -> str | None:
    """What is wrong with an entry of the manifest in that folder, or None."""
    fields = _REQUIRED | _OPTIONAL
    if not isinstance(table, dict):
        return "it is no table"
    if missing := _REQUIRED.keys() - table.keys():
        return f"it lacks {', '.join(sorted(missing))}"
    if unknown := table.keys() - fields.keys():
        return f"nothing is known of {', '.join(sorted(unknown))}"
    if wrong := [key for key in table if not isinstance(table[key], fields[key])]:
        return f"{wrong[0]} must be of type {fields[wrong[0]].__name__}"
    rules = {
        "its name must consist of a-z, 0-9 and -": re.fullmatch("[a-z0-9-]+", name),
        f"kind must be one of {', '.join(KINDS)}": table["kind"] in KINDS,
        f"architecture must be one of {', '.join(ARCHITECTURES)}": table["architecture"] in ARCHITECTURES,
        "file must be a bare file name": re.fullmatch(r"\w[\w.-]*", table["file"]),
        "addresses must begin with https://": all(str(a).startswith("https://") for a in table["addresses"]),
        "sha256 must be 64 hexadecimal digits": re.fullmatch("[0-9a-f]{64}", table.get("sha256", "0" * 64)),
        "a bundled file needs size and sha256": not table["bundled"] or {"size", "sha256"} <= table.keys(),
        "it needs addresses or a folder, or its file beside this list": table["bundled"]
        or table["addresses"]
        or "folder" in table
        or (folder / table["file"]).is_file(),
    }
    return next((rule for rule, kept in rules.items() if not kept), None)


def _loadable(entry: Entry) -> Path:
    """Where the file that is loaded belongs."""
    if entry.beside is not None:
        return entry.beside / entry.file
    if entry.bundled:
        return _PACKAGE / "weights" / "shipped" / entry.file
    return cache_folder() / f"{entry.name}.safetensors"


def _stored_problem(entry: Entry, path: Path, hashed: bool) -> str | None:
    """What is wrong with the file that is loaded, or None."""
    if entry.bundled or entry.beside is not None:
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


def _check(entry: Entry, path: Path) -> str:
    """The sha256 of a published file. Raises WeightsError if the file is not the listed or pinned one."""
    expected = checksum(entry)
    if problem := _difference(path, entry.size, expected):
        pinned = f" What to expect was recorded in {_pin_path(entry)} when the file was first accepted."
        origin = pinned if entry.sha256 is None and expected else ""
        raise WeightsError(f"{path} is not the file listed as {entry.name}: {problem}.{origin}")
    return expected or _sha256(path)


def _require_checksum(entry: Entry, trust: bool) -> None:
    if checksum(entry) is None and not trust:
        raise UsageError(
            f"Nobody has published a checksum of {entry.file}, so a wrong file could not be told from the right one. "
            f"Give --trust to accept the weights {entry.name} as they are and to record their checksum for later."
        )


@contextlib.contextmanager
def _installing(entry: Entry) -> Iterator[None]:
    """Hold the lock of an entry in the cache folder, made if need be. An OSError meanwhile becomes an OutputError."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{entry.name}.lock").open("ab") as lock:
            _lock(lock.fileno(), entry)
            yield
    except OSError as error:
        raise OutputError(
            f"The cache {folder} cannot be written: {error.strerror}. "
            "Make room or permit writing there, or set BLINDDEBLUR_CACHE to another folder."
        ) from error


def _lock(descriptor: int, entry: Entry) -> None:
    """Lock an open file until it is closed, which the system does even if the process dies.

    Where there are no such locks (Windows, some network drives), two processes may write into one another's .part.
    Then the checksum, or the reader of the checkpoint, refuses the result.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(
                f"Another process is just now installing the weights {entry.name}. Try again when it has finished."
            ) from None
        except OSError:
            pass


def _fetch(entry: Entry, original: Path, progress: Progress) -> str:
    """Download the published file from the first address that has it; returns its sha256."""
    import requests  # here, because it takes longer to import than --help to answer

    part = original.with_name(f"{original.name}.part")
    failures = []
    for address in entry.addresses:
        try:
            _fetch_from(address, entry, part, progress)
            digest = _check_part(entry, part)
        except requests.RequestException as error:
            failures.append(f"{address}: {_reason(error)}")
        except WeightsError as error:
            failures.append(f"{address}: {error}")
        else:
            part.replace(original)
            _discard(part)
            return digest
    if "Range" in _request_headers(entry, part):
        failures.append(f"{part.stat().st_size} bytes have arrived and are kept. The same command resumes there.")
    raise DownloadError("\n".join([f"The weights {entry.name} were not downloaded.", *failures, by_hand(entry)]))


def _check_part(entry: Entry, part: Path) -> str:
    try:
        return _check(entry, part)
    except WeightsError:
        _discard(part)
        raise


def _fetch_from(address: str, entry: Entry, part: Path, progress: Progress) -> None:
    """Append to the part what is missing of the file at the address."""
    import requests

    headers = _request_headers(entry, part)
    done = part.stat().st_size if "Range" in headers else 0
    with requests.get(address, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if done and response.status_code == 416 and done in (_total(response), entry.size):
            return  # the earlier attempt ended between the last byte and the renaming
        if _continues(response, done):
            _require_file(response, entry)
            _receive(response, part, done if response.status_code == 206 else 0, progress)
            return
    _discard(part)
    _fetch_from(address, entry, part, progress)  # without a part there is no Range, so this happens once


def _request_headers(entry: Entry, part: Path) -> dict[str, str]:
    """Ask for the rest of the file if there is a part and its two halves can be proved to belong together.

    The proof is a checksum known beforehand, or the validator (ETag or date) by which the server knows its versions.
    """
    headers = {"Accept-Encoding": "identity"}  # sizes and ranges count the bytes of the file, not of a compressed one
    if not part.exists() or not part.stat().st_size:
        return headers
    validator = _validator(part)
    if validator.exists():
        headers["If-Range"] = validator.read_text(encoding="latin-1")
    if validator.exists() or checksum(entry):
        headers["Range"] = f"bytes={part.stat().st_size}-"
    return headers


def _continues(response: "requests.Response", done: int) -> bool:
    """Whether an answer goes on where the part ends, or starts over, or has nothing to do with there being a part."""
    if not done or response.status_code not in (206, 416):
        return True
    return response.headers.get("Content-Range", "").startswith(f"bytes {done}-")


def _require_file(response: "requests.Response", entry: Entry) -> None:
    """Raise DownloadError if an answer cannot be the file."""
    if response.status_code not in (200, 206):
        raise DownloadError(f"The server answered {response.status_code} {response.reason}.")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadError("The server sent a web page in place of the file: it wants a person, or refuses for now.")
    total = _total(response)
    if None not in (total, entry.size) and total != entry.size:
        raise DownloadError(f"The file there has {total} bytes, expected {entry.size}.")


def _total(response: "requests.Response") -> int | None:
    """The size of the whole file, where the server says so."""
    if response.status_code == 200:
        size = response.headers.get("Content-Length", "")
    else:
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(size) if size.isdecimal() else None


def _receive(response: "requests.Response", part: Path, done: int, progress: Progress) -> None:
    """Write an answer into the part, from byte `done` on."""
    if not done:
        _discard(part)
        if validator := response.headers.get("ETag") or response.headers.get("Last-Modified"):
            _validator(part).write_text(validator, encoding="latin-1")
    total = _total(response)
    progress(done, total)
    with part.open("ab") as file:
        for chunk in response.iter_content(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            progress(done, total)


def _reason(error: "requests.RequestException") -> str:
    """Why a request failed, as a sentence. The library's own texts are chains of class names."""
    import requests

    reasons = {  # the first that fits: the later ones are more general
        requests.exceptions.ProxyError: "The proxy cannot be reached or refuses; see HTTP_PROXY and HTTPS_PROXY.",
        requests.exceptions.SSLError: "The certificate of the server was not accepted.",
        requests.exceptions.Timeout: "The server did not answer in time.",
        requests.exceptions.ChunkedEncodingError: "The connection was cut.",
        requests.exceptions.ConnectionError: "The connection was refused or lost.",
    }
    return next((reason for kind, reason in reasons.items() if isinstance(error, kind)), f"{error}.")


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator(part).unlink(missing_ok=True)


def _install(entry: Entry, original: Path, digest: str) -> Path:
    """Convert a checked checkpoint to safetensors and pin both checksums."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = _read_checkpoint(entry, original)
    path = _loadable(entry)
    temporary = path.with_suffix(".tmp")
    try:
        save_file(state, temporary)
        pin = _Pin(digest, temporary.stat().st_size, _sha256(temporary))
        # The pin comes first: whatever is interrupted here is then found missing or damaged, never taken for good.
        _write_pin(entry, pin)
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
