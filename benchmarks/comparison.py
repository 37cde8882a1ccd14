"""The whole of one comparison: the set, the contenders, every run, and what is written about them."""

import hashlib
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from benchmarks import contenders, results, sets, sheet, tables
from benchmarks.results import Results, Row
from benchmarks.running import Bench, pictures_of
from blinddeblur.errors import UsageError
from blinddeblur.files import decoding, encoding
from blinddeblur.files.photo import Photo
from blinddeblur.files.together import write_bytes
from blinddeblur.tiles import evenly

BLURRED_HERE = ("photos", "seeds")  # sets that are made of sharp photos
PHOTOS = 20  # cases of photos by default
DATA = Path("data")  # where the data of the named sets are looked for

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for; see there."""

    name: str
    output: Path
    data: Path | None = None
    methods: list[str] | None = None
    peers: list[str] = field(default_factory=list)
    contenders: Path | None = None
    number: int | None = None
    side: int = 256
    extent: tuple[float, float] = (9, 32)
    noise: float = 0.01
    photons: float | None = None
    crops: str = "spread"
    seeds: list[int] = field(default_factory=lambda: [0])
    jobs: int = 1

    def __post_init__(self) -> None:
        if self.number is not None and self.number < 1:
            raise UsageError(f"--number must be 1 or more, not {self.number}.")
        if self.jobs < 1:
            raise UsageError(f"--jobs must be 1 or more, not {self.jobs}.")
        if len(self.seeds) < (2 if self.name == "seeds" else 1):
            raise UsageError("--seeds must be 2 or more.")


def run(wanted: Wanted) -> int:
    """Everything. Returns the exit code: 1 when something has failed."""
    results.check_folder(wanted.output)
    return _sequences(wanted) if wanted.name == "turbulence" else _pictures(wanted)


def _pictures(wanted: Wanted) -> int:
    known = contenders.load(wanted.contenders)
    chosen = known.chosen([contenders.FIRST] if wanted.methods is None else wanted.methods, wanted.peers)
    if "all" in wanted.peers:
        for key, why in known.absent().items():
            print(f"{key} is left out: {why}", file=sys.stderr)
    number = wanted.number or PHOTOS
    recipe = sets.Recipe(number, wanted.side, wanted.extent, wanted.noise, wanted.photons, wanted.crops)
    settings: dict[str, Any] = {"set": wanted.name, "seeds": wanted.seeds, "jobs": wanted.jobs}
    if wanted.name in BLURRED_HERE:
        settings |= {name: value for name, value in asdict(recipe).items() if name != "number"}  # more may follow
    commands = {contender.key: list(contender.command) for contender in chosen}
    book = Results(Row, wanted.output, settings, commands)
    cases = _cases(wanted, recipe)
    bench = Bench(cases, book, wanted.output, wanted.seeds, wanted.jobs, _say)
    try:
        bench.run(chosen)
    finally:
        ran = {row.contender for row in book.rows.values()}
        shown = {key: contender for key, contender in known.everybody().items() if key in ran}
        page = tables.page(Path(wanted.name).name, book.rows.values(), shown, wanted.name)
        write_bytes(page.encode(), wanted.output / "results.md", overwrite=True)
    print(page)
    titles = {key: contender.name for key, contender in shown.items()}
    _draw({case.name: dict(pictures_of(bench, titles, case, wanted.seeds[0])) for case in _few(cases)}, wanted.output)
    keys = {contender.key for contender in chosen}
    names = {case.name for case in cases}
    return int(any(row.failure and row.contender in keys and row.case in names for row in book.rows.values()))


def _sequences(wanted: Wanted) -> int:
    """Sequences through turbulence: benchmarks/turbulence.py, with its own methods and figures."""
    from benchmarks import turbulence

    if wanted.peers:
        raise UsageError("No peer restores sequences. Leave out --peers; --methods has what OpenCV does.")
    methods = turbulence.DEFAULT if wanted.methods is None else wanted.methods
    turbulence.check_methods(methods)
    files = sets.sharp_photos(wanted.data or DATA / "photos")
    number, seed = wanted.number or PHOTOS, wanted.seeds[0]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    settings = {"set": wanted.name, "number": number, "side": wanted.side, "seed": seed, "methods": methods}
    book = Results(turbulence.Row, wanted.output, {**settings, "photos": digest})
    done = {(row.photo, row.strength, row.frames) for row in book.rows.values()}
    frames, strengths = turbulence.FRAMES, turbulence.STRENGTHS
    pictures = wanted.output / "pictures"
    try:
        for rows, shown in turbulence.measured(files, number, frames, strengths, methods, wanted.side, seed, done):
            name = f"{rows[0].photo}-{rows[0].strength:g}-{rows[0].frames}"
            for title, picture in shown.items():
                encoding.write(Photo(picture), pictures / name / f"{title}.png", overwrite=True)
            book.add(*rows)
    finally:
        page = f"# turbulence\n\n{turbulence.table(list(book.rows.values()))}\n"
        write_bytes(page.encode(), wanted.output / "results.md", overwrite=True)
    print(page)
    folders = [pictures / f"{name}-{strength:g}-{count}" for name, strength, count, _ in book.rows]
    folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    titles = ["input", turbulence.BEST, *methods, "truth"]
    strips = {}
    for folder in _few(folders):
        found = {title: folder / f"{title}.png" for title in titles}
        strips[folder.name] = {title: decoding.read(path).stored for title, path in found.items() if path.exists()}
    _draw(strips, wanted.output)
    return 0


def _few(things: list[T]) -> list[T]:
    """As many as a contact sheet shows, evenly spread: only these are read."""
    return [things[index] for index in evenly(len(things) - 1, min(len(things), sheet.MOST_ROWS))]


def _draw(strips: dict[str, dict[str, NDArray[Any]]], output: Path) -> None:
    """The contact sheet, in the place of an earlier one."""
    picture = output / "sheet.jpg"
    picture.unlink(missing_ok=True)
    sheet.contact_sheet(list(strips.items()), picture)


def _cases(wanted: Wanted, recipe: sets.Recipe) -> list[sets.Case]:
    """The cases of the set, written."""
    output = wanted.output / results.SET
    if wanted.name == "levin":
        return sets.levin(wanted.data or DATA / "levin", output, wanted.number)
    if wanted.name in BLURRED_HERE:
        return sets.photos(wanted.data or DATA / "photos", output, recipe)
    return sets.folder(wanted.data or Path(wanted.name), output, wanted.number)


def _say(row: Row) -> None:
    """One line about a row, on standard error."""
    if not row.finished:
        said = f"failed. {row.failure}" if row.failure else f"left out: {row.skipped}"
    else:
        figures = [f"{row.psnr:.2f} dB" if row.psnr is not None else "", f"{row.seconds:.1f} s"]
        said = ", ".join(filter(None, figures))
    print(f"{row.case} {row.contender} {row.seed}: {said}", file=sys.stderr, flush=True)
