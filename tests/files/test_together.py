"""Files appear whole, the last one last, whatever fails; and what a killed process leaves is cleared away."""

import errno
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from photofiles import without_privileges
from scenes import blurred, streak

from blinddeblur.errors import EstimationError, OutputError
from blinddeblur.files.encoding import write
from blinddeblur.files.photo import Photo
from blinddeblur.files.together import Together, check_free, recover, write_bytes, write_together

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
        seen.extend(tmp_path.iterdir())  # the working folder
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
from blinddeblur.files.together import write_bytes
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


@pytest.mark.parametrize("links", [True, False])
def test_none_stays_when_a_later_one_fails(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is taken between the check and the move, by another run."""
    link = os.link

    def taken(waiting: Path, path: Path) -> None:
        if path.name == "b":
            path.write_bytes(b"precious")
        if not links:
            raise OSError(errno.EPERM, "Operation not permitted")
        link(waiting, path)

    monkeypatch.setattr(os, "link", taken)
    with pytest.raises(OutputError, match=r"b: .*--overwrite"):
        write_together([(tmp_path / name, b"new") for name in "abc"], overwrite=False)
    assert contents(tmp_path) == {"b": "precious"}
    assert names(tmp_path) == {"b"}


def test_the_old_last_file_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / name).write_text("old")
    seen, replace = [], os.replace

    def watched(source: Path, target: Path) -> None:
        seen.append({name: text for name, text in contents(tmp_path).items() if name in "abc"})
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    with Together(overwrite=True) as files:
        for name in "abc":
            files.add(b"new", tmp_path / name)
    assert seen == [{"a": "old", "b": "old"}, {"a": "new", "b": "old"}]
    assert contents(tmp_path) == dict.fromkeys("abc", "new")


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

CHANGES = ("open", "os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir")

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
        if event in CHANGES and (event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            step()
    files.os.fsync = before(os.fsync)
    sys.addaudithook(hook)

root, overwrite, links, *names = sys.argv[1:]
if not int(links):
    def no_link(*paths):
        raise PermissionError
    files.os.link = no_link
for steps in itertools.count():
    paths = [Path(root, str(steps), name) for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "mine").write_text("precious")
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


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("links", [True, False])
def test_killed_at_any_moment(tmp_path: Path, overwrite: bool, links: bool) -> None:
    arguments = [str(tmp_path), str(int(overwrite)), str(int(links)), *RESULTS]
    subprocess.run([sys.executable, "-c", KILLED, *arguments], check=True)
    mine = dict.fromkeys(["photos/mine", "elsewhere/mine"], "precious")
    partial = outcomes = 0
    for folder in sorted(tmp_path.iterdir(), key=lambda path: int(path.name)):
        found = {name: text for name, text in contents(folder).items() if name in RESULTS}
        finished = found.get(RESULTS[-1]) == "new"
        assert not finished or found == dict.fromkeys(RESULTS, "new")  # where the last one lies, all do
        assert set(found.values()) <= ({"old", "new"} if overwrite else {"new"})  # each is whole
        partial += 0 < len(found) < len(RESULTS)
        outcomes += finished
        for place in ("elsewhere", "photos"):  # the next run
            recover(folder / place, [[folder / name for name in RESULTS]])
        if not overwrite:
            assert contents(folder) == mine | (found if finished else {})
        with Together(overwrite=overwrite or finished) as files:
            for name in RESULTS:
                files.add(b"next", folder / name)
        assert contents(folder) == mine | dict.fromkeys(RESULTS, "next")
        assert not list(folder.rglob(".*"))
    assert partial >= 2
    assert outcomes >= 5  # while it clears away


# Stops when the first of three files has its place, and goes on when told to.
WAITING = """
import os, sys
from pathlib import Path
from blinddeblur.files import together as files
link = os.link
def wait(*paths):
    link(*paths)
    if paths[1].name == "a":
        print("placed", flush=True)
        sys.stdin.readline()
files.os.link = wait
with files.Together(overwrite=False) as together:
    for name in "abc":
        together.add(b"new", Path(sys.argv[1], name))
"""


@pytest.fixture
def waiting(open_folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has placed one of three files in open_folder."""
    command = [sys.executable, "-c", WAITING, str(open_folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"placed\n"
        yield process
        process.kill()


def test_what_a_living_process_has_written_stays(open_folder: Path, waiting: subprocess.Popen[bytes]) -> None:
    before = contents(open_folder)
    assert len(before) == 1 + 3 + 1
    results = [[open_folder / name for name in "abc"]]
    recover(open_folder, results)
    with without_privileges():  # who may not even open the lock
        recover(open_folder, results)
    assert contents(open_folder) == before
    waiting.communicate(b"\n")
    assert contents(open_folder) == dict.fromkeys("abc", "new")


def test_of_two_runs_at_once_one_is_refused(open_folder: Path, waiting: subprocess.Popen[bytes]) -> None:
    """Also where both have begun: all results are of the same run."""
    with pytest.raises(OutputError, match=r"a: .*--overwrite"):
        write_together([(open_folder / name, b"other") for name in "cba"], overwrite=False)
    waiting.communicate(b"\n")
    assert contents(open_folder) == dict.fromkeys("abc", "new")


def test_a_file_of_the_users_own_stays(open_folder: Path, waiting: subprocess.Popen[bytes]) -> None:
    waiting.kill()
    waiting.wait()
    (open_folder / "b").write_text("precious")
    recover(open_folder, [[open_folder / name for name in "abc"]])
    assert contents(open_folder) == {"b": "precious"}


def test_what_cannot_be_touched_waits(open_folder: Path, waiting: subprocess.Popen[bytes]) -> None:
    waiting.kill()
    waiting.wait()
    before, results = contents(open_folder), [[open_folder / name for name in "abc"]]
    for mode in (0o755, 0):
        open_folder.chmod(mode)
        with without_privileges():
            recover(open_folder, results)
    assert contents(open_folder) == before
    recover(open_folder, results)
    assert names(open_folder) == set()


def test_a_folder_that_was_moved(open_folder: Path, waiting: subprocess.Popen[bytes], tmp_path: Path) -> None:
    waiting.kill()
    waiting.wait()
    moved = open_folder.rename(tmp_path / "moved")
    open_folder.mkdir()
    recover(moved, [[moved / name for name in "abc"]])
    assert names(moved) == set()


def test_an_interrupt_while_files_take_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves what the next run needs."""
    link = os.link

    def interrupt(source: Path, target: Path) -> None:
        link(source, target)
        raise KeyboardInterrupt

    def work() -> None:
        with Together(overwrite=False) as files:
            files.add(b"new", tmp_path / "a")
            files.add(b"new", tmp_path / "b")

    monkeypatch.setattr(os, "link", interrupt)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert (tmp_path / "a").exists()
    gc.collect()  # its lock goes with the process, here with the object
    recover(tmp_path, [[tmp_path / "a", tmp_path / "b"]])
    assert names(tmp_path) == set()


def test_a_working_folder_that_another_run_clears_away_too_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its locking; then another one is made."""
    mkdir, made = Path.mkdir, []

    def cleared(path: Path, *arguments: object, **options: object) -> None:
        mkdir(path, *arguments, **options)  # type: ignore[arg-type]
        made.append(path)
        if len(made) == 1:
            recover(tmp_path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", cleared)
        with Together(overwrite=False) as files:
            files.add(b"new", tmp_path / "a")
    assert contents(tmp_path) == {"a": "new"}


def test_what_looks_like_a_working_folder(tmp_path: Path) -> None:
    """Links lead nowhere, and other names are the user's."""
    kept, ours = tmp_path / "kept", f".blinddeblur-{'0' * 15}"
    kept.mkdir()
    (kept / "a").write_text("precious")
    (tmp_path / f"{ours}1").symlink_to(kept)
    (tmp_path / f"{ours}2").mkdir()
    (tmp_path / f"{ours}2" / "lock").symlink_to(kept / "a")
    (tmp_path / f"{ours}3").write_text("precious")
    (tmp_path / f"{ours}4").mkdir()
    (tmp_path / f"{ours}4" / "folder").symlink_to(kept)
    os.mkfifo(tmp_path / f"{ours}4" / "pipe")
    for name in (f"{ours}.notes", ".blinddeblur-notes", f"{ours}5.png"):
        (tmp_path / name).mkdir()
    before = names(tmp_path)
    recover(tmp_path, [[tmp_path / "kept", tmp_path / "missing"]])
    assert names(tmp_path) == before - {f"{ours}4"}
    assert contents(kept) == {"a": "precious"}


def test_recovery_of_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "missing", tmp_path / "file", tmp_path / "a\0b", tmp_path / ("x" * 300)):
        recover(folder)
    assert contents(tmp_path) == {"file": "precious"}


KNOWN = ["--kernel", "k.npy"]  # no estimate, so that it takes a moment

# Ends just before the last result takes its place, as by kill -9.
ENDED = """
import os, signal, sys
link, last = os.link, sys.argv.pop(1)
def ending(waiting, path):
    if path.name == last:
        os.kill(os.getpid(), signal.SIGKILL)
    link(waiting, path)
os.link = ending
from blinddeblur.cli import main
main()
"""


@pytest.mark.parametrize(
    ("last", "others", "arguments"),
    [
        ("a.deblurred.png", ["a.kernel.npy", "way.gif"], ["restore", "a.png", "--record", "way.gif", *KNOWN]),
        ("restored.png", ["tilt.npz", "way.gif"], ["turbulence", "a.png", "-o", "out", "--record", "way.gif", *KNOWN]),
        ("sample-1.png", ["sample-1.npy"], ["sample", "kernel", "-o", "out"]),
    ],
)
def test_the_same_command_goes_on_after_a_kill(
    last: str, others: list[str], arguments: list[str], tmp_path: Path
) -> None:
    write(Photo(blurred(60, 64, 1, streak(5, 3), sigma=0.002)[1]), tmp_path / "a.png")
    np.save(tmp_path / "k.npy", streak(5, 3))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kernel.notes").write_text("precious")
    command = [sys.executable, "-c", ENDED, last, *arguments, "--device", "cpu", "--steps", "2"]
    killed = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    found = {path.name for path in tmp_path.rglob("*")}
    assert last not in found
    assert found >= {*others, "kernel.notes"}
    command[3] = "no file at all"
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr
    found = {path.name for path in tmp_path.rglob("*")}
    assert found >= {last, *others}
    assert not [name for name in found if name.startswith(".")]
    assert (tmp_path / "out" / "kernel.notes").read_text() == "precious"
