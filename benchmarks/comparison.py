"""The whole of one comparison: the set, the contenders, every run, and what is written about them."""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import contenders, results, sets, sheet, tables
from benchmarks.results import Results, Row
from benchmarks.running import Bench, pictures_of
from blinddeblur.errors import UsageError
from blinddeblur.files import write_bytes

PHOTOS = 20  # cases of photos by default
SHOWN = 8  # cases of a contact sheet
DATA = Path("data")  # where the data of the named sets are looked for


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
    known = contenders.load(wanted.contenders)
    chosen = known.chosen([contenders.FIRST] if wanted.methods is None else wanted.methods, wanted.peers)
    if "all" in wanted.peers:
        for key, why in known.absent().items():
            print(f"{key} is left out: {why}", file=sys.stderr)
    cases, settings = _cases(wanted)
    settings |= {"set": wanted.name, "seeds": wanted.seeds, "jobs": wanted.jobs}
    commands = {contender.key: list(contender.command) for contender in chosen}
    book = Results(wanted.output, settings, commands, {case.name: sets.checksum(case) for case in cases})
    bench = Bench(cases, book, wanted.output, wanted.seeds, wanted.jobs, _say)
    everybody = {**known.methods, **known.peers}
    try:
        bench.run(chosen)
    finally:
        ran = {row.contender for row in book.rows.values()}
        shown = {key: contender for key, contender in everybody.items() if key in ran}
        title = f"{Path(wanted.name).name}, {len(cases)} cases"
        page = tables.page(title, book.rows.values(), shown, wanted.name)
        write_bytes(page.encode(), wanted.output / "results.md", overwrite=True)
    few = cases[:: max(1, -(-len(cases) // SHOWN))]
    titles = {key: contender.name for key, contender in shown.items()}
    strips = [(case.name, dict(pictures_of(bench, titles, case, wanted.seeds[0]))) for case in few]
    picture = wanted.output / "sheet.jpg"
    picture.unlink(missing_ok=True)
    sheet.contact_sheet(strips, picture)
    print(page)
    return int(any(row.failure for row in book.rows.values()))


def _cases(wanted: Wanted) -> tuple[list[sets.Case], dict[str, object]]:
    """The cases of the set, written, and the settings that made them."""
    output = wanted.output / "set"
    if wanted.name == "levin":
        return sets.levin(wanted.data or DATA / "levin", output, wanted.number), {}
    if wanted.name in ("photos", "seeds"):
        recipe = sets.Recipe(wanted.number or PHOTOS, wanted.side, wanted.extent, wanted.noise, wanted.photons)
        made_with = {key: value for key, value in asdict(recipe).items() if key != "number"}  # more may follow
        return sets.photos(wanted.data or DATA / "photos", output, recipe), made_with
    return sets.folder(wanted.data or Path(wanted.name), output, wanted.number), {}


def _say(row: Row) -> None:
    """One line about a row, on standard error."""
    if not row.finished:
        said = f"failed. {row.failure}" if row.failure else f"left out: {row.skipped}"
    else:
        figures = [f"{row.psnr:.2f} dB" if row.psnr is not None else "", f"{row.seconds:.1f} s"]
        said = ", ".join(filter(None, figures))
    print(f"{row.case} {row.contender} {row.seed}: {said}", file=sys.stderr, flush=True)
