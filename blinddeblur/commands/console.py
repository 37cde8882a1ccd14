"""The one place that prints: rich on a terminal, plain lines when piped, JSON on request.

Results go to standard output, progress and complaints to standard error, so that either can be piped away.
"""

import io
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from blinddeblur.commands.outcome import Outcome, reason

PLAIN_EVERY = 10.0  # seconds between two lines of progress when there is no terminal


class Console:
    """Says what happens.

    Args:
        quiet: only results that failed, and JSON where asked for.
        verbose: also what was found out about each photo.
        as_json: one JSON object a line on standard output instead of words.
        out: where answers go; not standard output where that is taken by a photo.
    """

    def __init__(
        self, quiet: bool = False, verbose: bool = False, as_json: bool = False, out: TextIO | None = None
    ) -> None:
        self.quiet, self.verbose, self.as_json = quiet, verbose, as_json
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show ends nothing
        # Names are what they are: no :bug: becomes a picture.
        self.out = RichConsole(file=out or sys.stdout, highlight=False, soft_wrap=True, emoji=False)
        self.err = RichConsole(file=sys.stderr, highlight=False, soft_wrap=True, emoji=False)

    @contextmanager
    def work(self, title: str, in_bytes: bool = False) -> Iterator["Work"]:
        """Show the progress of one photo or one download, which is told to what this yields; a bar goes at the end."""
        if self.quiet:
            yield Work(title)
        elif self.err.is_terminal:
            amount = [DownloadColumn()] if in_bytes else [TextColumn("{task.completed}/{task.total}")]
            columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn())
            with Progress(*columns, console=self.err, transient=True) as bar:
                yield BarWork(title, bar)
        else:
            yield PlainWork(title, self.err)

    def result(self, outcome: Outcome) -> None:
        """Say what became of a photo or sequence, and its warnings."""
        self.say(outcome.sentence, outcome.details, outcome.facts())
        for warning in outcome.warnings:
            self.warning(f"{outcome.input}: {warning}")

    def say(self, sentence: str, details: str = "", facts: dict[str, Any] | None = None) -> None:
        """Give an answer: in words, with --verbose in more of them; or its facts, with --json."""
        if self.as_json and facts is not None:
            self._json(facts)
        elif not self.quiet:
            self.out.print(escape(sentence))
            if self.verbose and details:
                self.out.print(escape(details))

    def failure(self, path: Path, error: Exception) -> str:
        """Say why a photo could not be restored, by an error as `attempt` returns it; returns that sentence."""
        sentence = reason(path, error, verbose=self.verbose)
        if self.as_json:
            self._json({"input": str(path), "error": sentence})
        self.err.print(f"[red]failed[/red] {escape(sentence)}")
        return sentence

    def skipped(self, path: Path, result: Path) -> None:
        """Say that an earlier run has restored a photo."""
        if self.as_json:
            self._json({"input": str(path), "restored": str(result), "skipped": True})
        elif not self.quiet:
            self.out.print(escape(f"{path}: finished already, in {result}. --overwrite makes it once more."))

    def summary(self, done: int, skipped: int, failures: list[tuple[Path, str]], left: int) -> None:
        """Say what became of all photos."""
        if self.quiet:
            return
        counts = [f"{done} restored", f"{skipped} finished before", f"{len(failures)} failed", f"{left} not begun"]
        title = ", ".join(count for count in counts if not count.startswith("0 ")) or "nothing to do"
        if not failures:
            self.err.print(title)
            return
        table = Table("photo", "why", title=title, title_justify="left")
        for path, why in failures:
            table.add_row(escape(str(path)), escape(why))
        self.err.print(table)

    def total(self, sentence: str) -> None:
        """Say what a list of photos comes to."""
        if not self.quiet:
            self.err.print(escape(sentence))

    def error(self, sentence: str) -> None:
        """Say what ends the whole command."""
        self.err.print(f"[red]error:[/red] {escape(sentence)}")

    def warning(self, sentence: str) -> None:
        """Say what does not stop the command, but should be known."""
        if not self.quiet:
            self.err.print(f"[yellow]warning:[/yellow] {escape(sentence)}")

    def table(self, headers: list[str], rows: list[list[str]]) -> None:
        """Give an answer in columns, or with tabs between its values when piped."""
        if not self.out.is_terminal:
            for row in rows:
                self.out.file.write("\t".join(row) + "\n")  # rich would turn tabs into spaces
            return
        table = Table(*headers)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.out.print(table)

    def _json(self, facts: dict[str, Any]) -> None:
        print(json.dumps(facts), file=sys.stdout, flush=True)  # noqa: T201  (rich would wrap it)


class Work:
    """Progress that nobody sees; the base of the two that somebody does."""

    def __init__(self, title: str) -> None:
        self.title = title

    def stage(self, name: str, done: float, total: float | None, note: str = "") -> None:
        """Show how far a stage of the work is, and a note on how it goes."""

    def amount(self, done: int, total: int | None) -> None:
        """Show how far work without stages is."""
        self.stage("", done, total)


class BarWork(Work):
    """A bar on a terminal, with the time left of the current stage."""

    def __init__(self, title: str, bar: Progress) -> None:
        super().__init__(title)
        self.bar = bar
        self.name: str | None = None
        self.task: TaskID | None = None

    def stage(self, name: str, done: float, total: float | None, note: str = "") -> None:
        """Show the stage as a bar; a new one starts in the place of the old one."""
        description = escape(f"{self.title}  {name}  {note}".strip())
        if name != self.name or self.task is None:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.name = name
            self.task = self.bar.add_task(description, total=total)
        self.bar.update(self.task, description=description, completed=done, total=total)


class PlainWork(Work):
    """A line now and then, for logs."""

    def __init__(self, title: str, console: RichConsole) -> None:
        super().__init__(title)
        self.console = console
        self.name: str | None = None
        self.said = 0.0

    def stage(self, name: str, done: float, total: float | None, note: str = "") -> None:
        """Print a line for each new stage, and one every ten seconds within it."""
        now = time.monotonic()
        if name == self.name and now - self.said < PLAIN_EVERY:
            return
        self.name, self.said = name, now
        share = f"{done}/{total}" if total else str(done)
        line = f"{self.title}: {name} {share}".replace(":  ", ": ")
        self.console.print(escape(f"{line}, {note}" if note else line))
