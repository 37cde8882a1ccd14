"""The parts that a comparison of methods is made of: programs of others, a perceptual metric, contact sheets."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import blurred, psnr

from benchmarks.skimage_peers import Method, deconvolved, main
from blinddeblur import photo, random_kernel


@pytest.fixture(scope="module")
def kernel() -> NDArray[np.float32]:
    """Of no symmetry: one that is turned the wrong way is another one."""
    return random_kernel(np.random.default_rng(3), 21, 12, "shake")


@pytest.mark.parametrize("method", Method)
def test_a_known_kernel_sharpens(method: Method, kernel: NDArray[np.float32]) -> None:
    x, y = blurred(96, 112, 3, kernel)
    restored = deconvolved(y, kernel, method)
    assert restored.shape == y.shape
    assert 0 <= restored.min() <= restored.max() <= 1
    assert psnr(x, restored) > psnr(x, y) + 4
    assert psnr(x, deconvolved(y, kernel[::-1, ::-1].copy(), method)) < psnr(x, y)


@pytest.mark.parametrize(("method", "depth", "channels"), [(Method.WIENER, 8, 3), (Method.RICHARDSON_LUCY, 16, 1)])
def test_a_file_is_restored_in_its_depth(
    method: Method, depth: int, channels: int, kernel: NDArray[np.float32], tmp_path: Path
) -> None:
    x, y = blurred(64, 72, channels, kernel)
    photo.write(photo.Photo(y, depth=depth), tmp_path / "blurred.png")
    np.save(tmp_path / "kernel.npy", kernel)
    main(method, tmp_path / "blurred.png", tmp_path / "kernel.npy", tmp_path / "result.png")
    restored = photo.read(tmp_path / "result.png")
    assert restored.depth == depth
    assert psnr(x, restored.pixels) > psnr(x, y) + 3
