"""A whole photo restored with blur that is known, in tiles, so that its size hardly matters for the memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional as F

from blinddeblur.engine.pixels import Pixels
from blinddeblur.errors import UsageError
from blinddeblur.physics.convolution import Blur
from blinddeblur.physics.kernel_map import KernelMap
from blinddeblur.physics.measurement import Measurement
from blinddeblur.priors.prior import Prior
from blinddeblur.progress import Progress, Step, unheard, unseen
from blinddeblur.samplers import ddnm, diffpir, dps, restoration
from blinddeblur.samplers.deblurring import Deblurring, residual
from blinddeblur.samplers.schedule import Denoiser
from blinddeblur.settings import Settings
from blinddeblur.tiles import Tile, Tiling, blend, grid

FADE = 32  # pixels over which neighbouring tiles fade into each other
NETWORK_OVERLAP = 64  # pixels of neighbours, where a network of fixed size sees tiles

RESTORE: dict[str, Callable[[Deblurring], Tensor]] = {
    "fast": restoration.restore,
    "dps": dps.restore,
    "ddnm": ddnm.restore,
    "diffpir": diffpir.restore,
}


@dataclass(frozen=True)
class TiledRestoration:
    """Restores photos by the method of the settings, each with blur that is known.

    Attributes:
        prior: of the image.
        settings: of which the method, its steps, seed, noise and linear light count, and the tiles.
    """

    prior: Prior
    settings: Settings

    def restore(
        self,
        photo: Pixels,
        kernels: KernelMap,
        sigma: float,
        progress: Progress = unheard,
        callback: Callable[[Step], None] = unseen,
    ) -> tuple[Pixels, float]:
        """The whole photo, and its residual as in Result.

        Args:
            photo: to restore.
            kernels: one, or those of all its places.
            sigma: standard deviation of its noise.
            progress: told how far the work is.
            callback: told of every step on the tile in the middle.

        Raises:
            UsageError: tiles that are too small for the blur.
            EstimationError: no usable answer came out, or the memory does not suffice.
        """
        restored, rests, tiling = photo.like(), [], self.tiling(kernels)
        tiles = tiling.tiles(photo.height, photo.width)
        middle = tiles[len(tiles) // 2]
        total = restoration.STEPS if self.settings.traits.refines else self.settings.effective_steps
        callback(Step(-1, total, photo.of(middle), kernels.of(middle).mean))

        def work(index: int, tile: Tile) -> Tensor:
            def report(step: Step) -> None:
                progress("restoration", index * step.total + step.index + 1, len(tiles) * step.total)
                if tile == middle:
                    callback(step)

            y, local = self.measurement(photo, tile), kernels.of(tile)
            x = self._restored(y, local, sigma, (tile.top, tile.left), report)
            rests.append(residual(x, y, local) ** 2)
            return x

        for top, band in tiling.bands(photo.height, photo.width, work):
            restored.write(top, band)
        return restored, math.sqrt(sum(rests) / len(rests))

    def measurement(self, photo: Pixels, tile: Tile) -> Measurement:
        """What the photo says under a tile."""
        return Measurement.of(photo.of(tile), self.settings.linear)

    def tiling(self, kernels: KernelMap, reach: int = 1) -> Tiling:
        """Tiles that overlap by what their rims cannot know and by what fades from one into the next.

        Args:
            kernels: one, or those of all places.
            reach: how many radii of the kernel a rim has.

        Raises:
            UsageError: the tiles that were asked for, or that the network knows, are too small for that.
        """
        size = kernels.kernels.shape[-1]
        settings, rim = self.settings, reach * (size // 2)
        fade = FADE if settings.overlap is None else settings.overlap
        overlap = 2 * rim + fade
        side = settings.tile or max(settings.traits.tile, 2 * overlap)
        if settings.traits.gradients and self.prior.image_size is not None:
            known = self.prior.image_size
            side = known - (size - 1)  # its network takes no other
            if side <= overlap:
                largest = 2 * max(0, (known - fade - 1) // 4) + 1
                other = "" if settings.overlap is None else "a smaller --overlap, "
                raise UsageError(
                    f"The prior {self.prior.name} knows only images of {known}x{known} pixels. With "
                    f"{settings.method} that leaves room for a kernel of at most {largest} pixels; this one has {size}."
                    f" Give a smaller one, {other}another --prior or another --method."
                )
        if side <= overlap:
            raise UsageError(
                f"With this blur neighbouring tiles overlap by {overlap} pixels. Give a --tile of more than that."
            )
        return Tiling(side, overlap, rim)

    def _restored(
        self, y: Measurement, blur: Blur, sigma: float, place: tuple[int, int], callback: Callable[[Step], None]
    ) -> Tensor:
        """A tile, by the method that was chosen."""
        settings = self.settings
        steps = None if settings.traits.refines else settings.effective_steps
        given = Deblurring(denoiser(self.prior), y, blur, sigma, steps, (settings.seed,), place, callback)
        return RESTORE[settings.method](replace(given, poisson=settings.noise == "poisson", prior=self.prior))


def denoiser(prior: Prior) -> Denoiser:
    """An image prior as a sampler calls it, for images of any size.

    A network of fixed size sees overlapping tiles of that size; a smaller image has its edges continued.
    """
    if prior.image_size is None:
        return prior.denoise
    side = prior.image_size

    def denoise(x: Tensor, sigma: float) -> Tensor:
        height, width = x.shape[-2:]
        bottom, right = max(0, side - height), max(0, side - width)
        padded = F.pad(x, (0, right, 0, bottom), mode="replicate")
        height_padded, width_padded = padded.shape[-2:]
        tiles = grid(height_padded, width_padded, side, min(NETWORK_OVERLAP, side // 2))
        whole = blend(((t, prior.denoise(t.of(padded), sigma)) for t in tiles), height_padded, width_padded)
        return whole[..., :height, :width]

    return denoise
