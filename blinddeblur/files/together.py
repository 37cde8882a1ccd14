"""Safe writing: a file appears whole or not at all, and the last of several only when all others are in place.

So where the last one lies, everything lies. Until then files wait in a working folder, a hidden one in the folder where
they belong, under a lock that ends with the process. What has its place is a link to the file that waited: by that,
recover tells what a killed run has put there from a file of the user's.
"""

import contextlib
import errno
import filecmp
import hashlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from blinddeblur.errors import OutputError

NUL = "there is a NUL byte in its path"  # the one thing about a path that Python itself refuses, with a ValueError

_WORKING_FOLDER = re.compile(r"\.blinddeblur-[0-9a-f]{16}")
_LOCK = "lock"
_ATTEMPTS = 10  # to have a working folder of one's own, before another run takes it for one left behind


class Together:
    """Files that appear together: the last one added only when all others are in place, or none.

    At the end of the block they take their places, in the order in which they were added. Where several may be
    replaced, the old last one goes before the first new one comes. After an error nothing of ours stays behind; after a
    kill, recover clears it away.

    Example:
        >>> with Together(overwrite=False) as files:  # doctest: +SKIP
        ...     files.add(report, Path("photo.json"))
        ...     files.add(encode(photo, ".png"), Path("photo.png"))
    """

    def __init__(self, *, overwrite: bool) -> None:
        self._overwrite = overwrite
        self._locks: dict[Path, FileLock] = {}  # of the working folders, by the folders of results
        self._files: dict[Path, Path] = {}  # where each waits

    def __enter__(self) -> "Together":
        return self

    def add(self, data: bytes, path: Path) -> None:
        """Write a file that waits. Missing folders are created.

        Raises OutputError when the file exists and may not be overwritten, and when the system refuses (no permission,
        full disk).
        """
        with self.open(path) as file:
            file.write(data)

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator[IO[bytes]]:
        """Open a file that waits, to be written piece by piece; it is complete at the end of the block. See add."""
        check_free(path, overwrite=self._overwrite)
        with _said_in_words(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent not in self._locks:
                self._locks[path.parent] = _working_folder(path.parent)
            waiting = _waiting(self._locks[path.parent], path)
            with waiting.open("xb") as file:
                self._files[path] = waiting
                yield file
                _reach_disk(file)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._appear()
        except Exception:
            self._clear()
            raise
        self._clear()  # but not after an interrupt on the way: that leaves what recover needs

    def _appear(self) -> None:
        for path in self._files:
            check_free(path, overwrite=self._overwrite)
        placed: list[Path] = []
        paths = list(self._files)
        try:
            for path in paths:
                with _said_in_words(path):
                    if self._overwrite and path == paths[0] != paths[-1]:
                        paths[-1].unlink(missing_ok=True)
                    _place(self._files[path], path, overwrite=self._overwrite, last=path == paths[-1])
                placed.append(path)
        except Exception:
            for path in placed:
                path.unlink(missing_ok=True)
            raise

    def _clear(self) -> None:
        for lock in self._locks.values():
            _clear(lock)


def write_bytes(data: bytes, path: Path, *, overwrite: bool) -> None:
    """Write a whole file or none. See Together.add."""
    write_together([(path, data)], overwrite=overwrite)


def write_together(files: Iterable[tuple[Path, bytes]], *, overwrite: bool) -> None:
    """Write all files or none, the last one last. See Together.add."""
    with Together(overwrite=overwrite) as together:
        for path, data in files:
            together.add(data, path)


def recover(folder: Path, results: Iterable[Sequence[Path]] = ()) -> None:
    """Clear away what killed runs have left in a folder of results.

    A working folder whose run still goes stays, and so does, without a word, what cannot be touched.

    Args:
        folder: where to look; it need not exist.
        results: those that appear together, the last one last. Where it is missing, the others go as well if a killed
            run has put them there.
    """
    found: list[Path] = []
    with contextlib.suppress(OSError, ValueError):  # there is no such folder
        found = [path for path in folder.iterdir() if _WORKING_FOLDER.fullmatch(path.name)]
    for working in found:
        if working.is_symlink() or (working / _LOCK).is_symlink():  # none of ours
            continue
        with contextlib.suppress(OSError, Timeout), FileLock(working / _LOCK, timeout=0) as lock:
            for path in (path for paths in results if not os.path.lexists(paths[-1]) for path in paths):
                if path.parent == folder and _is_placed(_waiting(lock, path), path):
                    path.unlink()
            _clear(lock)


def check_free(*paths: Path, overwrite: bool) -> None:
    """Raise OutputError if a file of these names cannot be written, as far as that can be told without writing.

    That is: the name is a folder's, a file's that may not be overwritten, or one that the system does not allow; or its
    folder is a file, or may not be written to.
    """
    for path in paths:
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
        elsewhere = f"Choose another place for {path.name}."
        if not folder.is_dir():
            raise OutputError(f"{path.parent}: {folder} is a file and no folder. {elsewhere}")
        if not os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise OutputError(f"{path.parent}: There is no permission to write here. {elsewhere}")


def all_there(paths: Iterable[Path]) -> bool:
    """Whether there are files of all these names."""
    return all(os.path.lexists(path) for path in paths)


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


def _working_folder(folder: Path) -> FileLock:
    """A new working folder in a folder of results: its lock, which is held."""
    for _ in range(_ATTEMPTS):
        working = folder / f".blinddeblur-{secrets.token_hex(8)}"
        working.mkdir()
        lock = FileLock(working / _LOCK, timeout=0)
        with contextlib.suppress(Timeout, FileNotFoundError):  # another run was quicker to take it for one left behind
            lock.acquire()
            if working.exists():
                return lock
        shutil.rmtree(working, ignore_errors=True)
    raise OutputError(f"{folder}: No file can be locked here. Choose another place for the results.")


def _waiting(lock: FileLock, path: Path) -> Path:
    """Where a file waits. Its name may be as long as the system allows, and must not look like that of a photo."""
    return Path(lock.lock_file).parent / hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]


def _place(waiting: Path, path: Path, *, overwrite: bool, last: bool) -> None:
    """Give a file that waits its place. Raises OutputError if that is taken and may not be overwritten."""
    try:
        os.link(waiting, path)  # unlike a rename, it fails when the name was taken meanwhile
    except OSError as error:
        if not overwrite and os.path.lexists(path):
            raise OutputError(_exists(path)) from error
        # To be replaced; or on a file system without links, such as FAT, where the check just made is the best there
        # is, and a copy has to stay for recover.
        if not (last or overwrite):
            data, waiting = waiting.read_bytes(), waiting.with_suffix(".copy")
            with waiting.open("xb") as file:
                file.write(data)
                _reach_disk(file)
        os.replace(waiting, path)


def _is_placed(waiting: Path, path: Path) -> bool:
    """Whether what lies there is the file that waited for this place, or its copy."""
    with contextlib.suppress(OSError):
        return filecmp.cmp(waiting, path, shallow=False)
    return False


def _clear(lock: FileLock) -> None:
    """Remove a working folder whose lock is held. What cannot be removed now waits for recover."""
    working = Path(lock.lock_file).parent
    shutil.rmtree(working, ignore_errors=True)
    lock.release()
    if sys.platform == "win32":  # where a file that is open cannot be removed
        shutil.rmtree(working, ignore_errors=True)
