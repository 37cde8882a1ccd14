"""Downloads of published files: resumed where they were cut, proved by their checksums, installed in the cache.

While FILE is under way, the cache folder holds FILE.part, what has arrived of it, and FILE.part.validator, which says
of which version of the file it is a part.
"""

from collections.abc import Callable
from pathlib import Path

import requests

from blinddeblur.errors import DownloadError, WeightsError
from blinddeblur.weights import cache
from blinddeblur.weights.manifest import Entry

Arrived = Callable[[int, int | None], None]  # bytes so far, bytes in all where the server says so

TIMEOUT = (15.0, 60.0)  # seconds to connect, and between two packets

_CHUNK = 1 << 16  # bytes; also the most that a cut connection loses of what had arrived
_REASONS = {  # of a failure, the first that fits: the later ones are more general
    requests.exceptions.ProxyError: "The proxy cannot be reached or refuses; see HTTP_PROXY and HTTPS_PROXY.",
    requests.exceptions.SSLError: "The certificate of the server was not accepted.",
    requests.exceptions.Timeout: "The server did not answer in time.",
    requests.exceptions.ChunkedEncodingError: "The connection was cut.",
    requests.exceptions.ConnectionError: "The connection was refused or lost.",
}


def download(
    entry: Entry,
    *,
    trust: bool = False,
    progress: Arrived = lambda done, total: None,
    timeout: tuple[float, float] = TIMEOUT,
) -> Path:
    """Download, check and convert the file of an entry, unless an undamaged one is there. Resumes what was cut.

    Returns the safetensors file that `cache.load_state` reads.

    Args:
        entry: what to download.
        trust: accept a file that nobody has published a checksum of; the one that arrives is pinned.
        progress: called with the bytes so far, and the bytes in all where they are known.
        timeout: seconds to wait for a connection, and for the next packet.

    Raises:
        UsageError: no checksum is known, and `trust` was not given.
        DownloadError: no address gave the right file; the message says how to place it by hand.
        WeightsError: the file is not as listed, or no checkpoint.
        OutputError: the cache cannot be written.
    """
    if entry.bundled or cache.status(entry, hashed=True).state is cache.State.PRESENT:
        return cache.locate(entry)
    original = cache.cache_folder() / entry.file
    if not entry.addresses and not original.exists():
        raise DownloadError(f"The weights {entry.name} have no address that programs may use. {by_hand(entry)}")
    cache.require_checksum(entry, trust)
    with cache.installing(entry):
        if original.exists():
            digest = cache.proven_digest(entry, original)
        else:
            digest = _Fetch(entry, original, progress, timeout).run()
        path = cache.install(entry, original, digest)
        original.unlink()
        return path


def by_hand(entry: Entry) -> str:
    """How a person can place the file without our download: where from, which checksum, and where to."""
    folder = (f"the folder {entry.folder}",) if entry.folder else ()
    sources = " or ".join(entry.addresses + folder)
    known = cache.checksum(entry)
    proof = f"sha256 {known}" if known else "no published checksum"
    trust = "" if known else " --trust"
    command, target = f"{cache.COMMAND} {entry.name}", cache.cache_folder() / entry.file
    return (
        f"To place the file by hand, fetch {entry.file} ({proof}) from {sources} and run "
        f"`{command} --from-file PATH{trust}`, or save it as {target} and run `{command}{trust}`."
    )


class _Fetch:
    """One download of a published file to `original`, with what earlier ones have left of it; else see `download`."""

    def __init__(self, entry: Entry, original: Path, progress: Arrived, timeout: tuple[float, float]) -> None:
        self.entry, self.original, self.progress, self.timeout = entry, original, progress, timeout
        self.part = original.with_name(f"{original.name}.part")
        self.validator = original.with_name(f"{original.name}.part.validator")

    def run(self) -> str:
        """Get the file from the first address that has it; returns its sha256."""
        failures = []
        for address in self.entry.addresses:
            try:
                self._receive_from(address)
                digest = cache.proven_digest(self.entry, self.part)
            except requests.RequestException as error:
                reason = next((r for kind, r in _REASONS.items() if isinstance(error, kind)), f"{error}.")
                failures.append(f"{address}: {reason}")
            except DownloadError as error:
                failures.append(f"{address}: {error}")
            except WeightsError as error:
                self._discard()
                failures.append(f"{address}: {error}")
            else:
                self.part.replace(self.original)
                self._discard()
                return digest
        if "Range" in self._headers():
            failures.append(f"{self._size()} bytes have arrived and are kept. The same command resumes there.")
        heading = f"The weights {self.entry.name} were not downloaded."
        raise DownloadError("\n".join([heading, *failures, by_hand(self.entry)]))

    def _receive_from(self, address: str) -> None:
        """Append to the part what is missing of the file at the address."""
        headers = self._headers()
        done = self._size() if "Range" in headers else 0
        with requests.get(address, headers=headers, stream=True, timeout=self.timeout) as response:
            if done and response.status_code == 416 and done in (_total(response), self.entry.size):
                return  # the earlier attempt ended between the last byte and the renaming
            if _continues(response, done):
                self._receive(response, done if response.status_code == 206 else 0)
                return
        self._discard()
        self._receive_from(address)  # without a part there is no Range, so this happens once

    def _receive(self, response: requests.Response, done: int) -> None:
        """Write an answer into the part, from byte `done` on. Raises DownloadError if it cannot be the file."""
        if response.status_code not in (200, 206):
            raise DownloadError(f"The server answered {response.status_code} {response.reason}.")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError(
                "The server sent a web page in place of the file: it wants a person, or refuses for now."
            )
        total = _total(response)
        if None not in (total, self.entry.size) and total != self.entry.size:
            raise DownloadError(f"The file there has {total} bytes, expected {self.entry.size}.")
        if not done:
            self._discard()
            if validator := response.headers.get("ETag") or response.headers.get("Last-Modified"):
                self.validator.write_text(validator, encoding="latin-1")
        self.progress(done, total)
        with self.part.open("ab") as file:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                self.progress(done, total)

    def _headers(self) -> dict[str, str]:
        """Ask for the rest of the file if there is a part and its two halves can be proved to belong together.

        The proof is a checksum known beforehand, or the ETag or date by which the server knows its versions.
        """
        headers = {"Accept-Encoding": "identity"}  # sizes and ranges count the bytes of the file, not compressed ones
        if self._size():
            if self.validator.exists():
                headers["If-Range"] = self.validator.read_text(encoding="latin-1")
            if self.validator.exists() or cache.checksum(self.entry):
                headers["Range"] = f"bytes={self._size()}-"
        return headers

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.validator.unlink(missing_ok=True)


def _continues(response: requests.Response, done: int) -> bool:
    """Whether an answer goes on where the part ends, or starts over, or has nothing to do with there being a part."""
    if not done or response.status_code not in (206, 416):
        return True
    return response.headers.get("Content-Range", "").startswith(f"bytes {done}-")


def _total(response: requests.Response) -> int | None:
    """The size of the whole file, where the server says so."""
    if response.status_code == 200:
        size = response.headers.get("Content-Length", "")
    else:
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(size) if size.isdecimal() else None
