"""The parts that a comparison of methods is made of: programs of others, a perceptual metric, contact sheets."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import blurred, psnr, sharp

from benchmarks import exchange, perceptual
from benchmarks.sheet import GAP, MOST_ROWS, SIDE, contact_sheet
from benchmarks.skimage_peers import Method, deconvolved, main
from blinddeblur import random_kernel
from blinddeblur.errors import KernelError
from blinddeblur.files import decoding, encoding, kernel_files
from blinddeblur.files.photo import Photo

needs_metric = pytest.mark.skipif(
    importlib.util.find_spec(perceptual.PACKAGE) is None, reason="the weights of the perceptual metric are an extra"
)


@pytest.fixture(scope="module")
def kernel() -> NDArray[np.float32]:
    """Of no symmetry: one that is turned the wrong way is another one."""
    return random_kernel(np.random.default_rng(3), 21, 12, "shake")


@pytest.mark.parametrize("method", Method)
def test_a_known_kernel_sharpens(method: Method, kernel: NDArray[np.float32]) -> None:
    x, y = blurred(96, 112, 1, kernel)
    restored = deconvolved(y, kernel, method)
    assert restored.shape == y.shape
    assert 0 <= restored.min() <= restored.max() <= 1
    assert psnr(x, restored) > psnr(x, y) + 4
    assert psnr(x, deconvolved(y, kernel[::-1, ::-1].copy(), method)) < psnr(x, restored) - 4


@pytest.mark.parametrize(("method", "depth", "channels"), [(Method.WIENER, 8, 3), (Method.RICHARDSON_LUCY, 16, 1)])
def test_a_file_is_restored_in_its_depth(
    method: Method, depth: int, channels: int, kernel: NDArray[np.float32], tmp_path: Path
) -> None:
    x, y = blurred(64, 72, channels, kernel)
    encoding.write(Photo(y, depth=depth), tmp_path / "blurred.png")
    np.save(tmp_path / "kernel.npy", kernel)
    main(method, tmp_path / "blurred.png", tmp_path / "kernel.npy", tmp_path / "result.png")
    restored = decoding.read(tmp_path / "result.png")
    assert restored.depth == depth
    assert psnr(x, restored.pixels) > psnr(x, y) + 3


@pytest.mark.parametrize("channels", [1, 3])
def test_what_others_make_of_a_continued_copy_is_cut_to_the_photo(channels: int, tmp_path: Path) -> None:
    source = Photo(sharp(61, 70, channels), depth=16)
    encoding.write(source, tmp_path / "photo.png")
    exchange.photo(tmp_path / "photo.png", tmp_path / "theirs" / "copy.png", multiple=16)
    copy = decoding.read(tmp_path / "theirs" / "copy.png")
    assert copy.stored.shape == (64, 80, channels)
    assert copy.depth == 8
    assert np.array_equal(copy.stored[61], copy.stored[60])
    exchange.cut(tmp_path / "theirs" / "copy.png", tmp_path / "photo.png", tmp_path / "cut.png")
    assert np.abs(decoding.read(tmp_path / "cut.png").pixels - source.pixels).max() < 0.51 / 255


@pytest.mark.parametrize("turned", [False, True])
def test_a_kernel_of_floating_point_numbers_is_read(turned: bool, kernel: NDArray[np.float32], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "kernel.tif"), kernel)
    exchange.kernel(tmp_path / "kernel.tif", tmp_path / "kernel.npy", turned=turned)
    expected = kernel[::-1, ::-1] if turned else kernel
    assert kernel_files.read_kernel(tmp_path / "kernel.npy") == pytest.approx(expected, abs=1e-6)
    with pytest.raises(KernelError, match="cannot be read"):
        exchange.kernel(tmp_path / "no.tif", tmp_path / "no.npy")


def test_scripts_of_peers_are_no_nonsense_to_a_shell() -> None:
    peers = tomllib.loads(Path(exchange.__file__).with_name("contenders.toml").read_text())["peers"]
    scripts = [peer["command"][2] for peer in peers.values() if peer["command"][0] == "sh"]
    assert len(scripts) > 3
    for script in scripts:
        subprocess.run(["sh", "-n", "-c", script], check=True)
        # A name behind a dollar sign is filled in before the shell sees it, and then quoted by nobody.
        assert not re.search(r"\$[A-Za-z_]", script)


def patch(top: int, left: int) -> NDArray[np.uint8]:
    """A grey picture with detail in one place only."""
    picture = np.full((400, 480, 1), 128, np.uint8)
    picture[top : top + SIDE, left : left + SIDE] = np.rint(255 * sharp(SIDE, SIDE, 1))
    return picture


def sheet(path: Path, *cases: tuple[str, dict[str, NDArray]]) -> NDArray[np.uint8]:
    contact_sheet(cases, path)
    return decoding.read(path).stored


def panels(picture: NDArray[np.uint8], columns: int, row: int = 0, rows: int = 1) -> list[NDArray[np.uint8]]:
    """The panels of a row, from the left: they lie at the right and lower end of the sheet."""
    step = SIDE + GAP
    top = len(picture) - (rows - row) * step
    starts = [picture.shape[1] - (columns - column) * step for column in range(columns)]
    return [picture[top : top + SIDE, left : left + SIDE] for left in starts]


@pytest.mark.parametrize("reference", ["truth", "blurred"])
def test_a_sheet_shows_the_place_where_the_truth_is_textured(reference: str, tmp_path: Path) -> None:
    # A result that is textured elsewhere must not draw the crop to it.
    case = {"blurred": patch(0, 0), "ours": patch(0, 320), "truth": patch(240, 320)}
    if reference == "blurred":
        del case["truth"]
    shown = panels(sheet(tmp_path / "sheet.png", ("case", case)), len(case))
    detail = [float(panel.std()) for panel in shown]
    assert detail.index(max(detail)) == (0 if reference == "blurred" else 2)
    assert detail[1] < 1


def test_a_sheet_shows_pixels_as_they_are_and_leaves_gaps(tmp_path: Path) -> None:
    small = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    whole = {"blurred": small, "theirs, our kernel": small // 2, "truth": small}
    lacking = {"blurred": small, "truth": small}
    picture = sheet(tmp_path / "sheet.png", ("a", lacking), ("b", whole))
    blurred_panel, gap, truth_panel = panels(picture, 3, 0, 2)
    large = small.repeat(3, axis=0).repeat(3, axis=1)
    assert np.array_equal(blurred_panel[:150, :120], large)
    assert np.array_equal(truth_panel[:150, :120], large)
    assert (gap == 255).all()
    assert np.array_equal(panels(picture, 3, 1, 2)[1][:150, :120], large // 2)


def test_a_sheet_shows_kernels_on_one_scale(kernel: NDArray[np.float32], tmp_path: Path) -> None:
    y = np.zeros((SIDE, SIDE, 3), np.uint8)
    spread = {"ours": y, "ours kernel": kernel, "truth": y, "truth kernel": np.pad(3 * kernel, 25), "blurred": y}
    ours, truth, blurred_panel = panels(sheet(tmp_path / "sheet.png", ("case", spread)), 3)
    assert np.array_equal(ours, truth)
    assert ours[-2:, -2:].max() == 255
    assert 0 < (ours == 0).mean() < 1
    assert not blurred_panel.any()


def test_a_long_sheet_is_cut(tmp_path: Path) -> None:
    cases = [(str(i), {"blurred": np.full((40, 40, 1), i, np.uint8)}) for i in range(100)]
    picture = sheet(tmp_path / "sheet.jpg", *cases)
    rows = [int(panels(picture, 1, row, MOST_ROWS)[0][80, 80].mean()) for row in range(MOST_ROWS)]
    assert rows == [9 * row for row in range(MOST_ROWS)]
    assert len(picture) < (MOST_ROWS + 1) * (SIDE + GAP)


@needs_metric
def test_the_perceptual_distance_grows_with_blur_and_hardly_with_a_shift() -> None:
    x = sharp(96, 110, 3)
    assert perceptual.distance(x, x) == 0
    shifted = perceptual.distance(np.roll(x, 1, axis=1), x)
    soft, softer = (perceptual.distance(cv2.GaussianBlur(x, (0, 0), sigma), x) for sigma in (1.0, 3.0))
    assert None not in (shifted, soft, softer)
    assert 0 < 3 * shifted < soft < softer - 0.1


@needs_metric
def test_the_perceptual_distance_takes_grey_for_equal_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = sharp(70, 80, 1)
    grey = cv2.GaussianBlur(truth, (0, 0), 1.5)[..., np.newaxis]
    colours = perceptual.distance(grey.repeat(3, axis=2), truth.repeat(3, axis=2))
    assert perceptual.distance(grey, truth) == pytest.approx(colours)
    assert perceptual.distance(grey.repeat(3, axis=2), truth) == pytest.approx(colours)
    monkeypatch.setattr(perceptual, "TILE", 64)  # in four parts: about the same
    assert perceptual.distance(grey, truth) == pytest.approx(colours, rel=0.1)


def test_there_is_no_perceptual_distance_without_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "PACKAGE", "no_such_package")
    perceptual._weights.cache_clear()
    assert perceptual.distance(sharp(64, 64, 1), sharp(64, 64, 1)) is None
    perceptual._weights.cache_clear()
