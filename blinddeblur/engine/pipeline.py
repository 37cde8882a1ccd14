"""Photo -> Result: estimate the noise, estimate the kernel on an informative crop, restore everything in tiles.

Works on arrays, prints nothing and touches no files but the weights; the command line and the Python interface
share it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blinddeblur.devices import find_device
from blinddeblur.engine.pixels import Pixels
from blinddeblur.errors import KernelError, UsageError
from blinddeblur.estimation import search, varying
from blinddeblur.estimation.judging import Estimate, residual
from blinddeblur.estimation.noise import CLIPPED, estimate_sigma
from blinddeblur.estimation.search import largest_kernel
from blinddeblur.estimation.sharpness import is_sharp
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import Blur, mean_kernel
from blinddeblur.physics.kernel_map import KernelMap
from blinddeblur.physics.measurement import Measurement
from blinddeblur.priors.guided_diffusion import linear_alpha_bar
from blinddeblur.priors.loading import Prior, load_prior
from blinddeblur.samplers import blinddps, ddnm, diffpir, dps, fast, posterior, restoration, white_noise
from blinddeblur.samplers.parallel import Diffusion, clipped
from blinddeblur.samplers.schedule import Denoiser, Step
from blinddeblur.settings import LARGEST_BLINDDPS_KERNEL, METHODS, Settings
from blinddeblur.tiles import Tile, Tiling, blend, grid, spread

ESTIMATION_SIDE = 448  # pixels of the crop the kernel is estimated on: more costs time and adds little
VARYING_SIDE = 224  # pixels of the regions that kernels which differ are looked for in,
VARYING_ROWS, VARYING_COLUMNS = 3, 4  # so many of them, however large the photo is
LEAST_VARYING_SIDE = 400  # pixels of a photo's shorter side: in a smaller one regions would be the same
MOST_CROPS = 100  # that are looked at for it, spread over the photo
TILE_SIDE = 512  # pixels of a tile of the restoration
FADE = 32  # pixels over which neighbouring tiles fade into each other
BLINDDPS_SIDE = 192  # pixels of a tile of blinddps and dps: a gradient through the network needs memory
NETWORK_OVERLAP = 64  # pixels, where a network of fixed size is tiled
UNIT = 256  # pixels of a square that the network is timed on; of that time, measured on two cores,
KERNEL_WORK = 80  # is the estimate of the kernel, for each square,
RESTORATION_WORK = 24  # the restoration,
BLINDDPS_WORK = 4  # a step of blinddps or dps,
STEP_WORK = 1.5  # and one of ddnm or diffpir
GRADIENTS = ("blinddps", "dps")  # methods that take them through the network
NO_BLUR = 0.8  # of a kernel's mass in one pixel
DOUBTFUL = 0.6  # confidence below which seven kernels in ten agree with the truth by less than .7
MISFIT = 1.5  # residual, over what a true kernel leaves at most, above which one kernel does not explain the photo


class Progress(Protocol):
    """Told how far the work is: the name of the stage, steps done and steps in all."""

    def __call__(self, stage: str, done: int, total: int, /) -> None: ...


@dataclass(frozen=True)
class Result:
    """A restored photo and what was found out on the way.

    Attributes:
        image: the restored photo, in the shape and type of what was given.
        kernel: (K, K) float32, not negative, sums to 1, a true convolution kernel.
        sigma: standard deviation of the photo's noise, in [0, 1].
        residual: root mean square of what the restored photo, blurred again, leaves of the measurement, in [0, 1].
        sharp: whether no blur was found: `image` is then what was given.
        confidence: how far the estimated kernel can be trusted: its agreement (MNC) with the true one to be expected,
            from 0 to 1; None for a kernel that is given, for blinddps, and where the photo is plainly sharp.
        warnings: sentences on what should be looked at before the result is trusted.
        seconds: that the whole took.
        kernel_map: (R, C, K, K) float32, kernels at the nodes of an even grid from corner to corner of the photo, where
            the blur varies over the frame: `kernel` is then the one that did not suffice. None where one serves.
        samples: (N, H, W[, C]), sharp images that all explain the photo, otherwise like `image`; None if none were
            asked for, or if they were handed over one by one.
        uncertainty: (H, W[, C]) float32 in [0, 1], the standard deviation of the error that `image` is expected to
            have; None if no samples were asked for.
        method, prior, checksum, seed, steps: how it was made; checksum is the sha256 of the prior's weights.
        kernel_prior: of blinddps; None for the other methods.
    """

    image: NDArray[Any]
    kernel: NDArray[np.float32]
    sigma: float
    residual: float
    sharp: bool
    confidence: float | None
    warnings: tuple[str, ...]
    seconds: float
    method: str
    prior: str
    checksum: str | None
    seed: int
    steps: int
    kernel_prior: str | None = None
    kernel_map: NDArray[np.float32] | None = None
    samples: NDArray[Any] | None = None
    uncertainty: NDArray[np.float32] | None = None


@dataclass
class Engine:
    """Restores one photo after the other with the same settings; loads each prior that they need once.

    Raises:
        UsageError: settings that make no sense, or a device that is not there.
        WeightsError: a prior's weights are missing or damaged.
    """

    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        self.device = find_device(self.settings.device)
        self.prior = load(self.settings.prior, "image", self.device)
        if self.settings.kernel is None:
            unseen = self.settings.method == "blinddps" and self.settings.kernel_prior != "conditioned"
            self.kernel_prior = load("kernel" if unseen else "photo-kernel", "kernel", self.device)

    def restore(
        self,
        image: NDArray[Any],
        progress: Progress = lambda stage, done, total: None,
        callback: Callable[[Step], None] = lambda step: None,
        keep: Callable[[int, NDArray[Any]], None] | None = None,
    ) -> Result:
        """Restore one photo.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3): sRGB-encoded, uint8, uint16 or floating point in [0, 1].
            progress: told how far the work is.
            callback: told of every step of the sampler, with tensors, and of what was before (index -1: the photo) and
                after. blinddps shows the whole photo, fast the crop that tells most: grey during the diffusion, in
                colour before and after. With a kernel that is given it is the restoration of the middle tile.
            keep: given each sample, with its index from 0, once it is drawn. The result then holds none: those of a
                large photo need much memory.

        Raises:
            PhotoError: an array that is no photo, or too small.
            KernelError: the kernel does not fit into the photo.
            EstimationError: no usable answer came out.
        """
        start = time.monotonic()
        settings = self.settings
        photo = Pixels(image, self.device)
        patches = photo.patches()
        sigma = estimate_sigma(patches) if settings.sigma is None else settings.sigma
        estimate, rest, uncertainty = None, 0.0, None
        varying: KernelMap | None = None
        samples: list[NDArray[Any]] = []
        with torch.inference_mode(settings.method not in GRADIENTS):
            sharp = self._guess_sharp(patches, sigma)
            if settings.method == "blinddps":
                restored, kernel, rest = self._blinddps(photo, sigma, progress, callback)
            elif sharp:
                restored, kernel = photo, given_kernel(np.ones((1, 1)), photo)
                callback(Step(-1, 1, photo.whole(), kernel))
            elif settings.kernel is not None:
                kernel = given_kernel(settings.kernel, photo)
                restored, rest = self.deblur(photo, kernel, sigma, progress, callback)
            else:
                estimate, crop = self._kernel(photo, sigma, progress, callback)
                kernel, sharp = estimate.kernel, float(estimate.kernel.max()) > NO_BLUR
                restored = photo
                if not sharp:
                    estimate, varying = self._kernel_map(photo, estimate, sigma, progress)
                    noise = math.hypot(sigma, estimate.error)
                    restored, rest = self.deblur(photo, varying or kernel, noise, progress)
                callback(Step(settings.effective_steps, settings.effective_steps, restored.of(crop), kernel))
            if settings.samples:
                hand_over = keep or (lambda index, sample: samples.append(sample))
                uncertainty = self._samples(photo, restored, varying or kernel, sigma, estimate, progress, hand_over)
        return Result(
            image=np.array(image) if sharp else restored.array,
            kernel=kernel.cpu().numpy().astype(np.float32),
            sigma=sigma,
            residual=rest,
            sharp=sharp,
            confidence=estimate.confidence if estimate else None,
            warnings=_warnings(estimate, sharp, rest, sigma),
            seconds=time.monotonic() - start,
            method=settings.method,
            prior=self.prior.name,
            checksum=self.prior.checksum,
            seed=settings.seed,
            steps=settings.effective_steps,
            kernel_prior=settings.kernel_prior if settings.method == "blinddps" else None,
            kernel_map=varying.kernels.cpu().numpy() if varying else None,
            samples=np.stack(samples) if samples else None,
            uncertainty=uncertainty,
        )

    def deblur(
        self,
        photo: Pixels,
        kernel: Tensor | KernelMap,
        sigma: float,
        progress: Progress,
        callback: Callable[[Step], None] = lambda step: None,
    ) -> tuple[Pixels, float]:
        """The whole photo with a blur that is known, in tiles, and its residual as in Result.

        Args:
            sigma: standard deviation of the noise of the photo.
            progress: told how far the work is.
            callback: told of every step on the tile in the middle.
        """
        restored, rests, tiling = photo.like(), [], self._tiling(kernel)
        tiles = tiling.tiles(photo.height, photo.width)
        middle = tiles[len(tiles) // 2]
        total = restoration.STEPS if self.settings.method == "fast" else self.settings.effective_steps
        callback(Step(-1, total, photo.of(middle), mean_kernel(_of_tile(kernel, middle))))

        def work(index: int, tile: Tile) -> Tensor:
            def report(step: Step) -> None:
                progress("restoration", index * step.total + step.index + 1, len(tiles) * step.total)
                if tile == middle:
                    callback(step)

            y, local = self._measurement(photo, tile), _of_tile(kernel, tile)
            x = self._restored(y, local, sigma, (tile.top, tile.left), report)
            rests.append(residual(x, y, local) ** 2)
            return x

        for top, band in tiling.bands(photo.height, photo.width, work):
            restored.write(top, band)
        return restored, math.sqrt(sum(rests) / len(rests))

    def _restored(
        self, y: Measurement, kernel: Blur, sigma: float, place: tuple[int, int], callback: Callable[[Step], None]
    ) -> Tensor:
        """A tile, by the method that was chosen."""
        settings = self.settings
        if settings.method == "fast":
            return restoration.restore(self._denoiser(), y, kernel, sigma, callback=callback)
        schedule, steps, key = linear_alpha_bar(), settings.effective_steps, (settings.seed,)
        if settings.method == "dps":
            fixed = self.prior.image_size
            x = dps.restore(
                clipped(self.prior.predict),
                schedule,
                y.y.expand(-1, self.prior.channels, -1, -1),
                kernel,
                sigma,
                dps.photons_of(y.y, sigma) if settings.noise == "poisson" else None,
                steps,
                key=key,
                place=place,
                shape=None if fixed is None else (fixed, fixed),
                callback=callback,
            )
            return x.mean(dim=1, keepdim=True) if y.y.shape[1] == 1 else x
        method = ddnm.restore if settings.method == "ddnm" else diffpir.restore
        return method(self._denoiser(), schedule, y, kernel, sigma, steps, key=key, place=place, callback=callback)

    def forecast(self, height: int, width: int) -> float:
        """Roughly how many seconds `restore` takes for a photo of that size, by a quick look at this machine."""
        settings = self.settings
        x = torch.full((1, self.prior.channels, UNIT, UNIT), 0.5, device=self.device)
        with torch.inference_mode():
            self.prior.denoise(x, 0.1)  # the first time, memory has to be found
            start = time.monotonic()
            float(self.prior.denoise(x, 0.1).sum())  # waits for a GPU
        unit = time.monotonic() - start
        area = height * width / UNIT**2
        if settings.method == "blinddps":
            return unit * BLINDDPS_WORK * settings.effective_steps * area
        step = BLINDDPS_WORK if settings.method == "dps" else STEP_WORK
        work = RESTORATION_WORK if settings.method == "fast" else step * settings.effective_steps
        restorations = work * area * (1 + 2 * settings.samples)
        if settings.kernel is not None:
            return unit * restorations
        estimates = KERNEL_WORK * settings.kernel_steps / METHODS["fast"] * (1 + settings.samples / 4)
        return unit * (restorations + estimates * min(area, (ESTIMATION_SIDE / UNIT) ** 2))

    def _guess_sharp(self, y: Tensor, sigma: float) -> bool:
        """Whether there is no blur to look for, unless somebody says that there is by saying where or how large."""
        settings = self.settings
        asked = settings.method == "blinddps" or any(
            said is not None for said in (settings.kernel, settings.kernel_size, settings.crop)
        )
        return not asked and is_sharp(y, sigma)

    def _kernel(
        self, photo: Pixels, sigma: float, progress: Progress, callback: Callable[[Step], None]
    ) -> tuple[Estimate, Tile]:
        """The kernel, estimated on the crop of the photo that tells most, and that crop."""
        where, crop, grey_sigma = self._estimation_crop(photo, sigma)
        steps = self.settings.kernel_steps
        progress("first kernel", 0, 1)

        def report(step: Step) -> None:
            if step.index < 0:  # the first guess: in colour
                step = replace(step, image=photo.of(where))
            else:
                progress("kernel", step.index + 1, step.total)
            callback(step)

        def given(grey: Tensor, noise: float) -> Denoiser:
            return self.kernel_prior.given(grey, noise).denoise

        size = _checked_size(self.settings.kernel_size, photo)
        generator = torch.Generator().manual_seed(self.settings.seed)
        return search.estimate(self._denoiser(), given, crop, grey_sigma, size, steps, generator, report), where

    def _kernel_map(
        self, photo: Pixels, estimate: Estimate, sigma: float, progress: Progress
    ) -> tuple[Estimate, KernelMap | None]:
        """Kernels for all places of the photo where they differ, and what speaks for them."""
        settings = self.settings
        asked = settings.kernel_size is not None or settings.crop is not None
        if asked or min(photo.height, photo.width) < LEAST_VARYING_SIDE:
            return estimate, None
        cells = spread(photo.height, photo.width, VARYING_ROWS, VARYING_COLUMNS, VARYING_SIDE)
        regions = [informative_crop(photo, VARYING_SIDE, cell) for cell in cells]
        return varying.estimate(
            self._denoiser(),
            [self._measurement(photo, region).grey() for region in regions],
            [(region.top + region.height / 2, region.left + region.width / 2) for region in regions],
            (photo.height, photo.width),
            estimate,
            sigma / photo.channels**0.5,
            torch.Generator().manual_seed(settings.seed),
            lambda done, total: progress("varying kernels", done, total),
        )

    def _estimation_crop(self, photo: Pixels, sigma: float) -> tuple[Tile, Measurement, float]:
        """Where the kernel is estimated, the measurement there in grey, (1, 1, h, w), and the sigma of that."""
        region = Tile(0, 0, photo.height, photo.width)
        if self.settings.crop is not None:
            region = _within(self.settings.crop, photo)
        where = informative_crop(photo, ESTIMATION_SIDE, region)
        return where, self._measurement(photo, where).grey(), sigma / photo.channels**0.5

    def _measurement(self, photo: Pixels, tile: Tile) -> Measurement:
        return Measurement.of(photo.of(tile), self.settings.linear)

    def _tiling(self, kernel: Tensor | KernelMap, reach: int = 1) -> Tiling:
        """Tiles that overlap by what their rims cannot know and by what fades from one into the next."""
        size = (kernel.kernels if isinstance(kernel, KernelMap) else kernel).shape[-1]
        settings, rim = self.settings, reach * (size // 2)
        fade = FADE if settings.overlap is None else settings.overlap
        overlap = 2 * rim + fade
        side = settings.tile or max(BLINDDPS_SIDE if settings.method == "dps" else TILE_SIDE, 2 * overlap)
        if settings.method == "dps" and self.prior.image_size is not None:
            known = self.prior.image_size
            side = known - (size - 1)  # its network takes no other
            if side <= overlap:
                largest = 2 * max(0, (known - fade - 1) // 4) + 1
                other = "" if settings.overlap is None else "a smaller --overlap, "
                raise UsageError(
                    f"The prior {self.prior.name} knows only images of {known}x{known} pixels. With dps that leaves "
                    f"room for a kernel of at most {largest} pixels; this one has {size}. Give a smaller one, {other}"
                    "another --prior or another --method."
                )
        if side <= overlap:
            raise UsageError(
                f"With this blur neighbouring tiles overlap by {overlap} pixels. Give a --tile of more than that."
            )
        return Tiling(side, overlap, rim)

    def _samples(
        self,
        photo: Pixels,
        restored: Pixels,
        kernel: Tensor | KernelMap,
        sigma: float,
        estimate: Estimate | None,
        progress: Progress,
        keep: Callable[[int, NDArray[Any]], None],
    ) -> NDArray[np.float32]:
        """Hands over samples of the posterior; the uncertainty that they show, in the shape of the photo.

        An estimated kernel has its share in it: each sample has one of its own, refined once more with other noise. Not
        so where the blur varies.
        """
        settings = self.settings
        kernel_steps = settings.effective_steps if estimate and not isinstance(kernel, KernelMap) else 0
        steps = kernel_steps + posterior.STEPS
        noise = math.hypot(sigma, estimate.error) if estimate else sigma
        values = restored.values()
        spread = np.zeros_like(values)
        if kernel_steps:
            _, crop, grey_sigma = self._estimation_crop(photo, sigma)
        for index in range(settings.samples):

            def report(done: float, index: int = index) -> None:
                progress("samples", round(index * steps + done), settings.samples * steps)

            own = kernel
            if kernel_steps and isinstance(kernel, Tensor):
                seed = white_noise.seed(settings.seed, index)
                generator = torch.Generator().manual_seed(seed)
                _, refined = fast.sample(
                    self._denoiser(), crop, kernel, grey_sigma, kernel_steps, generator, lambda s: report(s.index + 1)
                )
                own = kernels.aligned(refined, kernel)  # else the shift that nothing tells would count as uncertainty
            drawn = self._sample(photo, own, noise, index, lambda share: report(kernel_steps + posterior.STEPS * share))
            spread += np.square(drawn.values() - values) / settings.samples
            keep(index, drawn.array)
        squares, image = (torch.from_numpy(v.transpose(2, 0, 1))[None] for v in (spread, values))
        return photo.shaped(posterior.uncertainty(squares, image, estimate.confidence if estimate else None)[0])

    def _sample(
        self, photo: Pixels, kernel: Tensor | KernelMap, sigma: float, index: int, report: Callable[[float], None]
    ) -> Pixels:
        drawn, tiling = photo.like(), self._tiling(kernel, reach=2)
        number = len(tiling.tiles(photo.height, photo.width))

        def work(done: int, tile: Tile) -> Tensor:
            report(done / number)
            y, place = self._measurement(photo, tile), (tile.top, tile.left)
            return posterior.sample(
                self._denoiser(), y, _of_tile(kernel, tile), sigma, (self.settings.seed, index), place
            )

        for top, band in tiling.bands(photo.height, photo.width, work):
            drawn.write(top, band)
        report(1)
        return drawn

    def _blinddps(
        self, photo: Pixels, sigma: float, progress: Progress, callback: Callable[[Step], None]
    ) -> tuple[Pixels, Tensor, float]:
        y = photo.whole()
        size = _checked_size(self.settings.kernel_size, photo) or min(LARGEST_BLINDDPS_KERNEL, largest_kernel(y.shape))
        fixed = self.prior.image_size
        side = (self.settings.tile or BLINDDPS_SIDE) if fixed is None else fixed - (size - 1)

        def report(step: Step) -> None:
            progress("blinddps", step.index + 1, step.total)
            callback(step)

        steps = self.settings.effective_steps
        callback(Step(-1, steps, y, y.new_zeros(size, size)))
        image, kernel = blinddps.sample(
            self.prior.predict,
            self._kernel_diffusion(photo, sigma),
            linear_alpha_bar(),
            y.expand(-1, self.prior.channels, -1, -1),
            kernel_size=size,
            settings=blinddps.Settings(steps=steps),
            tiles=grid(photo.height, photo.width, side, overlap=side // 4),
            tile_shape=None if fixed is None else (fixed, fixed),
            generator=torch.Generator().manual_seed(self.settings.seed),
            callback=report,
        )
        callback(Step(steps, steps, image, kernel))
        restored = photo.like()
        restored.write(0, image.mean(dim=1, keepdim=True) if photo.channels == 1 else image)
        return restored, kernel, residual(restored.whole(), Measurement.of(y), kernel)

    def _kernel_diffusion(self, photo: Pixels, sigma: float) -> Diffusion | None:
        """What blinddps believes of the kernel."""
        if self.settings.kernel_prior == "uniform":
            return None
        if self.settings.kernel_prior == "diffusion":
            return self.kernel_prior.predict
        _, crop, grey_sigma = self._estimation_crop(photo, sigma)
        return self.kernel_prior.given(crop.y, grey_sigma).predict

    def _denoiser(self) -> Denoiser:
        """The image prior as a sampler calls it; a network of fixed size sees overlapping tiles of that size."""
        return self.prior.denoise if self.prior.image_size is None else in_tiles(self.prior, self.prior.image_size)


def restore(image: NDArray[Any], progress: Progress = lambda stage, done, total: None, **options: Any) -> Result:
    """Deblur one photo: the kernel and the sharp image, estimated together.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3): sRGB-encoded, uint8, uint16 or floating point in [0, 1].
        progress: told how far the work is.
        options: the fields of Settings: method, prior, kernel_prior, steps, kernel_size, kernel, sigma, linear, device,
            seed, samples.

    Returns:
        Result, its image in the shape and type of what was given.

    Raises:
        BlindDeblurError: one of its kinds; see blinddeblur.errors.

    Example:
        >>> result = blinddeblur.restore(cv2.imread("photo.jpg")[..., ::-1])  # doctest: +SKIP
    """
    return Engine(Settings(**options)).restore(image, progress)


def in_tiles(prior: Prior, side: int) -> Denoiser:
    """A prior that sees an image in overlapping tiles of `side` pixels; a smaller one has its edges continued."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        height, width = x.shape[-2:]
        bottom, right = max(0, side - height), max(0, side - width)
        padded = torch.nn.functional.pad(x, (0, right, 0, bottom), mode="replicate")
        height_padded, width_padded = padded.shape[-2:]
        tiles = grid(height_padded, width_padded, side, min(NETWORK_OVERLAP, side // 2))
        whole = blend(((t, prior.denoise(t.of(padded), sigma)) for t in tiles), height_padded, width_padded)
        return whole[..., :height, :width]

    return denoise


def informative_crop(photo: Pixels, side: int, region: Tile) -> Tile:
    """The part of a photo that tells most of its blur: edges in all directions, nothing clipped.

    Args:
        side: of the square, in pixels.
        region: of the photo in which to look; where it is smaller, it is taken whole.
    """
    candidates = grid(region.height, region.width, side, overlap=side // 2)
    thinned = candidates[:: -(-len(candidates) // MOST_CROPS)]
    moved = [replace(tile, top=region.top + tile.top, left=region.left + tile.left) for tile in thinned]
    return max(moved, key=lambda tile: _information(photo.of(tile))) if len(moved) > 1 else moved[0]


def _information(y: Tensor) -> float:
    """The smaller eigenvalue of the structure tensor of (1, C, H, W): texture in one direction leaves the blur open."""
    grey = y.mean(dim=1)[0]
    usable = ((y > CLIPPED[0]) & (y < CLIPPED[1])).all(dim=1)[0]
    across = (grey[:-1, 1:] - grey[:-1, :-1]) * usable[:-1, :-1]
    down = (grey[1:, :-1] - grey[:-1, :-1]) * usable[:-1, :-1]
    xx, yy, xy = (float((a * b).sum()) for a, b in ((across, across), (down, down), (across, down)))
    return (xx + yy) / 2 - (((xx - yy) / 2) ** 2 + xy**2) ** 0.5


def _of_tile(kernel: Tensor | KernelMap, tile: Tile) -> Blur:
    return kernel.of(tile) if isinstance(kernel, KernelMap) else kernel


def load(name: str, kind: str, device: torch.device) -> Prior:
    prior = load_prior(name, device)
    if prior.kind != kind:
        raise UsageError(f"{name} is a prior of kind {prior.kind}; here one of kind {kind} is needed.")
    return prior


def _warnings(estimate: Estimate | None, sharp: bool, rest: float, sigma: float) -> tuple[str, ...]:
    if sharp:
        return (
            "This photo is sharp already and is left as it is. If it is not, or only its subject moved, give a "
            "--kernel-size to deblur it all the same.",
        )
    if estimate is None:
        return ()
    doubts = []
    if estimate.confidence < DOUBTFUL:
        doubts.append(
            f"The blur could not be made out clearly (confidence {estimate.confidence:.2f}), so little of it was taken "
            "away. Look at the kernel; another --kernel-size may help."
        )
    if search.touches_rim(estimate.kernel):
        doubts.append(
            f"The blur reaches the edge of the {len(estimate.kernel)} pixels it was looked for in and may be longer. "
            "Give a larger --kernel-size, up to 127."
        )
    if rest > MISFIT * restoration.model_error(sigma):
        doubts.append(
            f"The result, blurred again, differs from the photo by {255 * rest:.1f}/255, more than by its noise of "
            f"{255 * sigma:.1f}/255: the blur may vary over the frame, or something moved by itself."
        )
    return tuple(doubts)


def given_kernel(kernel: NDArray[Any], photo: Pixels) -> Tensor:
    """A kernel of the user's as (K, K) on the device, square, odd and normalised."""
    values = torch.from_numpy(np.asarray(kernel, dtype=np.float32))
    if values.ndim != 2 or not torch.isfinite(values).all() or not values.clamp_min(0).sum() > 0:
        raise KernelError("A kernel is a table of finite numbers with something positive in it.")
    rows, columns = values.shape
    size = max(rows, columns) // 2 * 2 + 1
    top, left = (size - rows) // 2, (size - columns) // 2
    square = torch.nn.functional.pad(values, (left, size - columns - left, top, size - rows - top))
    limit = largest_kernel((photo.height, photo.width))
    if size > limit:
        raise KernelError(f"The kernel has {rows}x{columns} pixels, too many for this photo: at most {limit} fit.")
    return kernels.normalise(square).to(photo.device)


def _checked_size(size: int | None, photo: Pixels) -> int | None:
    limit = largest_kernel((photo.height, photo.width))
    if size is not None and size > limit:
        raise KernelError(f"A kernel of {size} pixels is too large for this photo: at most {limit} fit.")
    return size


def _within(region: tuple[int, int, int, int], photo: Pixels) -> Tile:
    """The tile of x, y, width and height, which has to lie in the photo."""
    left, top, width, height = region
    if left + width > photo.width or top + height > photo.height:
        raise UsageError(
            f"The crop {left},{top},{width},{height} reaches beyond the photo, which is {photo.width}x{photo.height}."
        )
    return Tile(top, left, height, width)
