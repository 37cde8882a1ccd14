"""Rows -> tables in Markdown: means of each contender, and figures that others have published, apart from them."""

import statistics
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import perceptual
from benchmarks.contenders import BLURRED, KNOWN, Contender
from benchmarks.results import Row, mean

PUBLISHED = Path(__file__).with_name("published.toml")
POOR = 0.7  # agreement of kernels below which they have another shape


@dataclass(frozen=True)
class Column:
    """A heading, and its cell from the rows of one contender."""

    title: str
    cell: Callable[[list[Row]], str]


def page(title: str, rows: Iterable[Row], contenders: dict[str, Contender], published: str) -> str:
    """The whole of results.md.

    contenders: those whose rows are shown, by key. published: name of a set in published.toml.
    """
    rows = list(rows)
    seeds = sorted({row.seed for row in rows if row.contender != BLURRED})
    parts = [f"# {title}", *means(rows, contenders)]
    if len(seeds) > 1:
        parts += ["## Seeds", _seeds(rows, contenders, seeds)]
    parts += _troubles(rows)
    parts += _quoted(published)
    return "\n\n".join(parts) + "\n"


def common(rows: list[Row]) -> list[Row]:
    """The rows of those cases and seeds that all contenders have finished, but for contenders that finished none."""
    keys = list(dict.fromkeys(row.contender for row in rows))
    done: dict[str, set[tuple[str, int]]] = {
        key: {(r.case, r.seed) for r in rows if r.contender == key and r.finished} for key in keys
    }
    counted = [key for key in keys if done[key] and key != BLURRED]
    shared = set.intersection(*(done[key] for key in counted)) if counted else done.get(BLURRED, set())
    cases = {case for case, _ in shared}
    return [
        row
        for row in rows
        if row.finished and ((row.case, row.seed) in shared or (row.contender == BLURRED and row.case in cases))
    ]


def means(rows: list[Row], contenders: dict[str, Contender]) -> list[str]:
    kept = common(rows)
    errors = {(r.case, r.seed): r.error for r in kept if r.contender == KNOWN}

    def ratio(group: list[Row]) -> str:
        units = [(r.error, errors.get((r.case, r.seed))) for r in group]
        return _number("{:.2f}", (error / unit for error, unit in units if error and unit))

    def agreement(group: list[Row]) -> str:
        found = [r.mnc for r in group if r.mnc is not None]
        return f"{mean(found):.3f} ({sum(value < POOR for value in found)} of {len(found)})" if found else ""

    columns = [
        Column("told", lambda group: contenders[group[0].contender].told if group[0].contender in contenders else ""),
        Column("cases", lambda group: str(len(group))),
        Column("raw PSNR", lambda group: _number("{:.2f}", (r.raw for r in group))),
        Column("PSNR", lambda group: _number("{:.2f}", (r.psnr for r in group))),
        Column("SSIM", lambda group: _number("{:.3f}", (r.ssim for r in group))),
        Column(perceptual.NAME, lambda group: _number("{:.3f}", (r.perceptual for r in group))),
        Column(f"MNC (under {POOR})", agreement),
        Column("error ratio", ratio),
        Column("seconds", lambda group: _number("{:.1f}", (r.seconds for r in group))),
        Column("peak MB", lambda group: _number("{:.0f}", (r.peak for r in group))),
    ]
    groups = {key: [row for row in kept if row.contender == key] for key in _order(rows, contenders)}
    groups = {key: group for key, group in groups.items() if group}
    if not groups:
        return ["No case was finished by all contenders."]
    cells = {column.title: [column.cell(group) for group in groups.values()] for column in columns}
    shown = {title: values for title, values in cells.items() if any(values)}
    names = [contenders[key].name if key in contenders else key for key in groups]
    cases = len({row.case for row in kept})
    every = len({row.case for row in rows})
    which = ", those that all contenders finished" if cases < every else ""
    sentence = f"Means over {cases} of {every} cases{which}."
    return [sentence, _table(["", *shown], [list(line) for line in zip(names, *shown.values(), strict=True)])]


def _seeds(rows: list[Row], contenders: dict[str, Contender], seeds: list[int]) -> str:
    """Mean PSNR of each contender, and how it varies with the seed."""
    kept = common(rows)
    lines = []
    for key in _order(rows, contenders):
        found = {(r.case, r.seed): r.psnr for r in kept if r.contender == key and r.psnr is not None}
        cases = [c for c in dict.fromkeys(case for case, _ in found) if all((c, seed) in found for seed in seeds)]
        if key == BLURRED or not cases:
            continue
        spread = statistics.fmean(statistics.stdev(found[case, seed] for seed in seeds) for case in cases)
        means = [statistics.fmean(found[case, seed] for case in cases) for seed in seeds]
        name = contenders[key].name if key in contenders else key
        figures = (statistics.fmean(means), spread, min(means), max(means))
        lines.append([name, str(len(cases)), str(len(seeds)), *(f"{value:.2f}" for value in figures)])
    heads = ["", "cases", "seeds", "PSNR", "its standard deviation", "least seed's mean", "largest seed's mean"]
    return _table(heads, lines)


def _troubles(rows: list[Row]) -> list[str]:
    parts = []
    reasons = {
        "Failed": [(row, row.failure) for row in rows if row.failure],
        "Left out": [(row, row.skipped) for row in rows if row.skipped],
    }
    for title, found in reasons.items():
        lines = [f"- {row.contender}, {row.case}, seed {row.seed}: {' '.join(why.split())}" for row, why in found]
        if lines:
            parts += [f"## {title}", "\n".join(lines)]
    return parts


def _quoted(name: str) -> list[str]:
    """Figures of others for a set, under their own heading; nothing where there are none."""
    found = tomllib.loads(PUBLISHED.read_text(encoding="utf-8")).get(name)
    if found is None:
        return []
    lines = [[row["name"], f"{row['psnr']:.2f}", f"{row['ratio']:.3f}"] for row in found["rows"]]
    return [
        "## Published elsewhere",
        f"Quoted from {found['source']}, not run here. The protocol may be another: do not mix these rows with those "
        "above.",
        _table(["", "PSNR", "error ratio"], lines),
    ]


def _order(rows: list[Row], contenders: dict[str, Contender]) -> list[str]:
    """The input, the contenders as they are listed, and what else there are rows of."""
    return list(dict.fromkeys([BLURRED, *contenders, *(row.contender for row in rows)]))


def _table(heads: list[str], lines: list[list[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def _number(form: str, values: Iterable[float | None]) -> str:
    value = mean(values)
    return "" if value is None else form.format(value)
