"""Photo -> Result, stage by stage: the noise, the blur on a telling part, blur that varies, the photo in tiles.

Works on arrays, prints nothing and touches no files but the weights; the command line and the Python interface
share it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blinddeblur.devices import find_device, threads_for
from blinddeblur.engine import blending, doubts, forecast
from blinddeblur.engine.blur_finder import BLURRED, BlurFinder
from blinddeblur.engine.known_kernel import checked_size, given_kernel
from blinddeblur.engine.pixels import Pixels
from blinddeblur.engine.result import Result
from blinddeblur.engine.tiled import TiledRestoration
from blinddeblur.estimation import varying
from blinddeblur.estimation.candidates import Candidate
from blinddeblur.estimation.judging import Judge
from blinddeblur.estimation.noise import estimate_sigma
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import Blur
from blinddeblur.physics.kernel_map import KernelMap
from blinddeblur.physics.measurement import Measurement
from blinddeblur.priors.loading import load_judgement, load_prior, load_spectra
from blinddeblur.progress import Callback, Progress, Step, both, unheard, unseen
from blinddeblur.samplers import blinddps, posterior
from blinddeblur.samplers.deblurring import residual
from blinddeblur.samplers.schedule import Diffusion
from blinddeblur.settings import LARGEST_PRIOR_KERNEL, SEARCH_PRIOR, Settings
from blinddeblur.tiles import grid

ESTIMATION_SIDE = 448  # pixels a side of the part that the kernel is estimated on: more takes time
GPU_TILES = 2  # times the side of tiles on a GPU, which waits for Python while it works on small ones
LEAST_VARYING_SIDE = 400  # pixels of a photo's shorter side: in a smaller one regions would be the same


class _Found(NamedTuple):
    """What a photo has come to: image and kernel, and what is said of them in Result."""

    restored: Pixels
    kernel: Tensor
    residual: float = 0.0
    judged: Candidate | None = None
    sharp: bool = False
    hopeless: bool = False
    varying: KernelMap | None = None
    probable: tuple[tuple[Candidate, float], ...] = ()  # ways to restore the photo, and how probable each is
    ways: tuple[tuple[Pixels, float], ...] = ()  # what those came to that were gone

    @property
    def doubt(self) -> float:
        """How likely what came of it is wrong: a restoration that is worse than the photo, or none of a blurred one."""
        if self.sharp or self.hopeless or self.judged is None:
            return float(self.hopeless)
        return 1 - self.judged.probability


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
    find_varying: Callable[..., KernelMap | None] = varying.estimate
    least_varying_side: int = LEAST_VARYING_SIDE
    sample_steps: int = posterior.STEPS

    def __post_init__(self) -> None:
        settings = self.settings
        self.device = find_device(settings.device)
        self.prior = load_prior(settings.effective_prior, self.device, kind="image")
        loaded = {prior.name: prior for prior in (self.prior, self.prior.grey) if prior is not None}
        self.search_prior = loaded.get(SEARCH_PRIOR) or load_prior(SEARCH_PRIOR, self.device)
        self.spectra, self.judgement = load_spectra(device=self.device), load_judgement()
        if settings.kernel is None:
            name = "photo-kernel" if settings.conditioned else "kernel"
            self.kernel_prior = load_prior(name, self.device, kind="kernel")

    def finder(self, photo: Pixels) -> BlurFinder:
        """What finds the blur of a photo."""
        judge = Judge(self.search_prior.denoise, self.spectra, self.judgement, self.settings.linear)
        return BlurFinder(
            photo,
            self.settings,
            judge,
            None if self.settings.kernel is not None else self.kernel_prior,
            self.estimation_side,
            self.find_varying,
            self.least_varying_side,
        )

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
        sigma = estimate_sigma(photo.patches()) if settings.sigma is None else settings.sigma
        samples: list[NDArray[Any]] = []
        together = min(photo.height * photo.width, (settings.tile or settings.traits.tile) ** 2)
        with threads_for(together), torch.inference_mode(not settings.traits.gradients):
            if settings.traits.joint:
                found = self._jointly(photo, sigma, progress, callback)
            elif settings.kernel is not None:
                found = self._knowingly(photo, sigma, progress, callback)
            elif (finder := self.finder(photo)).looks_sharp(sigma):
                found = _Found(photo, torch.ones(1, 1, device=self.device), sharp=True)
                callback(Step(-1, 1, photo.whole(), found.kernel))
            else:
                found = self._blindly(finder, sigma, progress, callback)
            uncertainty = None
            if settings.samples:
                hand_over = keep or (lambda index, sample: samples.append(sample))
                uncertainty = self._sampled(photo, found, sigma, progress, hand_over)
            elif settings.uncertainty:
                uncertainty = blending.uncertainty(photo, found.restored, found.ways, found.doubt)
        judged = None if found.sharp or found.hopeless else found.judged
        return Result(
            image=np.array(image) if found.sharp or found.hopeless else found.restored.array,
            kernel=found.kernel.cpu().numpy().astype(np.float32),
            sigma=sigma,
            residual=found.residual,
            sharp=found.sharp,
            warnings=doubts.of_photo(found.kernel, judged, found.sharp, found.hopeless, found.residual, sigma),
            seconds=time.monotonic() - start,
            method=settings.method,
            prior=self.prior.name,
            checksum=self.prior.checksum,
            seed=settings.seed,
            steps=settings.effective_steps,
            confidence=None if judged is None else judged.probability,
            expected_gain=None if judged is None else judged.gain,
            hopeless=found.hopeless,
            kernel_prior=settings.kernel_prior if settings.traits.joint else None,
            kernel_map=found.varying.kernels.cpu().numpy() if found.varying else None,
            samples=np.stack(samples) if samples else None,
            uncertainty=uncertainty,
        )

    def forecast(self, height: int, width: int) -> float:
        """Roughly how many seconds `restore` takes for a photo of that size, by a quick look at this machine."""
        return forecast.seconds(
            self.prior, self.search_prior, self.settings, self.device, height, width, self.estimation_side
        )

    def _tiled(self, judged: Candidate | None = None) -> TiledRestoration:
        """What restores a photo with a kernel: as the settings say, and where they are silent as was judged best."""
        settings = self.settings
        larger = GPU_TILES if self.device.type == "cuda" and not settings.traits.gradients else 1
        if judged is None or not settings.traits.refines:
            return TiledRestoration(self.prior, settings, bool(settings.linear), larger=larger)
        return TiledRestoration(self.prior, settings, judged.linear, judged.caution, larger)

    def _knowingly(self, photo: Pixels, sigma: float, progress: Progress, callback: Callback) -> _Found:
        """With a kernel that is given, of which the judge only says what it thinks."""
        kernel = given_kernel(self.settings.kernel, photo)
        restored, rest = self._tiled().restore(photo, KernelMap.uniform(kernel), sigma, progress, callback)
        return _Found(restored, kernel, rest, self.finder(photo).assess(kernel))

    def _blindly(self, finder: BlurFinder, sigma: float, progress: Progress, callback: Callback) -> _Found:
        """The kernel first, with it the photo; unless that is not expected to be better than what was given."""
        photo, steps = finder.photo, self.settings.effective_steps
        verdict = finder.find(progress, callback)
        best = verdict.best
        found = _Found(photo, best.kernel, judged=best, probable=verdict.probable)
        if verdict.better or finder.asked or not self.settings.traits.refines:
            kernel_map = finder.kernel_map(best.kernel, progress)
            restored, rest = self._tiled(best).restore(
                photo, kernel_map or KernelMap.uniform(best.kernel), sigma, progress
            )
            found = found._replace(restored=restored, residual=rest, varying=kernel_map)
            if self.settings.traits.refines and not kernel_map:
                found = self._blended(photo, found, sigma, progress)
        else:
            blurred = verdict.blurred > BLURRED
            found = found._replace(kernel=torch.ones_like(best.kernel[:1, :1]), sharp=not blurred, hopeless=blurred)
        callback(Step(steps, steps, found.restored.of(finder.where), found.kernel))
        return found

    def _blended(self, photo: Pixels, found: _Found, sigma: float, progress: Progress) -> _Found:
        """With the other ways that are probable, where the best one may be wrong."""
        ways = [(found.restored, found.probable[0][1])]
        most = len(found.probable) if self.settings.uncertainty else blending.WAYS
        for candidate, share in found.probable[1:most]:
            if share >= blending.LEAST_SHARE:
                kernel_map = KernelMap.uniform(candidate.kernel)
                way = replace(self._tiled(candidate), brief=True)
                ways.append((way.restore(photo, kernel_map, sigma, progress)[0], share))
        return found._replace(restored=blending.blended(photo, ways[: blending.WAYS]), ways=tuple(ways))

    def _sampled(
        self,
        photo: Pixels,
        found: _Found,
        sigma: float,
        progress: Progress,
        keep: Callable[[int, NDArray[Any]], None],
    ) -> NDArray[np.float32]:
        """The map of errors to be expected, from samples of the posterior, which are handed over one by one.

        Each is drawn with a kernel of its own, of the probable ones by their shares.
        """
        number, values = self.settings.samples, found.restored.values()
        spread = np.zeros_like(values)
        for index in range(number):
            way = _drawn(found.probable, (index + 0.5) / number)
            kernel_map = found.varying or KernelMap.uniform(found.kernel if way is None else way.kernel)
            drawn = self._tiled(way).sample(photo, kernel_map, sigma, index, self.sample_steps, progress)
            spread += np.square(drawn.values() - values) / number
            keep(index, drawn.array)
        squares, image = (torch.from_numpy(v.transpose(2, 0, 1))[None] for v in (spread, values))
        confidence = None if found.judged is None else found.judged.probability
        return photo.shaped(posterior.uncertainty(squares, image, confidence)[0])

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
            self._kernel_diffusion(photo),
            y.expand(-1, max(self.prior.channels, y.shape[1]), -1, -1),
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
        return _Found(restored, kernel, float(residual(restored.whole(), Measurement.of(y), Blur.uniform(kernel))))

    def _kernel_diffusion(self, photo: Pixels) -> Diffusion | None:
        """What the paper's method believes of the kernel; None for nothing."""
        if self.settings.conditioned:
            finder = self.finder(photo)
            return self.kernel_prior.given(finder.grey.y, finder.noise).predict
        return None if self.settings.kernel_prior == "uniform" else self.kernel_prior.predict


def _drawn(probable: Sequence[tuple[Candidate, float]], place: float) -> Candidate | None:
    """The way at a place from 0 to 1 on a line that they share; None where there are none."""
    for candidate, share in probable:
        place -= share
        if place <= 0:
            return candidate
    return probable[-1][0] if probable else None


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
