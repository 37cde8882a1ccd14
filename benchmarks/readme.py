"""Every figure of the README, from scratch: its pictures, and the numbers in its tables.

python -m benchmarks.readme pictures
python -m benchmarks.readme tables --levin DIR --photos DIR -o WORK [--peers l0,wiener] [--jobs N]

A table stands in the README between <!-- NAME --> and <!-- end of NAME -->. Its rows are kept in benchmarks/figures, so
that a test can tell whether the README says what was measured.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks import comparison, contenders, tables
from benchmarks.results import FILE, Row
from blinddeblur import Engine, Settings
from blinddeblur.commands.console import Console
from blinddeblur.errors import BlindDeblurError, UsageError
from blinddeblur.files import decoding, encoding
from blinddeblur.files.photo import Photo
from blinddeblur.files.together import write_bytes
from blinddeblur.pictures.canvas import as_bytes, below, beside, enlarged, of_kernel, placed
from blinddeblur.pictures.comparison import compare
from blinddeblur.progress import Step

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
FIGURES = ROOT / "benchmarks" / "figures"
PHOTO = ROOT / "examples" / "page.jpg"
SIGMA = 0.013  # of it, as the command in the README says
COMPARED, EVOLUTION = ROOT / "examples" / "page.compare.jpg", ROOT / "examples" / "page.evolution.jpg"
PLACE, SIDE = (100, 150), 200  # top left corner and side of what the evolution shows, in pixels
SHOWN = (0, 3, 11)  # steps of the first diffusion that it shows

RELATIVES = ["fast", "fast-known", "dps-known", "ddnm-known", "diffpir-known", "blinddps", "blinddps-uniform"]
TABLES: dict[str, dict[str, Any]] = {  # what is run for each, see comparison.Wanted
    "levin": {"name": "levin", "methods": ["fast", "fast-known"]},
    "photos": {"name": "photos", "methods": ["fast", "fast-known"]},
    "relatives": {"name": "photos", "methods": RELATIVES, "side": 64, "extent": (5, 10), "crops": "texture"},
}
WITH_PEERS = ("levin", "photos")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def pictures() -> None:
    """The example restored, and how image and kernel came about, beside examples/page.jpg."""
    shown = decoding.read(PHOTO).pixels
    steps: list[Step] = []
    result = Engine(Settings(sigma=SIGMA)).restore(shown, callback=steps.append)
    for path, picture in (
        (COMPARED, compare(shown, result.image, result.kernel)),
        (EVOLUTION, evolution(steps, *shown.shape[:2])),
    ):
        write_bytes(encoding.encode(Photo(picture), path.suffix), path, overwrite=True)
        print(path.relative_to(ROOT))


def evolution(steps: list[Step], height: int, width: int) -> NDArray[np.uint8]:
    """A part of the image above and the kernel below, from the photo with the first guess of its kernel to the result.

    Args:
        steps: what Engine.restore told its callback.
        height, width: of the photo; images may reach beyond it.
    """
    first = [step for step in steps if step.index in SHOWN][: len(SHOWN)]
    columns = []
    for step in (steps[0], *first, steps[-1]):
        top, left = ((beyond - side) // 2 for beyond, side in zip(step.image.shape[-2:], (height, width), strict=True))
        top, left = top + PLACE[0], left + PLACE[1]
        part = step.image[0, :, top : top + SIDE, left : left + SIDE].permute(1, 2, 0).cpu().numpy()
        image = as_bytes(np.broadcast_to(part, (SIDE, SIDE, 3)))
        columns.append(below([image, placed(enlarged(of_kernel(step.kernel.cpu().numpy()), SIDE), SIDE, SIDE)]))
    return beside(columns)


@app.command("tables")
def measure(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="For all that comes out on the way.")],
    levin: Annotated[Path | None, typer.Option(metavar="DIR", help="The set of Levin et al.")] = None,
    photos: Annotated[Path | None, typer.Option(metavar="DIR", help="The 24 photos of Kodak.")] = None,
    peers: Annotated[str, typer.Option(metavar="NAME,...", help="all: those installed.")] = "all",
    jobs: Annotated[int, typer.Option(metavar="N", help="Processes at once.")] = 1,
) -> None:
    """Run the benchmarks of the tables whose data are given, keep their rows, and write the tables into the README."""
    sets = {"levin": levin, "photos": photos}
    given = {name: options for name, options in TABLES.items() if sets[options["name"]] is not None}
    if not given:
        raise UsageError("There is nothing to measure. Give --levin DIR or --photos DIR, or both.")
    for name, options in given.items():
        work = output / name
        rivals = peers.split(",") if name in WITH_PEERS else []
        wanted = comparison.Wanted(output=work, data=sets[options["name"]], peers=rivals, jobs=jobs, **options)
        if comparison.run(wanted):
            raise UsageError(f"Some results of {name} failed, see {work / 'results.md'}. The same command tries again.")
        found = json.loads((work / FILE).read_text(encoding="utf-8"))
        write_bytes(as_kept(found).encode(), FIGURES / f"{name}.json", overwrite=True)
    write_bytes(with_tables(README.read_text(encoding="utf-8")).encode(), README, overwrite=True)


def as_kept(found: dict[str, Any]) -> str:
    """Settings and rows of a file of results, a line for each row."""
    rows = ({key: value for key, value in row.items() if value is not None} for row in found["rows"])
    lines = ",\n".join(json.dumps(row) for row in rows)
    return f'{{"settings": {json.dumps(found["settings"])},\n"rows": [\n{lines}\n]}}\n'


def with_tables(text: str) -> str:
    """The text of the README with its tables made anew from the rows that are kept."""
    for name in TABLES:
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise UsageError(f"The README has no place for the table {name}: {begin.strip()} and {end}.")
        text = f"{before}{begin}{table(name)}\n{end}{after}"
    return text


def table(name: str) -> str:
    """In Markdown, from the rows that are kept."""
    return "\n\n".join(tables.means(kept(name), contenders.load().everybody()))


def kept(name: str) -> list[Row]:
    """What was measured for a table."""
    return [Row(**row) for row in json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))["rows"]]


if __name__ == "__main__":
    try:
        app()
    except BlindDeblurError as error:
        Console().error(str(error))
        sys.exit(error.exit_code)
