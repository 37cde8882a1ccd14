"""Files appear whole and together, whatever fails, and what a killed process leaves is completed or cleared away."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from photofiles import without_privileges

from blinddeblur.errors import EstimationError, OutputError
from blinddeblur.files import together as module
from blinddeblur.files.together import Together, check_free, recover, write_bytes

# Writing


@pytest.mark.parametrize("links", [True, False])
def test_output_that_appears_while_writing_is_kept(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"

    def appear(_: int) -> None:
        path.write_bytes(b"precious")

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", appear)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(OutputError, match="--overwrite"):
        write_bytes(b"new", path, overwrite=False)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    write_bytes(b"new", tmp_path / "result.json", overwrite=False)
    assert (tmp_path / "result.json").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


def test_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def interrupt(_: int) -> None:
        seen.extend(tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(b"new", tmp_path / "result.json", overwrite=False)
    assert [path.name.startswith(".") for path in seen] == [True]
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_halfway_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"old")
    program = """
import resource, sys
from pathlib import Path
from blinddeblur.errors import OutputError
from blinddeblur.files import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    write_bytes(bytes(100_000), Path(sys.argv[1]), overwrite=True)
except OutputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: The file could not be written, because the system says: File too large")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_bytes(b"new", tmp_path / "result.json", overwrite=False)
    assert not list(tmp_path.iterdir())


def test_folder_without_permission(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    with without_privileges(), pytest.raises(OutputError, match="permission"):
        write_bytes(b"new", open_folder / "result.json", overwrite=False)
    with without_privileges(), pytest.raises(OutputError, match="permission"):
        write_bytes(b"new", open_folder / "new" / "result.json", overwrite=False)


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="folder"):
        write_bytes(b"new", tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="no folder"):
        write_bytes(b"new", tmp_path / "file" / "result.json", overwrite=False)
    with pytest.raises(OutputError, match="too long"):
        write_bytes(b"new", tmp_path / ("x" * 300), overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    write_bytes(b"new", tmp_path / "deep" / "er" / ("x" * 250), overwrite=False)
    assert (tmp_path / "deep" / "er" / ("x" * 250)).stat().st_mode == (tmp_path / "other").stat().st_mode


def test_check_free_tells_what_writing_would_say(open_folder: Path) -> None:
    (open_folder / "file").write_bytes(b"x")
    check_free(open_folder / "new" / "er" / "photo.png", overwrite=False)
    check_free(open_folder / "file", overwrite=True)
    for path, words in (
        (open_folder, "folder"),
        (open_folder / "file", "--overwrite"),
        (open_folder / "file" / "photo.png", "is a file and no folder"),
        (open_folder / "new" / ("x" * 300) / "photo.png", "too long"),
    ):
        with pytest.raises(OutputError, match=words):
            check_free(path, overwrite=False)
    open_folder.chmod(0o555)
    with without_privileges(), pytest.raises(OutputError, match="permission"):
        check_free(open_folder / "new" / "photo.png", overwrite=False)
    assert [path.name for path in open_folder.iterdir()] == ["file"]


def test_files_appear_together(tmp_path: Path) -> None:
    first, second = tmp_path / "photo.png", tmp_path / "deep" / "kernel.npy"
    with Together(overwrite=False) as files:
        files.add(b"one", first)
        files.add(b"two", second)
        assert not first.exists()
        assert not second.exists()
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"two")
    with Together(overwrite=True) as files:
        files.add(b"three", first)
    assert first.read_bytes() == b"three"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "kernel.npy", "photo.png"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, EstimationError])
def test_none_appears_when_the_work_stops(tmp_path: Path, stop: type[BaseException]) -> None:
    (tmp_path / "b").write_bytes(b"precious")

    def work() -> None:
        with Together(overwrite=True) as files:
            files.add(b"one", tmp_path / "a")
            files.add(b"two", tmp_path / "b")
            raise stop

    with pytest.raises(stop):
        work()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("b", b"precious")]


def test_none_appears_when_one_name_is_taken(tmp_path: Path) -> None:
    def work() -> None:
        with Together(overwrite=False) as files:
            files.add(b"one", tmp_path / "a")
            files.add(b"two", tmp_path / "b")
            (tmp_path / "b").write_bytes(b"precious")  # by another program, meanwhile

    with pytest.raises(OutputError, match=r"b: .*--overwrite"):
        work()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("b", b"precious")]


def test_a_file_is_written_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with Together(overwrite=False) as files, files.open(path) as file:
        file.writelines([b"one", b"two"])
        assert not path.exists()
    assert path.read_bytes() == b"onetwo"
    assert list(tmp_path.iterdir()) == [path]


def test_files_appear_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    link = os.link

    def watched(source: Path, target: Path) -> None:
        seen.append(target.name)
        link(source, target)

    monkeypatch.setattr(os, "link", watched)
    with Together(overwrite=False) as files:
        for name in ("c", "a", "b"):
            files.add(b"", tmp_path / name)
    assert seen == ["c", "a", "b"]


# Recovery

RESULTS = ("photos/kernel.npy", "elsewhere/photo.gif", "photos/photo.png")

# Writes RESULTS in a new folder, again and again, each time killed one step later, until all steps are done. A step is
# whatever changes the disk.
KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from blinddeblur.files import together as files

def die_after(steps):
    left = iter(range(steps))
    def step():
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
    def before(function):
        def stepping(*arguments):
            step()
            return function(*arguments)
        return stepping
    def hook(event, arguments):
        if event in ("open", "os.link", "os.rename", "os.remove") and ".blinddeblur-" in str(arguments[0]):
            step()
    files.os.fsync = before(os.fsync)
    files.json.dumps = before(files.json.dumps)  # a journal is open, and empty
    sys.addaudithook(hook)

root, overwrite, links, *names = sys.argv[1:]
if not int(links):
    del files.os.link
    def no_link(*paths):
        raise PermissionError
    files.os.link = no_link
for steps in itertools.count():
    paths = [Path(root, str(steps), name) for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        if int(overwrite):
            path.write_text("old")
    child = os.fork()
    if not child:
        die_after(steps)
        with files.Together(overwrite=bool(int(overwrite))) as together:
            for path in paths:
                together.add(b"new", path)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("order", [("photos", "elsewhere"), ("elsewhere", "photos")])
def test_killed_at_any_moment(tmp_path: Path, overwrite: bool, links: bool, order: tuple[str, str]) -> None:
    arguments = [str(tmp_path), str(int(overwrite)), str(int(links)), *RESULTS]
    subprocess.run([sys.executable, "-c", KILLED, *arguments], check=True)
    before, after = dict.fromkeys(RESULTS, "old") if overwrite else {}, dict.fromkeys(RESULTS, "new")
    partial, outcomes = 0, []
    for folder in sorted(tmp_path.iterdir(), key=lambda path: int(path.name)):
        found = {name: text for name, text in contents(folder).items() if name in RESULTS}
        partial += found not in (before, after)
        for name in order:
            recover(folder / name)
        assert found == after or found.get("photos/photo.png") != "new"  # its presence says that all are there
        assert contents(folder) in (before, after)
        outcomes.append(contents(folder) == after)
        with Together(overwrite=outcomes[-1] or overwrite) as files:  # the next run
            for name in RESULTS:
                files.add(b"next", folder / name)
        assert contents(folder) == dict.fromkeys(RESULTS, "next")
    assert partial == 2
    assert outcomes == sorted(outcomes)
    # Two steps for each file, three for each journal, and before the last of them it is settled. Then three moves and
    # five removals.
    assert outcomes.count(False) == 2 * 3 + 3 * 2 - 1
    assert outcomes.count(True) == 1 + 3 + 5 + 1


# Stops when the first of the files has its name, and goes on when told to.
WAITING = """
import os, sys
from pathlib import Path
from blinddeblur.files import together as files
link = os.link
def wait(*paths):
    link(*paths)
    if paths[1].name == "a":
        print("moved", flush=True)
        sys.stdin.readline()
files.os.link = wait
with files.Together(overwrite=False) as together:
    for name in "abc":
        together.add(b"new", Path(sys.argv[1], name))
"""


@pytest.fixture
def waiting(open_folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has moved one of three files in open_folder."""
    command = [sys.executable, "-c", WAITING, str(open_folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"moved\n"
        yield process
        process.kill()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_files_of_a_living_process_stay(open_folder: Path, waiting: subprocess.Popen[bytes]) -> None:
    before = names(open_folder)
    assert len(before) == 1 + 3 + 1
    recover(open_folder)
    with without_privileges():  # who may not even send it a signal
        recover(open_folder)
    assert names(open_folder) == before
    waiting.communicate(b"\n")
    assert contents(open_folder) == dict.fromkeys("abc", "new")


def test_a_process_that_nobody_has_waited_for_is_gone(open_folder: Path, waiting: subprocess.Popen[bytes]) -> None:
    waiting.kill()
    os.waitid(os.P_PID, waiting.pid, os.WEXITED | os.WNOWAIT)
    recover(open_folder)
    assert contents(open_folder) == dict.fromkeys("abc", "new")


def test_a_name_that_was_taken_meanwhile_stays(open_folder: Path, waiting: subprocess.Popen[bytes]) -> None:
    waiting.kill()
    waiting.wait()
    (open_folder / "b").write_text("precious")
    recover(open_folder)
    assert contents(open_folder) == {"a": "new", "b": "precious"}  # the last would say that all are there


def test_what_cannot_be_touched_waits(
    open_folder: Path, waiting: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting.kill()
    waiting.wait()
    before = names(open_folder)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        for name in ("link", "replace", "unlink"):
            patched.setattr(os, name, read_only)
        recover(open_folder)
    with without_privileges():
        recover(open_folder)
    open_folder.chmod(0)
    with without_privileges():
        recover(open_folder)
    assert names(open_folder) == before
    recover(open_folder)
    assert contents(open_folder) == dict.fromkeys("abc", "new")


def test_all_wait_for_a_folder_that_cannot_be_touched(open_folder: Path) -> None:
    here, there = open_folder / "here", open_folder / "there"
    for folder, listed in ((here, [str(there / "a"), "b"]), (there, ["a", str(here / "b")])):
        folder.mkdir()
        (folder / f"{stem()}.journal").write_text(json.dumps({"overwrite": False, "files": listed}))
    (there / f"{stem()}.0.tmp").write_text("new")
    (here / f"{stem()}.1.tmp").write_text("new")
    here.chmod(0o777)
    before = contents(open_folder)
    with without_privileges():
        recover(here)
    assert contents(open_folder) == before
    recover(here)
    assert contents(open_folder) == {"there/a": "new", "here/b": "new"}


def test_a_folder_that_was_moved(open_folder: Path, waiting: subprocess.Popen[bytes], tmp_path: Path) -> None:
    waiting.kill()
    waiting.wait()
    (open_folder / "a").rename(tmp_path / "a")
    for path in open_folder.iterdir():
        path.rename(tmp_path / path.name)
    recover(tmp_path)
    assert contents(tmp_path) == dict.fromkeys("abc", "new")


def test_an_interrupt_while_files_take_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves what the next run needs."""

    def interrupt(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    def work() -> None:
        with Together(overwrite=False) as files:
            files.add(b"new", tmp_path / "a")
            files.add(b"new", tmp_path / "b")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", interrupt)
        with pytest.raises(KeyboardInterrupt):
            work()
    recover(tmp_path)
    assert len(names(tmp_path)) == 3  # this process lives
    monkeypatch.setattr(module, "_start", lambda pid: 1)  # and now it is another one, of the same number
    recover(tmp_path)
    assert contents(tmp_path) == {"a": "new", "b": "new"}


def stem(host: str | None = None, pid: int | None = None, start: int = 1) -> str:
    """Of the files of a process: of this machine, and with a number that is beyond all, unless said otherwise."""
    return f".blinddeblur-{host or module._host()}-{pid or 999_999_999}-{start}-{'0' * 16}"


def test_whose_temporary_files_vanish(tmp_path: Path) -> None:
    mine = module._start(os.getpid())
    hour, elsewhere = 3600, "0" * 8
    kept = {
        stem(pid=os.getpid(), start=mine) + ".0.tmp": 0,
        stem(pid=os.getpid(), start=0) + ".0.tmp": 0,  # from where the system does not say when a process started
        stem(elsewhere) + ".0.tmp": 23 * hour,
        stem(elsewhere) + ".1.tmp": 0,
        ".blinddeblur-notes.tmp": 99 * hour,
        "photo.tmp": 99 * hour,
        stem() + ".0.tmp.png": 99 * hour,
    }
    lost = {
        stem() + ".0.tmp": 0,
        stem(pid=os.getpid(), start=mine + 1) + ".0.tmp": 0,
        stem("1" * 8) + ".0.tmp": 25 * hour,
    }
    for name, age in (kept | lost).items():
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / f"{stem()}.7.tmp").mkdir()
    recover(tmp_path)
    assert names(tmp_path) == {*kept, f"{stem()}.7.tmp"}


def test_a_journal_of_another_machine_is_believed_after_an_hour(tmp_path: Path) -> None:
    theirs = stem("0" * 8)
    (tmp_path / f"{theirs}.0.tmp").write_text("new")
    journal = tmp_path / f"{theirs}.journal"
    journal.write_text(json.dumps({"overwrite": False, "files": ["a"]}))
    os.utime(journal, (time.time() - 3500,) * 2)
    recover(tmp_path)
    assert not (tmp_path / "a").exists()
    os.utime(journal, (time.time() - 3700,) * 2)
    recover(tmp_path)
    assert contents(tmp_path) == {"a": "new"}


def test_recovery_of_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "missing", tmp_path / "file", tmp_path / "a\0b", tmp_path / ("x" * 300)):
        recover(folder)
    assert contents(tmp_path) == {"file": "precious"}


FORGED = {
    "empty": "",
    "no JSON": "{",
    "no text": b"\xff\xfe",
    "nested": "[" * 500_000,
    "large": " " * 2**21 + '{"overwrite": true, "files": ["victim"]}',
    "a list": '["victim"]',
    "no names": '{"overwrite": true, "files": []}',
    "numbers": '{"overwrite": true, "files": [1, "victim"]}',
    "no permission": '{"files": ["victim"]}',
    "an odd permission": '{"overwrite": "yes", "files": ["victim"]}',
    "an absolute name": '{"overwrite": true, "files": ["OUTSIDE/victim"]}',
    "a name above": '{"overwrite": true, "files": ["../outside/victim"]}',
    "by way of a link": '{"overwrite": true, "files": ["link/victim"]}',
    "the folder itself": '{"overwrite": true, "files": [""]}',
    "the folder above": '{"overwrite": true, "files": [".."]}',
    "a NUL byte": '{"overwrite": true, "files": ["a\\u0000b", "victim"]}',
    "no Unicode": '{"overwrite": true, "files": ["\\ud800"]}',
    "too long": json.dumps({"overwrite": True, "files": ["x" * 300]}),
    "another temporary": json.dumps({"overwrite": True, "files": ["none", "OUTSIDE/victim"]}),
    "an absolute name first": json.dumps({"overwrite": True, "files": ["OUTSIDE/victim", "none"]}),
    "an absolute name between": json.dumps({"overwrite": True, "files": ["none", "OUTSIDE/victim", "none"]}),
    "not permitted": '{"overwrite": false, "files": ["victim"]}',
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_journal_does_nothing(tmp_path: Path, forged: str | bytes) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for place in (folder, outside):
        place.mkdir()
        (place / "victim").write_text("precious")
        (place / f"{stem(pid=os.getpid(), start=0)}.0.tmp").write_text("of a living process")
    (folder / "link").symlink_to(outside)
    for index in range(3):
        (folder / f"{stem()}.{index}.tmp").write_text("evil")
    data = forged if isinstance(forged, bytes) else forged.replace("OUTSIDE", str(outside)).encode()
    (folder / f"{stem()}.journal").write_bytes(data)
    (folder / f"{stem()[:-1]}1.journal").symlink_to(outside / "victim")
    os.mkfifo(folder / f"{stem()[:-1]}2.journal")
    before = {name: text for name, text in contents(tmp_path).items() if stem() not in name}
    recover(folder)
    after = {name: text for name, text in contents(tmp_path).items() if stem() not in name}
    after.pop("folder/none", None)  # a new name in its own folder
    assert after == before


def test_what_waits_is_never_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / f"{stem()}.0.tmp").symlink_to(tmp_path / "secret")
    (tmp_path / f"{stem()}.journal").write_text('{"overwrite": true, "files": ["public"]}')
    recover(tmp_path)
    assert contents(tmp_path) == {"secret": "secret"}
