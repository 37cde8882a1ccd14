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
from blinddeblur.engine import doubts, forecast, uncertainty
from blinddeblur.engine.crops import asked_region, informative_crop, informative_regions
from blinddeblur.engine.known_kernel import checked_size, given_kernel, no_blur
from blinddeblur.engine.pixels import Pixels
from blinddeblur.engine.result import Result
from blinddeblur.engine.tiled import TiledRestoration, denoiser
from blinddeblur.estimation import search, varying
from blinddeblur.estimation.judging import Estimate
from blinddeblur.estimation.noise import estimate_sigma
from blinddeblur.estimation.sharpness import NO_BLUR, is_sharp
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import Blur
from blinddeblur.physics.kernel_map import KernelMap
from blinddeblur.physics.measurement import Measurement
from blinddeblur.priors.loading import load_prior
from blinddeblur.progress import Progress, Step, unheard, unseen
from blinddeblur.samplers import blinddps, fast, posterior, white_noise
from blinddeblur.samplers.deblurring import residual
from blinddeblur.samplers.schedule import Denoiser, Diffusion
from blinddeblur.settings import LARGEST_PRIOR_KERNEL, Settings
from blinddeblur.tiles import Tile, grid

ESTIMATION_SIDE = 448  # pixels of the crop the kernel is estimated on: more costs time and adds little
VARYING_SIDE = 224  # pixels of the regions that kernels which differ are looked for in
VARYING_ROWS, VARYING_COLUMNS = 3, 4  # regions, however large the photo is
LEAST_VARYING_SIDE = 400  # pixels of a photo's shorter side: in a smaller one regions would be the same

Callback = Callable[[Step], None]


class _Found(NamedTuple):
    """What a photo has come to: image and kernel, and what is said of them in Result."""

    restored: Pixels
    kernel: Tensor
    residual: float = 0.0
    sharp: bool = False
    estimate: Estimate | None = None
    varying: KernelMap | None = None


@dataclass
class Engine:
    """Restores one photo after the other with the same settings; loads each prior that they need once.

    Attributes:
        settings: of the restoration.
        estimation_side: of the square that the kernel is estimated on, in pixels.
        find_varying: looks for kernels that differ over the photo, called as `varying.estimate` is;
        least_varying_side: in photos whose shorter side has so many pixels.
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
                found = _Found(photo, no_blur(photo), sharp=True)
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
        estimate, crop = self._kernel(photo, sigma, progress, callback)
        found = _Found(photo, estimate.kernel, sharp=float(estimate.kernel.max()) > NO_BLUR, estimate=estimate)
        if not found.sharp:
            estimate, kernel_map = self._kernel_map(photo, estimate, sigma, progress)
            noise = math.hypot(sigma, estimate.error)
            restored, rest = self.tiled.restore(photo, kernel_map or KernelMap.uniform(found.kernel), noise, progress)
            found = _Found(restored, found.kernel, rest, False, estimate, kernel_map)
        steps = self.settings.effective_steps
        callback(Step(steps, steps, found.restored.of(crop), found.kernel))
        return found

    def _kernel(self, photo: Pixels, sigma: float, progress: Progress, callback: Callback) -> tuple[Estimate, Tile]:
        """The kernel, estimated on the crop of the photo that tells most, and that crop."""
        where, crop, grey_sigma = self._estimation_crop(photo, sigma)
        progress("first kernel", 0, 1)

        def report(step: Step) -> None:
            if step.index < 0:  # the first guess: in colour
                step = replace(step, image=photo.of(where))
            else:
                progress("kernel", step.index + 1, step.total)
            callback(step)

        def given(grey: Tensor, noise: float) -> Denoiser:
            return self.kernel_prior.given(grey, noise).denoise

        size = checked_size(self.settings.kernel_size, photo)
        steps, generator = self.settings.kernel_steps, torch.Generator().manual_seed(self.settings.seed)
        return search.estimate(denoiser(self.prior), given, crop, grey_sigma, size, steps, generator, report), where

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
            denoiser(self.prior),
            [self.tiled.measurement(photo, region).grey() for region in regions],
            [(region.top + region.height / 2, region.left + region.width / 2) for region in regions],
            (photo.height, photo.width),
            estimate,
            sigma / photo.channels**0.5,
            torch.Generator().manual_seed(settings.seed),
            lambda done, total: progress("varying kernels", done, total),
        )

    def _estimation_crop(self, photo: Pixels, sigma: float) -> tuple[Tile, Measurement, float]:
        """Where the kernel is estimated, the measurement there in grey, (1, 1, h, w), and the sigma of that."""
        crop = self.settings.crop
        where = informative_crop(photo, self.estimation_side, None if crop is None else asked_region(crop, photo))
        return where, self.tiled.measurement(photo, where).grey(), sigma / photo.channels**0.5

    def _uncertainty(
        self,
        photo: Pixels,
        found: _Found,
        sigma: float,
        progress: Progress,
        keep: Callable[[int, NDArray[Any]], None],
    ) -> NDArray[np.float32]:
        """Where a single kernel was estimated, each sample has one of its own, refined once more with other noise."""
        settings, estimate, kernel = self.settings, found.estimate, found.kernel
        alone = estimate is not None and found.varying is None
        if alone:
            _, crop, grey_sigma = self._estimation_crop(photo, sigma)

        def kernels_of(index: int, report: Callable[[int], None]) -> KernelMap:
            if not alone:
                return found.varying or KernelMap.uniform(kernel)
            generator = torch.Generator().manual_seed(white_noise.seed(settings.seed, index))
            refined = fast.estimate(
                denoiser(self.prior),
                crop,
                kernel,
                grey_sigma,
                settings.effective_steps,
                generator,
                lambda step: report(step.index + 1),
            )
            # Aligned, since else the shift that nothing tells would count as uncertainty.
            return KernelMap.uniform(kernels.aligned(refined, kernel))

        return uncertainty.draw_samples(
            self.tiled,
            photo,
            found.restored,
            kernels_of,
            settings.effective_steps if alone else 0,
            math.hypot(sigma, estimate.error) if estimate else sigma,
            estimate.confidence if estimate else None,
            progress,
            keep,
            self.sample_steps,
        )

    def _jointly(self, photo: Pixels, sigma: float, progress: Progress, callback: Callback) -> _Found:
        """Image and kernel together: the paper's method."""
        y, settings, fixed = photo.whole(), self.settings, self.prior.image_size
        fitting = min(LARGEST_PRIOR_KERNEL, kernels.largest((photo.height, photo.width)))
        size = checked_size(settings.kernel_size, photo) or fitting
        side = (settings.tile or settings.traits.tile) if fixed is None else fixed - (size - 1)

        def report(step: Step) -> None:
            progress(settings.method, step.index + 1, step.total)
            callback(step)

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
            callback=report,
        )
        callback(Step(steps, steps, image, kernel))
        restored = photo.like()
        restored.write(0, image.mean(dim=1, keepdim=True) if photo.channels == 1 else image)
        return _Found(restored, kernel, residual(restored.whole(), Measurement.of(y), Blur.uniform(kernel)))

    def _kernel_diffusion(self, photo: Pixels, sigma: float) -> Diffusion | None:
        """What the paper's method believes of the kernel; None for nothing."""
        if self.settings.conditioned:
            _, crop, grey_sigma = self._estimation_crop(photo, sigma)
            return self.kernel_prior.given(crop.y, grey_sigma).predict
        return None if self.settings.kernel_prior == "uniform" else self.kernel_prior.predict


def restore(image: NDArray[Any], progress: Progress = unheard, **options: Any) -> Result:
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
