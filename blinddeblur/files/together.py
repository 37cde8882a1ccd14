"""Safe writing: files appear whole, all together or not at all, and recover tidies up after a process that was killed.

A file waits under a temporary name in its own folder. Before several take their names, a journal that lists them is
written into each of their folders; with the last one it is settled that all will appear, by recover if need be.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from blinddeblur.errors import OutputError

NUL = "there is a NUL byte in its path"  # the one thing about a path that Python itself refuses, with a ValueError

# All temporary files and journals of one Together share a stem: the machine, the process and its start, a random part.
_OURS = re.compile(
    r"(?P<stem>\.blinddeblur-(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]{1,9})-(?P<start>[0-9]{1,19})-[0-9a-f]{16})"
    r"(\.[0-9]{1,9}\.tmp|\.journal)"
)
# Seconds after which the process of another machine, which nobody can ask for, is taken to be gone. A journal lives as
# long as a few files are renamed; a temporary file may wait for others that are hours of computation away.
_PATIENCE = {".journal": 3600, ".tmp": 24 * 3600}
_LONGEST_JOURNAL = 2**20  # bytes; hundreds of the longest paths


class Together:
    """Files that appear together, or not at all: each waits under a temporary name in its folder for the last one.

    At the end of the block they take their names, in the order in which they were added: once the last is there, all
    are. If that is cut short, recover completes it. After an error or an interrupt within the block no temporary file
    stays behind.

    Example:
        >>> with Together(overwrite=False) as files:  # doctest: +SKIP
        ...     files.add(report, Path("photo.json"))
        ...     files.add(encode(photo, ".png"), Path("photo.png"))
    """

    def __init__(self, *, overwrite: bool) -> None:
        pid = os.getpid()
        self._overwrite = overwrite
        self._stem = f".blinddeblur-{_host()}-{pid}-{_start(pid)}-{secrets.token_hex(8)}"
        self._paths: list[Path] = []

    def __enter__(self) -> "Together":
        return self

    def add(self, data: bytes, path: Path) -> None:
        """Write a file under a temporary name. Missing folders are created.

        Raises OutputError when the file exists and may not be overwritten, and when the system refuses (no permission,
        full disk).
        """
        with self.open(path) as file:
            file.write(data)

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator[IO[bytes]]:
        """As add, for what is written piece by piece: a file that is complete at the end of the block."""
        check_free(path, overwrite=self._overwrite)
        with _said_in_words(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._paths.append(path)
            temporary, _ = _waiting(self._stem, self._paths)[-1]
            with temporary.open("xb") as file:
                yield file
                _reach_disk(file)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._appear()
        except Exception:
            self._discard()
            raise
        # An interrupt on the way leaves what recover needs.
        self._discard()

    def _appear(self) -> None:
        for path in self._paths:
            check_free(path, overwrite=self._overwrite)
        if len(self._paths) > 1:  # one file takes its name at once
            self._write_journals()
        for temporary, path in _waiting(self._stem, self._paths):
            with _said_in_words(path):
                _move(temporary, path, overwrite=self._overwrite)

    def _write_journals(self) -> None:
        """The one beside the last file, which makes all of them count, comes last."""
        for folder in reversed(_folders(self._paths)):
            # By their mere names, so that a folder may be moved, or mounted elsewhere.
            names = [path.name if path.parent == folder else str(path.absolute()) for path in self._paths]
            journal = _journal(self._stem, folder)
            with _said_in_words(journal), journal.open("xb") as file:
                file.write(json.dumps({"overwrite": self._overwrite, "files": names}).encode())
                _reach_disk(file)

    def _discard(self) -> None:
        for path in self._paths[-1:]:
            with _said_in_words(path):
                _remove(self._stem, self._paths)


def write_bytes(data: bytes, path: Path, *, overwrite: bool) -> None:
    """Write a whole file or none: into a temporary file beside it, which then takes its name. See Together.add."""
    write_together([(path, data)], overwrite=overwrite)


def write_together(files: Iterable[tuple[Path, bytes]], *, overwrite: bool) -> None:
    """Write all files or none. See Together.add."""
    with Together(overwrite=overwrite) as together:
        for path, data in files:
            together.add(data, path)


def recover(folder: Path) -> None:
    """Complete or clear away what processes that are gone have left in a folder of results.

    Files that were about to appear together do so, also those in other folders, unless a name was taken meanwhile and
    may not be overwritten; all other temporary files are removed. What belongs to a living process stays, and so does,
    without a word, what cannot be touched.

    Journals are not trusted: whatever they say, only temporary files of the same process are renamed, each within its
    own folder.
    """
    for stem, journal in _left_behind(folder, ".journal"):
        with contextlib.suppress(OSError, ValueError, OutputError):
            _complete(stem, journal)
    for stem, temporary in _left_behind(folder, ".tmp"):
        with contextlib.suppress(OSError):
            # Beside a journal that could not be completed now, it waits for the next time.
            if not _is_regular(_journal(stem, folder)):
                temporary.unlink()


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError if a file of this name cannot be written, as far as that can be told without writing.

    That is: the name is a folder's, a file's that may not be overwritten, or one that the system does not allow; or its
    folder is a file, or may not be written to.
    """
    with _said_in_words(path):
        if os.path.isdir(path):
            raise OutputError(f"{path}: This is a folder. Name a file.")
        if not overwrite and os.path.lexists(path):
            raise OutputError(_exists(path))
        folder, missing = path.parent.absolute(), [path.name]
        while not os.path.exists(folder):
            missing.append(folder.name)
            folder = folder.parent
        # Each name by itself, also those of folders to come: the system may not allow one, or the whole path.
        for looked_up in (path, *(folder / name for name in missing)):
            try:
                os.lstat(looked_up)
            except (FileNotFoundError, NotADirectoryError):
                pass
            except ValueError as error:
                raise OutputError(f"{path}: The file could not be written, because {NUL}.") from error
    if not folder.is_dir():
        raise OutputError(f"{path.parent}: {folder} is a file and no folder. Choose another place for {path.name}.")
    if not os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise OutputError(f"{path.parent}: There is no permission to write here. Choose another place for {path.name}.")


def reason(error: OSError) -> str:
    """Why the system refuses, as the end of a sentence."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a part of its path is a file and no folder"
    if isinstance(error, PermissionError):
        return "the permission is missing"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    if error.errno == errno.ENAMETOOLONG:
        return "a name in its path is too long"
    return f"the system says: {error.strerror}"


@contextlib.contextmanager
def _said_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: The file could not be written, because {reason(error)}.") from error


def _exists(path: Path) -> str:
    return f"{path}: The file exists already. Choose another name, or allow to replace it with --overwrite."


def _reach_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())  # some systems report a full disk only here


def _waiting(stem: str, paths: list[Path]) -> list[tuple[Path, Path]]:
    """The temporary and the final name of each file.

    The temporary is not derived from the final one, which may already be as long as the system allows.
    """
    return [(path.parent / f"{stem}.{index}.tmp", path) for index, path in enumerate(paths)]


def _folders(paths: list[Path]) -> list[Path]:
    """Each once, that of the last file first."""
    return list(dict.fromkeys(path.parent for path in reversed(paths)))


def _journal(stem: str, folder: Path) -> Path:
    return folder / f"{stem}.journal"


def _move(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give the temporary file its final name. Raises OutputError if that is taken and may not be overwritten."""
    if not overwrite:
        try:
            # Unlike a rename, a link fails when the name was taken meanwhile.
            os.link(temporary, path)
            return
        except FileExistsError as error:
            raise OutputError(_exists(path)) from error
        except OSError as error:
            # A file system without links, such as FAT: a check just before the rename is the best there is.
            if os.path.lexists(path):
                raise OutputError(_exists(path)) from error
    os.replace(temporary, path)


def _remove(stem: str, paths: list[Path]) -> None:
    """Remove what is temporary. The journal that counts goes first: without it, nothing is completed any more."""
    for folder in _folders(paths):
        _journal(stem, folder).unlink(missing_ok=True)
    for temporary, _ in _waiting(stem, paths):
        temporary.unlink(missing_ok=True)


def _complete(stem: str, journal: Path) -> None:
    """Move what a journal lists, if that was settled, and remove what is temporary, the journal included."""
    written = _read_journal(journal)
    if written is None:  # cut off, so that nothing has been moved
        journal.unlink()
        return
    paths, overwrite = written
    if _read_journal(_journal(stem, paths[-1].parent)):
        for temporary, path in _waiting(stem, paths):
            if not _is_regular(temporary):
                continue  # it has its name already
            if not overwrite and os.path.lexists(path):
                if os.path.samestat(os.lstat(temporary), os.lstat(path)):
                    continue
                break  # taken meanwhile: as at the end of Together, no other file follows
            _move(temporary, path, overwrite=overwrite)
    _remove(stem, paths)


def _read_journal(journal: Path) -> tuple[list[Path], bool] | None:
    """The files and whether they may overwrite others; None if it is missing or makes no sense."""
    if not _is_regular(journal):
        return None
    with journal.open("rb") as file, contextlib.suppress(ValueError, RecursionError):
        match json.loads(file.read(_LONGEST_JOURNAL)):
            case {"overwrite": bool(overwrite), "files": [_, *_] as names} if all(isinstance(n, str) for n in names):
                return [journal.parent / name for name in names], overwrite
    return None


def _is_regular(path: Path) -> bool:
    """Whether it is a file, and no symbolic link to one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return stat.S_ISREG(os.lstat(path).st_mode)
    return False


def _left_behind(folder: Path, ending: str) -> list[tuple[str, Path]]:
    """The files of ours with this ending whose process is gone, each after its stem."""
    found = []
    with contextlib.suppress(OSError, ValueError):  # there is no such folder
        for path in folder.iterdir():
            match = _OURS.fullmatch(path.name)
            if match and path.suffix == ending and _is_regular(path) and _is_gone(match, path):
                found.append((match["stem"], path))
    return found


def _is_gone(match: re.Match[str], path: Path) -> bool:
    """Whether the process that a file is named after has ended."""
    if match["host"] != _host() or sys.platform == "win32":  # where to ask for a process is to interrupt it
        return time.time() - path.lstat().st_mtime > _PATIENCE[path.suffix]
    pid, start = int(match["pid"]), int(match["start"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is another user's
        pass
    now = _start(pid)
    return start != now and 0 not in (start, now)  # the number is another process's by now


@functools.cache
def _host() -> str:
    """Where the number of a process means the same process: the machine, and on Linux the container.

    Names of machines alone are not unique on a network.
    """
    place = platform.node()
    with contextlib.suppress(OSError):
        place += Path("/etc/machine-id").read_text()
    with contextlib.suppress(OSError):
        place += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(place.encode()).hexdigest()[:8]


def _start(pid: int) -> int:
    """When a process was started, in ticks since the machine was; 0 if the system does not say, -1 if it has ended."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # Behind the name of its program, which may contain spaces and parentheses.
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return -1 if state == b"Z" else int(fields[18])
    return 0
