"""Photo -> Result, stage by stage: the noise, the kernel on a telling crop, blur that varies, the photo in tiles.

Works on arrays, prints nothing and touches no files but the weights; the command line and the Python interface
share it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blinddeblur.devices import find_device
from blinddeblur.engine import doubts, forecast
from blinddeblur.engine.crops import asked_region, informative_crop, informative_regions
from blinddeblur.engine.known_kernel import checked_size, given_kernel
from blinddeblur.engine.pixels import Pixels
from blinddeblur.engine.result import Result
from blinddeblur.engine.tiled import TiledRestoration
from blinddeblur.estimation import search, varying
from blinddeblur.estimation.judging import Estimate
from blinddeblur.estimation.noise import estimate_sigma
from blinddeblur.estimation.sharpness import NO_BLUR, is_sharp
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import Blur
from blinddeblur.physics.kernel_map import KernelMap
from blinddeblur.physics.measurement import Measurement
from blinddeblur.priors.loading import load_prior
from blinddeblur.progress import Callback, Progress, Step, both, unheard, unseen
from blinddeblur.samplers import blinddps, fast, posterior, white_noise
from blinddeblur.samplers.deblurring import residual
from blinddeblur.samplers.schedule import Diffusion
from blinddeblur.settings import LARGEST_PRIOR_KERNEL, Settings
from blinddeblur.tiles import Tile, grid

ESTIMATION_SIDE = 448  # pixels a side of the crop that the kernel is estimated on: more takes time
VARYING_SIDE = 224  # pixels of the regions that kernels which differ are looked for in
VARYING_ROWS, VARYING_COLUMNS = 3, 4  # regions, however large the photo is
LEAST_VARYING_SIDE = 400  # pixels of a photo's shorter side: in a smaller one regions would be the same


class _Found(NamedTuple):
    """What a photo has come to: image and kernel, and what is said of them in Result."""

    restored: Pixels
    kernel: Tensor
    residual: float = 0.0
    sharp: bool = False
    estimate: Estimate | None = None
    varying: KernelMap | None = None
    where: Tile | None = None  # the kernel was estimated


@dataclass
class Engine:
    """Restores one photo after the other with the same settings; loads each prior that they need once.

    Attributes:
        settings: of the restoration.
        estimation_side: of the square that the kernel is estimated on, in pixels.
        find_varying: looks for kernels that differ over the photo, called as `varying.estimate` is.
        least_varying_side: shorter side of a photo, in pixels, from which on these are looked for.
        sample_steps: noise levels of each sample of the posterior.

    Raises:
        UsageError: settings that make no sense, or a device that is not there.
        WeightsError: a prior's weights are missing or damaged.
    """

    settings: Settings = field(default_factory=Settings)
    estimation_side: int = ESTIMATION_SIDE
    find_varying: Callable[..., tuple[Estimate, KernelMap | None]] = varying.estimate
    least_varying_side: int = LEAST_VARYING_SIDE
    sample_steps: int = posterior.STEPS

    def __post_init__(self) -> None:
        settings = self.settings
        self.device = find_device(settings.device)
        self.prior = load_prior(settings.prior, self.device, kind="image")
        if settings.kernel is None:
            name = "photo-kernel" if settings.conditioned else "kernel"
            self.kernel_prior = load_prior(name, self.device, kind="kernel")

    @property
    def tiled(self) -> TiledRestoration:
        """What restores a photo once its blur is known."""
        return TiledRestoration(self.prior, self.settings)

    def restore(
        self,
        image: NDArray[Any],
        progress: Progress = unheard,
        callback: Callback = unseen,
        keep: Callable[[int, NDArray[Any]], None] | None = None,
    ) -> Result:
        """Restore one photo.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3): sRGB-encoded, uint8, uint16 or floating point in [0, 1].
            callback: told of every step of the sampler, with tensors, and of what was before (index -1: the photo) and
                after. blinddps shows the whole photo, fast the crop that tells most: grey during the diffusion, in
                colour before and after. With a kernel that is given it is the restoration of the middle tile.
            keep: given each sample, with its index from 0, once it is drawn. The result then holds none: those of a
                large photo need much memory.

        Raises:
            UsageError: a crop that reaches beyond the photo, or tiles that are too small for the blur.
            PhotoError: an array that is no photo, or too small.
            KernelError: the kernel does not fit into the photo.
            EstimationError: no usable answer came out.
        """
        start, settings = time.monotonic(), self.settings
        photo = Pixels(image, self.device)
        patches = photo.patches()
        sigma = estimate_sigma(patches) if settings.sigma is None else settings.sigma
        samples: list[NDArray[Any]] = []
        map_of_errors = None
        with torch.inference_mode(not settings.traits.gradients):
            if settings.traits.joint:
                found = self._jointly(photo, sigma, progress, callback)
            elif self._looks_sharp(patches, sigma):
                found = _Found(photo, torch.ones(1, 1, device=self.device), sharp=True)
                callback(Step(-1, 1, photo.whole(), found.kernel))
            elif settings.kernel is not None:
                kernel = given_kernel(settings.kernel, photo)
                restored, rest = self.tiled.restore(photo, KernelMap.uniform(kernel), sigma, progress, callback)
                found = _Found(restored, kernel, rest)
            else:
                found = self._blindly(photo, sigma, progress, callback)
            if settings.samples:
                hand_over = keep or (lambda index, sample: samples.append(sample))
                map_of_errors = self._uncertainty(photo, found, sigma, progress, hand_over)
        estimate = found.estimate
        return Result(
            image=np.array(image) if found.sharp else found.restored.array,
            kernel=found.kernel.cpu().numpy().astype(np.float32),
            sigma=sigma,
            residual=found.residual,
            sharp=found.sharp,
            warnings=doubts.of_photo(estimate, found.sharp, found.residual, sigma),
            seconds=time.monotonic() - start,
            method=settings.method,
            prior=self.prior.name,
            checksum=self.prior.checksum,
            seed=settings.seed,
            steps=settings.effective_steps,
            confidence=estimate.confidence if estimate else None,
            kernel_prior=settings.kernel_prior if settings.traits.joint else None,
            kernel_map=found.varying.kernels.cpu().numpy() if found.varying else None,
            samples=np.stack(samples) if samples else None,
            uncertainty=map_of_errors,
        )

    def forecast(self, height: int, width: int) -> float:
        """Roughly how many seconds `restore` takes for a photo of that size, by a quick look at this machine."""
        return forecast.seconds(self.prior, self.settings, self.device, height, width, self.estimation_side)

    def _looks_sharp(self, y: Tensor, sigma: float) -> bool:
        """Whether there is no blur to look for, unless somebody says that there is by saying where or how large."""
        settings = self.settings
        asked = (settings.kernel, settings.kernel_size, settings.crop)
        return all(said is None for said in asked) and is_sharp(y, sigma)

    def _blindly(self, photo: Pixels, sigma: float, progress: Progress, callback: Callback) -> _Found:
        """The kernel first, with it the photo."""
        where = self._where(photo)
        estimate = self._kernel(photo, where, sigma, progress, callback)
        sharp = float(estimate.kernel.max()) > NO_BLUR
        found = _Found(photo, estimate.kernel, sharp=sharp, estimate=estimate, where=where)
        if not sharp:
            estimate, kernel_map = self._kernel_map(photo, estimate, sigma, progress)
            noise = math.hypot(sigma, estimate.error)
            restored, rest = self.tiled.restore(photo, kernel_map or KernelMap.uniform(found.kernel), noise, progress)
            found = _Found(restored, found.kernel, rest, sharp, estimate, kernel_map, where)
        steps = self.settings.effective_steps
        callback(Step(steps, steps, found.restored.of(where), found.kernel))
        return found

    def _kernel(self, photo: Pixels, where: Tile, sigma: float, progress: Progress, callback: Callback) -> Estimate:
        """The kernel, estimated on a part of the photo."""
        progress("first kernel", 0, 1)

        def report(step: Step) -> None:
            if step.index < 0:  # the first guess: in colour
                step = replace(step, image=photo.of(where))
            else:
                progress("kernel", step.index + 1, step.total)
            callback(step)

        return search.estimate(
            self.prior.denoise,
            self.kernel_prior,
            self.tiled.measurement(photo, where).grey(),
            sigma / photo.channels**0.5,
            checked_size(self.settings.kernel_size, photo),
            self.settings.kernel_steps,
            torch.Generator().manual_seed(self.settings.seed),
            report,
        )

    def _kernel_map(
        self, photo: Pixels, estimate: Estimate, sigma: float, progress: Progress
    ) -> tuple[Estimate, KernelMap | None]:
        """Kernels for all places of the photo where they differ, and what speaks for them."""
        settings = self.settings
        asked = settings.kernel_size is not None or settings.crop is not None
        if asked or min(photo.height, photo.width) < self.least_varying_side:
            return estimate, None
        regions = informative_regions(photo, VARYING_ROWS, VARYING_COLUMNS, VARYING_SIDE)
        return self.find_varying(
            self.prior.denoise,
            [self.tiled.measurement(photo, region).grey() for region in regions],
            [(region.top + region.height / 2, region.left + region.width / 2) for region in regions],
            (photo.height, photo.width),
            estimate,
            sigma / photo.channels**0.5,
            torch.Generator().manual_seed(settings.seed),
            lambda done, total: progress("varying kernels", done, total),
        )

    def _where(self, photo: Pixels) -> Tile:
        """Where the kernel is estimated: the square that tells most of it, in the part that was asked for."""
        crop = self.settings.crop
        return informative_crop(photo, self.estimation_side, None if crop is None else asked_region(crop, photo))

    def _uncertainty(
        self,
        photo: Pixels,
        found: _Found,
        sigma: float,
        progress: Progress,
        keep: Callable[[int, NDArray[Any]], None],
    ) -> NDArray[np.float32]:
        """The map of errors to be expected, from samples of the posterior, which are handed over one by one."""
        number, estimate, values = self.settings.samples, found.estimate, found.restored.values()
        noise, confidence = (math.hypot(sigma, estimate.error), estimate.confidence) if estimate else (sigma, None)
        spread = np.zeros_like(values)
        for index in range(number):
            kernel_map = self._kernels_of_sample(photo, found, sigma, index)
            drawn = self.tiled.sample(photo, kernel_map, noise, index, self.sample_steps, progress)
            spread += np.square(drawn.values() - values) / number
            keep(index, drawn.array)
        squares, image = (torch.from_numpy(v.transpose(2, 0, 1))[None] for v in (spread, values))
        return photo.shaped(posterior.uncertainty(squares, image, confidence)[0])

    def _kernels_of_sample(self, photo: Pixels, found: _Found, sigma: float, index: int) -> KernelMap:
        """Where a single kernel was estimated, each sample has one of its own, refined once more with other noise."""
        if found.where is None or found.varying:
            return found.varying or KernelMap.uniform(found.kernel)
        settings, crop = self.settings, self.tiled.measurement(photo, found.where).grey()
        generator = torch.Generator().manual_seed(white_noise.seed(settings.seed, index))
        refined = fast.estimate(
            self.prior.denoise, crop, found.kernel, sigma / photo.channels**0.5, settings.effective_steps, generator
        )
        # Aligned, since else the shift that nothing tells would count as uncertainty.
        return KernelMap.uniform(kernels.aligned(refined, found.kernel))

    def _jointly(self, photo: Pixels, sigma: float, progress: Progress, callback: Callback) -> _Found:
        """Image and kernel together: the paper's method."""
        y, settings, fixed = photo.whole(), self.settings, self.prior.image_size
        fitting = min(LARGEST_PRIOR_KERNEL, kernels.largest((photo.height, photo.width)))
        size = checked_size(settings.kernel_size, photo) or fitting
        side = (settings.tile or settings.traits.tile) if fixed is None else fixed - (size - 1)

        steps = settings.effective_steps
        callback(Step(-1, steps, y, y.new_zeros(size, size)))
        image, kernel = blinddps.sample(
            self.prior.predict,
            self._kernel_diffusion(photo, sigma),
            y.expand(-1, self.prior.channels, -1, -1),
            kernel_size=size,
            steps=steps,
            sparsity=settings.sparsity,
            tiles=grid(photo.height, photo.width, side, overlap=side // 4),
            tile_shape=None if fixed is None else (fixed, fixed),
            generator=torch.Generator().manual_seed(settings.seed),
            callback=both(settings.method, progress, callback),
        )
        callback(Step(steps, steps, image, kernel))
        restored = photo.like()
        restored.write(0, image.mean(dim=1, keepdim=True) if photo.channels == 1 else image)
        return _Found(restored, kernel, residual(restored.whole(), Measurement.of(y), Blur.uniform(kernel)))

    def _kernel_diffusion(self, photo: Pixels, sigma: float) -> Diffusion | None:
        """What the paper's method believes of the kernel; None for nothing."""
        if self.settings.conditioned:
            crop = self.tiled.measurement(photo, self._where(photo)).grey()
            return self.kernel_prior.given(crop.y, sigma / photo.channels**0.5).predict
        return None if self.settings.kernel_prior == "uniform" else self.kernel_prior.predict


def restore(image: NDArray[Any], progress: Progress = unheard, **options: Any) -> Result:
    """Deblur one photo: the kernel and the sharp image, estimated together.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3): sRGB-encoded, uint8, uint16 or floating point in [0, 1].
        progress: told how far the work is.
        options: the fields of Settings.

    The image of the result has the shape and type of what was given. Raises a BlindDeblurError, of one of the kinds in
    blinddeblur.errors, where no result comes out.

    Example:
        >>> result = blinddeblur.restore(cv2.imread("photo.jpg")[..., ::-1])  # doctest: +SKIP
    """
    return Engine(Settings(**options)).restore(image, progress)
