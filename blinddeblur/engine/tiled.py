"""A whole photo restored with blur that is known, in tiles, so that its size hardly matters for the memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from blinddeblur.engine.pixels import Pixels
from blinddeblur.errors import UsageError
from blinddeblur.physics.kernel_map import KernelMap
from blinddeblur.physics.measurement import Measurement, model_error
from blinddeblur.priors.prior import Prior
from blinddeblur.progress import Callback, Progress, Step, unheard, unseen
from blinddeblur.samplers import ddnm, diffpir, dps, posterior, restoration
from blinddeblur.samplers.deblurring import Deblurring, residual
from blinddeblur.settings import Settings
from blinddeblur.tiles import Tile, Tiling

FADE = 32  # pixels over which neighbouring tiles fade into each other

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
        settings: of the restoration; its method, steps, seed, noise and tiles count.
        linear: whether linear light was blurred.
        caution: times the error of a true kernel that is reckoned with.
        larger: times as large as the method's tiles are, where the settings leave it open: a GPU is filled by more.
        brief: whether it is done in few steps, for a restoration that another is blended with.
    """

    prior: Prior
    settings: Settings
    linear: bool = False
    caution: float = 1.0
    larger: int = 1
    brief: bool = False

    def restore(
        self,
        photo: Pixels,
        kernel_map: KernelMap,
        sigma: float,
        progress: Progress = unheard,
        callback: Callback = unseen,
    ) -> tuple[Pixels, float]:
        """The whole photo, restored, and its residual as in Result.

        Args:
            photo: to restore.
            kernel_map: one kernel, or those of all its places.
            sigma: standard deviation of its noise.
            callback: told of every step on the tile in the middle.

        Raises:
            UsageError: tiles that are too small for the blur.
            EstimationError: no usable answer came out, or the memory does not suffice.
        """
        settings, restored, rests, tiling = self.settings, photo.like(), [], self.tiling(kernel_map)
        tiles = tiling.tiles(photo.height, photo.width)
        middle = tiles[len(tiles) // 2]
        steps = None if settings.traits.refines else settings.effective_steps
        callback(Step(-1, steps or restoration.STEPS, photo.of(middle), kernel_map.of(middle).mean))
        progress("restoration", 0, 1)

        def work(index: int, tile: Tile) -> Tensor:
            def report(step: Step) -> None:
                progress("restoration", index * step.total + step.index + 1, len(tiles) * step.total)
                if tile == middle:
                    callback(step)

            given = Deblurring(
                self.prior.denoise,
                self.measurement(photo, tile),
                kernel_map.of(tile),
                sigma,
                steps,
                key=(settings.seed,),
                place=(tile.top, tile.left),
                callback=report,
                error=self.caution * model_error(sigma),
                poisson=settings.noise == "poisson",
                prior=self.prior,
            )
            x = restoration.brief(given) if self.brief else RESTORE[settings.method](given)
            rests.append(float(residual(x, given.y, given.blur)) ** 2)
            return x

        for top, band in tiling.bands(photo.height, photo.width, work):
            restored.write(top, band)
        return restored, math.sqrt(sum(rests) / len(rests))

    def sample(
        self, photo: Pixels, kernel_map: KernelMap, sigma: float, index: int, steps: int, progress: Progress
    ) -> Pixels:
        """One sample of the posterior of a photo, of as many as the settings say.

        Args:
            photo: that was restored.
            kernel_map: one kernel, or those of all its places.
            sigma: standard deviation of its noise.
            index: of the sample, from 0.
            steps: noise levels.
        """
        drawn, tiling = photo.like(), self.tiling(kernel_map, reach=2)
        number = len(tiling.tiles(photo.height, photo.width))

        def report(done: int) -> None:
            progress("samples", index * number + done, self.settings.samples * number)

        def work(done: int, tile: Tile) -> Tensor:
            report(done)
            y, key, place = self.measurement(photo, tile), (self.settings.seed, index), (tile.top, tile.left)
            error = self.caution * model_error(sigma)
            given = Deblurring(self.prior.denoise, y, kernel_map.of(tile), sigma, steps, key, place, error=error)
            return posterior.sample(given)

        for top, band in tiling.bands(photo.height, photo.width, work):
            drawn.write(top, band)
        report(number)
        return drawn

    def measurement(self, photo: Pixels, tile: Tile) -> Measurement:
        """What the photo says under a tile."""
        return Measurement.of(photo.of(tile), self.linear)

    def tiling(self, kernel_map: KernelMap, reach: int = 1) -> Tiling:
        """Tiles that overlap by what their rims cannot know and by what fades from one into the next.

        Args:
            kernel_map: one kernel, or those of all places.
            reach: how many radii of the kernel a rim has.

        Raises UsageError where the tiles that were asked for, or that the network knows, are too small for that.
        """
        size = kernel_map.kernels.shape[-1]
        settings, rim = self.settings, reach * (size // 2)
        fade = FADE if settings.overlap is None else settings.overlap
        overlap = 2 * rim + fade
        side = settings.tile or max(self.larger * settings.traits.tile, 2 * overlap)
        known = self.prior.image_size if settings.traits.gradients else None
        if known is not None:
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
        return Tiling(side, overlap, rim, exact=known is not None)
