"""The README shows what was measured, and its pictures are those that its command makes."""

from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks import readme
from benchmarks.results import Row
from blinddeblur.pictures.canvas import GAP
from blinddeblur.progress import Step


def test_its_tables_are_those_that_were_measured() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.with_tables(text) == text


def test_a_table_without_a_place_is_told_of() -> None:
    with pytest.raises(readme.UsageError, match="no place for the table levin"):
        readme.with_tables("<!-- levin -->\n| a table without an end |")


def test_tables_need_data() -> None:
    with pytest.raises(readme.UsageError, match="Give --levin DIR or --photos DIR"):
        readme.measure(output=readme.ROOT / "never")


def test_rows_are_kept_as_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [Row("a", "fast", 0, raw=20.125, psnr=21.5, seconds=3.0), Row("a", "slow", 0, failure="It ended.")]
    found = {"settings": {"set": "photos"}, "machine": {"cores": 1}, "rows": [asdict(row) for row in rows]}
    monkeypatch.setattr(readme, "FIGURES", tmp_path)
    (tmp_path / "photos.json").write_text(readme.as_kept(found))
    assert readme.kept("photos") == rows


def test_kept_rows_are_whole() -> None:
    """Every contender of a table has finished every case."""
    for name in readme.TABLES:
        rows: list[Row] = readme.kept(name)
        by_contender = {row.contender: set[str]() for row in rows}
        for row in rows:
            assert row.finished, row
            by_contender[row.contender].add(row.case)
        assert len(by_contender) >= 5
        assert len({frozenset(cases) for cases in by_contender.values()}) == 1


def test_the_evolution_shows_photo_steps_and_result() -> None:
    height, width, radius = 320, 400, 4

    def step(index: int, grey: float) -> Step:
        beyond = 0 if index in (-1, 12) else 2 * radius
        image = torch.full((1, 3 if beyond == 0 else 1, height + beyond, width + beyond), grey)
        return Step(index, 12, image, torch.eye(9) / 9)

    steps = [
        step(-1, 0.1),
        *(step(i, 0.2 + i / 20) for i in range(12)),
        *(step(i, 0.9) for i in range(12)),
        step(12, 1),
    ]
    shown = readme.evolution(steps, height, width)
    columns = shown[0, readme.SIDE // 2 :: readme.SIDE + GAP, 0]
    np.testing.assert_allclose(columns / 255, [0.1, 0.2, 0.35, 0.75, 1], atol=0.003)
    assert shown.shape == (2 * readme.SIDE + GAP, 5 * readme.SIDE + 4 * GAP, 3)
    kernels = shown[readme.SIDE + GAP :, : readme.SIDE]
    assert {0, 255} == set(np.unique(kernels))  # the kernel, in the place for it


@pytest.mark.slow
def test_its_pictures_are_those_that_its_command_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: cv2.imread(str(path)) for path in (readme.COMPARED, readme.EVOLUTION)}
    written: dict[object, np.ndarray] = {}

    def keep(content: bytes, path: object, overwrite: bool) -> None:
        written[path] = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)

    monkeypatch.setattr(readme, "write_bytes", keep)
    readme.pictures()
    assert written.keys() == before.keys()
    for path, picture in written.items():
        assert picture.shape == before[path].shape
        assert 10 * np.log10(255**2 / np.mean((picture - before[path].astype(float)) ** 2)) > 35
