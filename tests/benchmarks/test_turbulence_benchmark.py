"""The benchmark of sequences: its figures mean what they say."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scenes import sharp

from benchmarks import turbulence
from benchmarks.turbulence import BEST, MARGIN, RIM, Answer, Case, drawn, main, registered_mean
from blinddeblur.errors import OutputError, UsageError
from blinddeblur.files import decoding, encoding
from blinddeblur.files.photo import Photo

SIDE = 64


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turbulence, "DRAWN", 1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    encoding.write(Photo(sharp(150, 160, 3)), folder / "scene.png")
    return folder


def case(frames: int, strength: float = 2.0) -> Case:
    scene = sharp(SIDE + 2 * MARGIN, SIDE + 2 * MARGIN, 3)
    return Case.of("scene", strength, scene, drawn(np.random.default_rng(0), scene, SIDE, strength, frames), frames)


def test_mean_tilt_and_tilts_counted_from_it_make_the_tilts() -> None:
    wide = SIDE + 2 * MARGIN
    ramp = np.broadcast_to(np.arange(wide, dtype=np.float32)[:, None, None] / wide, (wide, wide, 1)).copy()
    sequence = drawn(np.random.default_rng(0), ramp, SIDE, 4.0, 4)
    seen = Case.of("ramp", 4.0, ramp, sequence, 4)
    down, across = np.indices((SIDE, SIDE), np.float32)
    inner = (slice(12, -12), slice(12, -12))
    for (row, column), tilt in zip(seen.tilts, sequence.tilts, strict=True):
        shown = cv2.remap(seen.own, across + column, down + row, cv2.INTER_CUBIC)
        error = wide * shown - (down + MARGIN + tilt[0])  # in pixels
        assert np.abs(error[inner]).max() < 0.15  # cubic interpolation of a ramp is off by up to .1
        assert np.abs(row[inner]).max() > 1


def test_the_truth_has_no_error_and_another_shape_has() -> None:
    seen = case(3)
    truth = np.rint(255 * seen.own.clip(0, 1)).astype(np.uint8)
    perfect = seen.row("truth", Answer(truth, seen.tilts + 1.0, seen.kernel), 0.0)
    assert perfect.own_psnr > 50
    assert perfect.own_ssim == pytest.approx(1, abs=1e-3)
    assert perfect.tilt_error == pytest.approx(0, abs=1e-5)  # a shift of all frames is none
    assert perfect.mnc == pytest.approx(1, abs=1e-4)
    assert perfect.psnr < 30
    still = seen.row("still", Answer(seen.frames[0], 0 * seen.tilts), 0.0)
    free = (seen.tilts - seen.tilts.mean(axis=0))[..., RIM:-RIM, RIM:-RIM]
    assert still.tilt_error == pytest.approx(np.hypot(free[:, 0], free[:, 1]).mean())
    assert still.mnc is None


def test_registration_finds_most_of_the_tilt_and_gains() -> None:
    seen = case(6)
    found = registered_mean(seen.frames)
    row = seen.row("registered-mean", found, 0.0)
    still = seen.row("input", Answer(seen.frames[0], 0 * seen.tilts), 0.0)
    assert row.own_psnr > still.own_psnr + 0.5
    assert row.tilt_error is not None
    assert still.tilt_error is not None
    assert row.tilt_error < 0.7 * still.tilt_error


def test_it_prints_a_table_and_keeps_figures_and_pictures(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep, output = tmp_path / "pictures", tmp_path / "figures.json"

    def run(frames: list[int]) -> None:
        main(photos, 1, frames, [2.0], ["median", "fast"], SIDE, keep=keep, output=output)

    run([1, 3])
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [line[1:3] for line in table[2:]] == [
        *(["1", method] for method in ("input", "fast", BEST)),
        *(["3", method] for method in ("input", "median", "fast", BEST)),
    ]
    figures = json.loads(output.read_text())
    assert len(figures) == 7
    by_name = {(row["frames"], row["method"]): row for row in figures}
    for frames in (1, 3):
        baselines = [by_name[key]["own_psnr"] for key in by_name if key[0] == frames and key[1] in ("input", "median")]
        assert by_name[frames, BEST]["own_psnr"] == max(baselines)
        assert by_name[frames, "fast"]["mnc"] > 0.5
        picture = decoding.read(keep / f"scene-2-{frames}.png").pixels
        assert picture.shape == (SIDE, 4 * SIDE, 3)
    assert by_name[1, "fast"]["tilt_error"] is None
    assert 0 < by_name[3, "fast"]["tilt_error"] < 3
    with pytest.raises(OutputError, match=r"figures\.json"):
        run([1])
    assert json.loads(output.read_text()) == figures


def test_an_unknown_method_is_named(photos: Path) -> None:
    with pytest.raises(UsageError, match="no method mode"):
        main(photos, methods=["mode"])
