"""The manifest, the cache and downloads from servers that behave and servers that do not."""

import gzip
import hashlib
import pickle
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from pytest_httpserver import HTTPServer
from safetensors.torch import load_file, save_file
from werkzeug import Request, Response

from blinddeblur.errors import DownloadError, OutputError, UsageError, WeightsError
from blinddeblur.weights.cache import State, cache_folder, checksum, load_state, locate, place, status
from blinddeblur.weights.download import TIMEOUT, by_hand, download
from blinddeblur.weights.manifest import Entry, find, manifest, read_manifest

DIGEST = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no proxy between the tests and their servers."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("BLINDDEBLUR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return {
        "head.weight": torch.randn(100, 1000, generator=torch.Generator().manual_seed(0)),
        "head.bias": torch.ones(3),
    }


@pytest.fixture(scope="module")
def content(tensors: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A published checkpoint, 400 kB: several chunks."""
    path = tmp_path_factory.mktemp("published") / "tiny.pt"
    torch.save(tensors, path)
    return path.read_bytes()


@pytest.fixture
def entry(content: bytes, httpserver: HTTPServer) -> Entry:
    """The checkpoint as a manifest would list it, at an address where nothing is served yet."""
    return Entry(
        name="tiny",
        kind="image",
        architecture="guided-diffusion",
        parameters={},
        file="tiny.pt",
        addresses=(httpserver.url_for("/tiny.pt"),),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence="MIT",
        trained_on="nothing",
        bundled=False,
        folder=None,
    )


def unlisted(entry: Entry) -> Entry:
    """The same entry as if nobody had published its size and checksum."""
    return replace(entry, size=None, sha256=None)


def serve(httpserver: HTTPServer, body: bytes, path: str = "/tiny.pt", **headers: str) -> list[str | None]:
    """Serve a file with ranges, as a good server does. Returns the list that collects the ranges asked for."""
    ranges: list[str | None] = []

    def answer(request: Request) -> Response:
        ranges.append(request.headers.get("Range"))
        response = Response(body, content_type="application/octet-stream", headers=headers.items())
        response.make_conditional(request, accept_ranges=True, complete_length=len(body))
        return response

    httpserver.expect_request(path).respond_with_handler(answer)
    return ranges


def leave_part(cache: Path, part: bytes, validator: str | None = None) -> Path:
    """What an earlier, cut download leaves behind."""
    cache.mkdir()
    path = cache / "tiny.pt.part"
    path.write_bytes(part)
    if validator:
        (cache / "tiny.pt.part.validator").write_text(validator)
    return path


@contextmanager
def cutting_server(body: bytes, announced: int) -> Iterator[str]:
    """A server that announces more bytes than it sends before it closes the connection. Yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\n\r\n".encode() + body)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/tiny.pt"
        thread.join()


def closed_address() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def files(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


# The manifest


def test_shipped_manifest_lists_every_prior() -> None:
    entries = manifest()
    kinds = {
        "photo": "image",
        "photo-fine": "image",
        "photo-grey": "image",
        "kernel": "kernel",
        "photo-kernel": "kernel",
        "photo-spectra": "spectra",
        "judge": "judge",
        "ffhq-256": "image",
        "imagenet-256": "image",
        "blinddps-kernel": "kernel",
        "blinddps-tilt": "tilt",
    }
    assert {name: entry.kind for name, entry in entries.items()} == kinds
    bundled = ["photo", "photo-fine", "photo-grey", "kernel", "photo-kernel", "photo-spectra", "judge"]
    assert [name for name, entry in entries.items() if entry.bundled] == bundled
    for name, entry in entries.items():
        assert entry.name == name
        assert entry.parameters or entry.kind in ("spectra", "judge")
        assert entry.licence
        assert entry.trained_on


def test_shipped_manifest_says_what_is_unpublished() -> None:
    entries = manifest()
    assert {name for name, entry in entries.items() if entry.sha256 is None} == {
        "ffhq-256",
        "blinddps-kernel",
        "blinddps-tilt",
    }
    assert {name for name, entry in entries.items() if not entry.addresses and not entry.bundled} == {
        "blinddps-kernel",
        "blinddps-tilt",
    }


def test_bundled_files_are_as_listed() -> None:
    bundled = [entry for entry in manifest().values() if entry.bundled]
    assert [status(entry, hashed=True).state for entry in bundled] == [State.BUNDLED] * 7
    assert sum(entry.size or 0 for entry in bundled) < 43e6


MANIFEST = f"""
[tiny]
kind = "image"
architecture = "compact"
parameters = {{ channels = 3 }}
file = "tiny.pt"
addresses = ["https://example.org/tiny.pt"]
size = 7
sha256 = "{DIGEST}"
licence = "MIT"
trained_on = "nothing"
bundled = false
"""


def test_manifest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.toml"
    path.write_text(MANIFEST)
    assert read_manifest(path) == {
        "tiny": Entry(
            name="tiny",
            kind="image",
            architecture="compact",
            parameters={"channels": 3},
            file="tiny.pt",
            addresses=("https://example.org/tiny.pt",),
            size=7,
            sha256=DIGEST,
            licence="MIT",
            trained_on="nothing",
            bundled=False,
            folder=None,
        )
    }


@pytest.mark.parametrize(
    ("line", "instead", "complaint"),
    [
        ("[tiny]", "[tiny", "cannot be read"),
        ("[tiny]", "lonely = 1\n[tiny]", "no table"),
        ("[tiny]", '["../tiny"]', "its name must"),
        ('licence = "MIT"', "", "it lacks licence"),
        ("size = 7", "length = 7", "nothing is known of length"),
        ("size = 7", 'size = "7"', "size must be of type int"),
        ('kind = "image"', 'kind = "sound"', "kind must be one of"),
        ('architecture = "compact"', 'architecture = "huge"', "architecture must be one of"),
        ('file = "tiny.pt"', 'file = "../tiny.pt"', "bare file name"),
        ("parameters =", 'grey = { prior = "photo" }\nparameters =', "grey must name another prior, and the noise"),
        ("parameters =", 'grey = { prior = "tiny", above = 0.1 }\nparameters =', "grey must name another prior"),
        ("https://", "http://", "must begin with https"),
        (DIGEST, DIGEST[1:], "64 hexadecimal digits"),
        ('addresses = ["https://example.org/tiny.pt"]', "addresses = []", "needs addresses or a folder"),
    ],
)
def test_malformed_manifest(tmp_path: Path, line: str, instead: str, complaint: str) -> None:
    assert line in MANIFEST
    path = tmp_path / "weights.toml"
    path.write_text(MANIFEST.replace(line, instead))
    with pytest.raises(WeightsError, match=complaint):
        read_manifest(path)


def test_bundled_entry_needs_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "weights.toml"
    path.write_text(MANIFEST.replace("size = 7\n", "").replace("bundled = false", "bundled = true"))
    with pytest.raises(WeightsError, match="a bundled file needs size and sha256"):
        read_manifest(path)


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="Reinstall"):
        read_manifest(tmp_path / "weights.toml")


def test_find() -> None:
    assert find("ffhq-256").file == "ffhq_10m.pt"
    with pytest.raises(
        UsageError,
        match=r"named ffhq.*photo, photo-fine, photo-grey, kernel, photo-kernel, photo-spectra, judge, ffhq-256",
    ):
        find("ffhq")


def test_import_does_not_load_torch() -> None:
    code = "from blinddeblur.weights import download, manifest; manifest.manifest(); import sys; "
    program = code + "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# The cache


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_folder() == cache
    monkeypatch.setenv("BLINDDEBLUR_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.delenv("BLINDDEBLUR_CACHE")
    assert "blinddeblur" in cache_folder().parts


def test_missing_weights_name_the_command(entry: Entry) -> None:
    assert status(entry).state is State.MISSING
    with pytest.raises(WeightsError, match="`blinddeblur download-weights tiny`"):
        load_state(entry)


def test_bundled_weights(entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_file({"weight": torch.ones(2, dtype=torch.float16)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    bundled = replace(entry, bundled=True, file=path.name, size=path.stat().st_size, sha256=digest, home=tmp_path)

    assert status(bundled, hashed=True).state is State.BUNDLED
    assert download(bundled) == path
    state = load_state(bundled)
    assert state["weight"].dtype == torch.float32
    with pytest.raises(UsageError, match="come with blinddeblur"):
        place(bundled, path)

    path.write_bytes(path.read_bytes()[:-1] + b"x")  # same size, so that only the checksum can tell
    with pytest.raises(WeightsError, match=r"sha256.*Reinstall"):
        load_state(bundled)


def test_damaged_weights_are_found_and_replaced(httpserver: HTTPServer, entry: Entry, content: bytes) -> None:
    serve(httpserver, content)
    path = download(entry)
    good = path.read_bytes()

    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert status(entry, hashed=True).state is State.DAMAGED
    download(entry)
    assert path.read_bytes() == good

    path.write_bytes(good[:-1])
    with pytest.raises(WeightsError, match=r"damaged.*`blinddeblur download-weights tiny`"):
        locate(entry)

    download(entry)
    assert path.read_bytes() == good


def test_damaged_header_is_no_traceback(httpserver: HTTPServer, entry: Entry, content: bytes) -> None:
    serve(httpserver, content)
    path = download(entry)
    path.write_bytes(b"\xff" * path.stat().st_size)  # the size is right, and locate looks at no more
    with pytest.raises(WeightsError, match="damaged"):
        load_state(entry)


@pytest.mark.parametrize("record", [None, "{", "[]", '{"size": 1}'])
def test_weights_without_a_record_are_damaged(
    httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path, record: str | None
) -> None:
    serve(httpserver, content)
    download(entry)
    (cache / "tiny.json").unlink()
    if record:
        (cache / "tiny.json").write_text(record)
    assert status(entry).state is State.DAMAGED


def test_weights_of_an_older_listing_are_damaged(httpserver: HTTPServer, entry: Entry, content: bytes) -> None:
    serve(httpserver, content)
    download(entry)
    assert status(replace(entry, sha256=DIGEST)).state is State.DAMAGED


# Downloads that succeed


def test_download(
    httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path, tensors: dict[str, torch.Tensor]
) -> None:
    ranges = serve(httpserver, content)
    progress: list[tuple[int, int | None]] = []
    path = download(entry, progress=lambda done, total: progress.append((done, total)))

    assert path == cache / "tiny.safetensors"
    assert files(cache) == {"tiny.safetensors", "tiny.json", "tiny.lock"}
    assert status(entry, hashed=True).state is State.PRESENT
    state = load_state(entry)
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensors[name]) for name in tensors)
    assert progress[0] == (0, len(content))
    assert progress[-1] == (len(content), len(content))
    assert len(progress) > 3

    assert download(entry) == path
    assert ranges == [None]  # the second call asked nobody


def test_redirect(httpserver: HTTPServer, entry: Entry, content: bytes) -> None:
    httpserver.expect_request("/tiny.pt").respond_with_data(status=302, headers={"Location": "/elsewhere"})
    serve(httpserver, content, "/elsewhere")
    download(entry)
    assert status(entry, hashed=True).state is State.PRESENT


def test_resume(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    leave_part(cache, content[:100_000])
    ranges = serve(httpserver, content)
    progress: list[tuple[int, int | None]] = []
    download(entry, progress=lambda done, total: progress.append((done, total)))
    assert ranges == ["bytes=100000-"]
    assert progress[0] == (100_000, len(content))
    assert progress[-1] == (len(content), len(content))


def test_server_without_range(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    leave_part(cache, content[:100_000])
    httpserver.expect_request("/tiny.pt").respond_with_data(content, content_type="application/octet-stream")
    download(entry)
    assert status(entry, hashed=True).state is State.PRESENT


def test_server_that_sends_another_range(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    leave_part(cache, content[:100_000])

    def answer(request: Request) -> Response:
        if "Range" not in request.headers:
            return Response(content, content_type="application/octet-stream")
        headers = {"Content-Range": f"bytes 0-{len(content) - 1}/{len(content)}"}
        return Response(content, 206, headers, content_type="application/octet-stream")

    httpserver.expect_request("/tiny.pt").respond_with_handler(answer)
    download(entry)
    assert status(entry, hashed=True).state is State.PRESENT


def test_part_that_is_complete(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    leave_part(cache, content)
    ranges = serve(httpserver, content)
    download(entry)
    assert ranges == [f"bytes={len(content)}-"]


def test_part_that_is_too_long(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    leave_part(cache, content + b"more")
    ranges = serve(httpserver, content)
    download(entry)
    assert ranges == [f"bytes={len(content) + 4}-", None]


def test_part_is_resumed_only_if_it_is_of_the_same_version(
    httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path
) -> None:
    leave_part(cache, b"old" * 1000, validator='"old"')
    serve(httpserver, content, ETag='"new"')
    download(unlisted(entry), trust=True)
    assert checksum(unlisted(entry)) == entry.sha256


def test_part_of_the_same_version_is_resumed(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    leave_part(cache, content[:1000], validator='"same"')
    ranges = serve(httpserver, content, ETag='"same"')
    download(unlisted(entry), trust=True)
    assert ranges == ["bytes=1000-"]
    assert checksum(unlisted(entry)) == entry.sha256
    assert files(cache) == {"tiny.safetensors", "tiny.json", "tiny.lock"}


def test_part_that_nothing_vouches_for_is_not_resumed(
    httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path
) -> None:
    leave_part(cache, content[:1000])
    ranges = serve(httpserver, content)
    download(unlisted(entry), trust=True)
    assert ranges == [None]


def test_server_that_likes_to_compress(httpserver: HTTPServer, entry: Entry, content: bytes) -> None:
    """Its Content-Length would be of the compressed file."""

    def answer(request: Request) -> Response:
        if "gzip" not in request.headers.get("Accept-Encoding", ""):
            return Response(content, content_type="application/octet-stream")
        return Response(gzip.compress(content), headers={"Content-Encoding": "gzip"}, content_type="application/x-any")

    httpserver.expect_request("/tiny.pt").respond_with_handler(answer)
    download(entry)
    assert status(entry, hashed=True).state is State.PRESENT


def test_next_address_when_one_fails(httpserver: HTTPServer, entry: Entry, content: bytes) -> None:
    httpserver.expect_request("/tiny.pt").respond_with_data(status=404)
    serve(httpserver, content, "/mirror")
    download(replace(entry, addresses=(*entry.addresses, httpserver.url_for("/mirror"))))
    assert status(entry, hashed=True).state is State.PRESENT


def test_proxy_of_the_environment(
    httpserver: HTTPServer, entry: Entry, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(httpserver, content)
    monkeypatch.setenv("http_proxy", httpserver.url_for(""))
    download(replace(entry, addresses=("http://nowhere.invalid/tiny.pt",)))
    assert status(entry, hashed=True).state is State.PRESENT


# Downloads that fail


def fails(entry: Entry, *complaints: str, timeout: tuple[float, float] = TIMEOUT) -> str:
    """The message of a download that fails: it holds the complaints, and how to place the file by hand."""
    with pytest.raises(DownloadError) as caught:
        download(entry, timeout=timeout)
    message = str(caught.value)
    expected = (
        *complaints,
        *entry.addresses,
        entry.sha256 or "",
        "--from-file PATH",
        str(cache_folder() / entry.file),
    )
    for text in expected:
        assert text in message
    assert status(entry).state is State.MISSING
    return message


def test_not_found(httpserver: HTTPServer, entry: Entry) -> None:
    httpserver.expect_request("/tiny.pt").respond_with_data("no", status=404, content_type="text/html")
    fails(entry, "404 NOT FOUND")


def test_wrong_hash(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    wrong = content[:-1] + bytes([content[-1] ^ 1])
    serve(httpserver, wrong)
    fails(entry, f"its sha256 is {hashlib.sha256(wrong).hexdigest()}, expected {entry.sha256}")
    assert files(cache) == {"tiny.lock"}  # nothing of it is resumed


def test_wrong_size_announced(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    serve(httpserver, content + b"more")
    fails(entry, f"The file there has {len(content) + 4} bytes, expected {len(content)}")
    assert files(cache) == {"tiny.lock"}


def test_wrong_size_unannounced(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    def answer(request: Request) -> Response:
        return Response(iter([content, b"more"]), content_type="application/octet-stream")

    httpserver.expect_request("/tiny.pt").respond_with_handler(answer)
    fails(entry, f"has {len(content) + 4} bytes, expected {len(content)}")
    assert files(cache) == {"tiny.lock"}


def test_web_page_in_place_of_the_file(httpserver: HTTPServer, entry: Entry, cache: Path) -> None:
    httpserver.expect_request("/tiny.pt").respond_with_data("<html>", content_type="text/html; charset=utf-8")
    fails(entry, "web page")
    assert files(cache) == {"tiny.lock"}


def test_cut_connection_is_resumed(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    with cutting_server(content[:300_000], len(content)) as address:
        message = fails(replace(entry, addresses=(address,)), "The connection was cut", "resumes there")
    kept = (cache / "tiny.pt.part").stat().st_size
    assert 0 < kept <= 300_000
    assert f"{kept} bytes" in message

    ranges = serve(httpserver, content)
    download(entry)
    assert ranges == [f"bytes={kept}-"]
    assert status(entry, hashed=True).state is State.PRESENT


def test_cut_connection_is_not_resumed_unproved(entry: Entry, content: bytes) -> None:
    """Without a checksum or an ETag nobody could tell whether both halves are of the same file."""
    with cutting_server(content[:300_000], len(content)) as address, pytest.raises(DownloadError) as caught:
        download(unlisted(replace(entry, addresses=(address,))), trust=True)
    assert "The connection was cut" in str(caught.value)
    assert "resumes" not in str(caught.value)


def test_refused_connection(entry: Entry) -> None:
    fails(replace(entry, addresses=(closed_address() + "/tiny.pt",)), "refused or lost")


def test_refusing_proxy(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", closed_address())
    fails(replace(entry, addresses=("http://nowhere.invalid/tiny.pt",)), "The proxy cannot be reached")


def test_silent_server(entry: Entry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/tiny.pt"
        fails(replace(entry, addresses=(address,)), "did not answer in time", timeout=(5, 0.1))


def test_every_address_is_named(httpserver: HTTPServer, entry: Entry) -> None:
    httpserver.expect_request("/tiny.pt").respond_with_data(status=503)
    second = closed_address() + "/mirror"
    fails(replace(entry, addresses=(*entry.addresses, second)), "503", f"{second}: The connection was refused")


@pytest.mark.parametrize("listed", [True, False])
def test_folder_only(entry: Entry, listed: bool) -> None:
    entry = replace(entry if listed else unlisted(entry), addresses=(), folder="https://example.org/folder")
    fails(entry, "no address", "https://example.org/folder")


def test_second_process(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    serve(httpserver, content)
    cache.mkdir()
    with FileLock(cache / "tiny.lock"), pytest.raises(DownloadError, match="Another process"):
        download(entry)
    download(entry)  # a lock file that is left over locks nobody out
    assert status(entry, hashed=True).state is State.PRESENT


def test_cache_that_cannot_be_made(entry: Entry, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="BLINDDEBLUR_CACHE"):
        download(entry)


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let every write beyond that many bytes into a file fail, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_the_download(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    ranges = serve(httpserver, content)
    with files_limited_to(200_000), pytest.raises(OutputError, match=f"{re.escape(str(cache))}.*File too large"):
        download(entry)
    download(entry)
    assert ranges == [None, "bytes=200000-"]


def test_no_room_for_the_conversion(entry: Entry, content: bytes, cache: Path) -> None:
    cache.mkdir()
    (cache / "tiny.pt").write_bytes(content)
    with files_limited_to(200_000), pytest.raises(OutputError, match="File too large"):
        download(entry)
    assert files(cache) == {"tiny.pt", "tiny.lock"}  # what was downloaded is not lost
    download(entry)
    assert status(entry, hashed=True).state is State.PRESENT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_no_room_for_the_record(entry: Entry, content: bytes, cache: Path) -> None:
    cache.mkdir()
    (cache / "tiny.pt").write_bytes(content)
    (cache / "tiny.json.tmp").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left"):
        download(entry)
    assert files(cache) == {"tiny.pt", "tiny.lock", "tiny.json.tmp"}


# Files without a published checksum, and files placed by hand


def test_unpublished_checksum_needs_trust_once(
    httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path
) -> None:
    serve(httpserver, content)
    entry = unlisted(entry)
    assert "no published checksum" in by_hand(entry)
    assert "--from-file PATH --trust`" in by_hand(entry)
    with pytest.raises(UsageError, match="--trust"):
        download(entry)
    with pytest.raises(UsageError, match="--trust"):
        place(entry, cache)
    assert not httpserver.log

    download(entry, trust=True)
    assert checksum(entry) == hashlib.sha256(content).hexdigest()
    assert f"sha256 {checksum(entry)}" in by_hand(entry)
    assert "--trust" not in by_hand(entry)
    (cache / "tiny.safetensors").unlink()
    download(entry)
    assert status(entry, hashed=True).state is State.PRESENT


def test_pinned_file_must_not_change(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    entry = unlisted(entry)
    cache.mkdir()
    (cache / "tiny.pt").write_bytes(content)
    download(entry, trust=True)
    (cache / "tiny.safetensors").unlink()
    serve(httpserver, content + b"changed")
    fails(entry, f"expected {hashlib.sha256(content).hexdigest()}", f"recorded in {cache / 'tiny.json'}")


def test_file_saved_at_the_target_path(httpserver: HTTPServer, entry: Entry, content: bytes, cache: Path) -> None:
    cache.mkdir()
    (cache / "tiny.pt").write_bytes(content)
    download(entry)
    assert files(cache) == {"tiny.safetensors", "tiny.json", "tiny.lock"}
    assert not httpserver.log


def test_wrong_file_at_the_target_path(entry: Entry, content: bytes, cache: Path) -> None:
    cache.mkdir()
    (cache / "tiny.pt").write_bytes(content[:-1])
    with pytest.raises(WeightsError, match=f"it has {len(content) - 1} bytes, expected {len(content)}"):
        download(entry)
    assert (cache / "tiny.pt").exists()  # a person's file is the person's to remove


def test_place(entry: Entry, content: bytes, cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "fetched.pt"
    source.write_bytes(content)
    assert place(entry, source) == cache / "tiny.safetensors"
    assert source.read_bytes() == content
    assert load_file(cache / "tiny.safetensors").keys() == {"head.weight", "head.bias"}
    assert status(entry, hashed=True).state is State.PRESENT


def test_place_wrong_file(entry: Entry, content: bytes, tmp_path: Path) -> None:
    source = tmp_path / "fetched.pt"
    source.write_bytes(content[:-1] + b"x")
    with pytest.raises(WeightsError, match=r"fetched\.pt is not the file listed as tiny"):
        place(entry, source)
    assert status(entry).state is State.MISSING


def test_place_missing_file(entry: Entry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        place(entry, tmp_path / "nothing.pt")


# Conversion


def place_checkpoint(entry: Entry, checkpoint: object, tmp_path: Path) -> dict[str, torch.Tensor]:
    source = tmp_path / "checkpoint.pt"
    torch.save(checkpoint, source)
    place(unlisted(entry), source, trust=True)
    return load_state(unlisted(entry))


def test_nested_and_shared_tensors(entry: Entry, tmp_path: Path) -> None:
    both = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    state = place_checkpoint(entry, {"state_dict": {"a": both, "b": both.T}}, tmp_path)
    assert torch.equal(state["a"], both.float())
    assert torch.equal(state["b"], both.T.float())
    assert state["a"].dtype == torch.float32


def test_single_tensor(entry: Entry, tmp_path: Path) -> None:
    assert place_checkpoint(entry, {"a": torch.ones(1)}, tmp_path).keys() == {"a"}


@pytest.mark.parametrize(
    "checkpoint", [[1, 2], {}, {"step": 3}, {"ema": {"a": torch.ones(1)}, "step": 3}, {1: torch.ones(1)}]
)
def test_checkpoint_of_something_else(entry: Entry, tmp_path: Path, checkpoint: object, cache: Path) -> None:
    with pytest.raises(WeightsError, match="other things than named tensors"):
        place_checkpoint(entry, checkpoint, tmp_path)
    assert files(cache) == {"tiny.lock"}


class Malicious:
    """Unpickled, it would make a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.victim,)  # type: ignore[return-value]


def test_checkpoint_that_would_execute_code(entry: Entry, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    with pytest.raises(WeightsError, match="without executing code"):
        place_checkpoint(entry, {"a": Malicious(victim)}, tmp_path)
    assert not victim.exists()
    pickle.loads(pickle.dumps(Malicious(victim)))
    assert victim.exists()  # so the test would have noticed


def test_file_that_is_no_checkpoint(entry: Entry, tmp_path: Path) -> None:
    source = tmp_path / "checkpoint.pt"
    source.write_bytes(b"not a checkpoint at all")
    with pytest.raises(WeightsError, match="is no checkpoint of tiny"):
        place(unlisted(entry), source, trust=True)
