"""What `download-weights` does: get published checkpoints, or show and check those that are there."""

from pathlib import Path

from blinddeblur.commands.console import Console
from blinddeblur.errors import UsageError, WeightsError
from blinddeblur.weights.cache import State, place, status
from blinddeblur.weights.download import download
from blinddeblur.weights.manifest import listed, manifest


def show(names: list[str], console: Console, *, hashed: bool) -> int:
    """A table of the entries, or of all; `hashed` compares files with their checksums. Returns the exit code."""
    found = [(entry, status(entry, hashed=hashed)) for entry in map(listed, names or manifest())]
    rows = [[entry.name, entry.kind, stored.state, entry.licence, stored.detail] for entry, stored in found]
    console.table(["name", "kind", "state", "licence", ""], rows)
    return WeightsError.exit_code if any(stored.state is State.DAMAGED for _, stored in found) else 0


def get(names: list[str], from_file: Path | None, console: Console, *, trust: bool) -> int:
    """Put entries into the cache: from where they are published, or one from a file. Returns the exit code.

    Raises what `download` and `place` raise, and UsageError where the names do not fit the file, or there are none.
    """
    if not names:
        raise UsageError("Name what to download; `blinddeblur download-weights --list` shows what there is.")
    if from_file is not None and len(names) > 1:
        raise UsageError("One file belongs to one entry: give a single NAME with --from-file.")
    for entry in [listed(name) for name in names]:
        with console.work(entry.name, in_bytes=True) as work:
            if from_file is not None:
                path = place(entry, from_file, trust=trust)
            else:
                path = download(entry, trust=trust, progress=work.amount)
        console.say(f"{entry.name}: {path}")
    return 0
