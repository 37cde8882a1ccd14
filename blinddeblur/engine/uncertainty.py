"""Other sharp images that explain a photo as well, and how far each of its pixels can be trusted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blinddeblur.engine.pixels import Pixels
from blinddeblur.engine.tiled import TiledRestoration, denoiser
from blinddeblur.physics.kernel_map import KernelMap
from blinddeblur.progress import Progress
from blinddeblur.samplers import posterior
from blinddeblur.samplers.deblurring import Deblurring
from blinddeblur.tiles import Tile


def draw_samples(
    tiled: TiledRestoration,
    photo: Pixels,
    restored: Pixels,
    kernels_of: Callable[[int, Callable[[int], None]], KernelMap],
    kernel_steps: int,
    sigma: float,
    confidence: float | None,
    progress: Progress,
    keep: Callable[[int, NDArray[Any]], None],
    sample_steps: int = posterior.STEPS,
) -> NDArray[np.float32]:
    """Hands over samples of the posterior; the uncertainty that they show, in the shape of the photo.

    Args:
        tiled: what the photo was restored by; its settings say how many samples are drawn.
        photo, restored: before and after.
        kernels_of: the kernels of a sample by its index, told of each step that finding them takes. An estimated
            kernel has its share in the uncertainty: each sample has one of its own.
        kernel_steps: how many steps that are.
        sigma: standard deviation of the noise, and of what the kernel's own error adds to it.
        confidence: in the kernel, as in Result.
        progress: told how far the work is.
        keep: given each sample, with its index from 0.
        sample_steps: noise levels of each sample.
    """
    number, steps = tiled.settings.samples, kernel_steps + sample_steps
    values = restored.values()
    spread = np.zeros_like(values)
    for index in range(number):

        def report(done: float, index: int = index) -> None:
            progress("samples", round(index * steps + done), number * steps)

        def share(done: float, report: Callable[[float], None] = report) -> None:
            report(kernel_steps + sample_steps * done)

        drawn = _sample(tiled, photo, kernels_of(index, report), sigma, index, sample_steps, share)
        spread += np.square(drawn.values() - values) / number
        keep(index, drawn.array)
    squares, image = (torch.from_numpy(v.transpose(2, 0, 1))[None] for v in (spread, values))
    return photo.shaped(posterior.uncertainty(squares, image, confidence)[0])


def _sample(
    tiled: TiledRestoration,
    photo: Pixels,
    kernels: KernelMap,
    sigma: float,
    index: int,
    steps: int,
    report: Callable[[float], None],
) -> Pixels:
    drawn, tiling, denoise = photo.like(), tiled.tiling(kernels, reach=2), denoiser(tiled.prior)
    number = len(tiling.tiles(photo.height, photo.width))

    def work(done: int, tile: Tile) -> Tensor:
        report(done / number)
        y, key, place = tiled.measurement(photo, tile), (tiled.settings.seed, index), (tile.top, tile.left)
        return posterior.sample(Deblurring(denoise, y, kernels.of(tile), sigma, steps, key, place))

    for top, band in tiling.bands(photo.height, photo.width, work):
        drawn.write(top, band)
    report(1)
    return drawn
