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

from blinddeblur.errors import EstimationError, KernelError, PhotoError, UsageError
from blinddeblur.photo import MINIMUM_SIDE
from blinddeblur.physics import kernels
from blinddeblur.physics.measurement import Measurement
from blinddeblur.physics.noise import CLIPPED, estimate_sigma
from blinddeblur.physics.sharpness import is_sharp
from blinddeblur.priors import Prior, load_prior
from blinddeblur.priors.guided_diffusion import linear_alpha_bar
from blinddeblur.samplers import blinddps, fast, kernel_estimation, posterior, restoration
from blinddeblur.samplers.evidence import Estimate, residual
from blinddeblur.samplers.kernel_estimation import largest_kernel
from blinddeblur.samplers.schedule import Denoiser, Step
from blinddeblur.settings import LARGEST_BLINDDPS_KERNEL, Settings
from blinddeblur.tiles import Tile, blend, grid

ESTIMATION_SIDE = 448  # pixels of the crop the kernel is estimated on: more costs time and adds little
TILE_SIDE = 512  # pixels of a tile of the restoration
BLINDDPS_SIDE = 192  # pixels of a tile of blinddps: a gradient through the network needs memory
NETWORK_OVERLAP = 64  # pixels, where a network of fixed size is tiled
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
        samples: (N, H, W[, C]), sharp images that all explain the photo, otherwise like `image`; None if none were
            asked for, or if they were handed over one by one.
        uncertainty: (H, W[, C]) float32 in [0, 1], the standard deviation of the error that `image` is expected to
            have; None if no samples were asked for.
        method, prior, checksum, seed, steps: how it was made; checksum is the sha256 of the prior's weights.
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
    samples: NDArray[Any] | None = None
    uncertainty: NDArray[np.float32] | None = None


@dataclass
class Engine:
    """Restores one photo after the other with the same settings; loads each prior once.

    Raises:
        UsageError: settings that make no sense, or a device that is not there.
        WeightsError: a prior's weights are missing or damaged.
    """

    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        self.device = find_device(self.settings.device)
        self.prior = _load(self.settings.prior, "image", self.device)
        name = "kernel" if self.settings.method == "blinddps" else "photo-kernel"
        self.kernel_prior = _load(name, "kernel", self.device)

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
        y = _as_tensor(image).to(self.device)
        sigma = estimate_sigma(y) if settings.sigma is None else settings.sigma
        measurement = Measurement.of(y, settings.linear)
        generator = torch.Generator().manual_seed(settings.seed)
        with torch.inference_mode(settings.method != "blinddps"):
            sharp = self._guess_sharp(y, sigma)
            estimate = None
            if settings.method == "blinddps":
                restored, kernel = self._blinddps(y, generator, progress, callback)
            elif not sharp and settings.kernel is None:
                estimate, crop = self._kernel(measurement, sigma, generator, progress, callback)
                kernel, sharp = estimate.kernel, float(estimate.kernel.max()) > NO_BLUR
                noise = math.hypot(sigma, estimate.error)
                restored = y if sharp else self._restore(measurement, kernel, noise, progress)
                callback(Step(settings.effective_steps, settings.effective_steps, crop.of(restored), kernel))
            elif sharp:
                restored, kernel = y, _given_kernel(np.ones((1, 1)), y)
                callback(Step(-1, 1, y, kernel))
            else:
                kernel = _given_kernel(settings.kernel, y)
                restored = self._restore(measurement, kernel, sigma, progress, callback)
            _check_finite(restored)
            samples: list[NDArray[Any]] = []
            spread = torch.zeros_like(y)
            for index in range(settings.samples):
                drawn = self._sample(index, measurement, kernel, sigma, estimate, generator, progress)
                _check_finite(drawn)
                spread += (drawn.clamp(0, 1) - restored.clamp(0, 1)).square() / settings.samples
                pixels = _as_array(drawn, image)
                keep(index, pixels) if keep else samples.append(pixels)
        rest = residual(restored, measurement, kernel)
        return Result(
            image=np.array(image) if sharp else _as_array(restored, image),
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
            samples=np.stack(samples) if samples else None,
            uncertainty=_as_float(posterior.uncertainty(spread), image) if settings.samples else None,
        )

    def _guess_sharp(self, y: Tensor, sigma: float) -> bool:
        """Whether there is no blur to look for, unless somebody says that there is by giving a kernel or its size."""
        settings = self.settings
        asked = settings.method == "blinddps" or settings.kernel is not None or settings.kernel_size is not None
        return not asked and is_sharp(y, sigma)

    def _kernel(
        self,
        measurement: Measurement,
        sigma: float,
        generator: torch.Generator,
        progress: Progress,
        callback: Callable[[Step], None],
    ) -> tuple[Estimate, Tile]:
        """The kernel, estimated on the crop of the photo that tells most, and that crop."""
        y = measurement.y
        where, crop, grey_sigma = _estimation_crop(measurement, sigma)
        steps = self.settings.effective_steps
        progress("first kernel", 0, 1)

        def report(step: Step) -> None:
            if step.index < 0:  # the first guess: in colour
                step = replace(step, image=where.of(y))
            else:
                progress("kernel", step.index + 1, step.total)
            callback(step)

        def given(photo: Tensor, noise: float) -> Denoiser:
            return self.kernel_prior.given(photo, noise).denoise

        size = _checked_size(self.settings.kernel_size, y)
        estimate = kernel_estimation.estimate(self._denoiser(), given, crop, grey_sigma, size, steps, generator, report)
        return estimate, where

    def _restore(
        self,
        y: Measurement,
        kernel: Tensor,
        sigma: float,
        progress: Progress,
        callback: Callable[[Step], None] = lambda step: None,
    ) -> Tensor:
        """The whole photo with one kernel, in overlapping tiles; the callback is told of the one in the middle."""
        height, width = y.y.shape[-2:]
        radius = kernel.shape[-1] // 2
        tiles = grid(height, width, TILE_SIDE, overlap=2 * radius + 32)
        total = len(tiles) * restoration.STEPS
        middle = len(tiles) // 2
        callback(Step(-1, restoration.STEPS, tiles[middle].of(y.y), kernel))
        pieces = []
        for index, tile in enumerate(tiles):

            def report(step: Step, index: int = index) -> None:
                progress("restoration", index * step.total + step.index + 1, total)
                if index == middle:
                    callback(step)

            pieces.append((tile, restoration.restore(self._denoiser(), y.map(tile.of), kernel, sigma, callback=report)))
        return blend(pieces, height, width, rim=radius)

    def _sample(
        self,
        index: int,
        y: Measurement,
        kernel: Tensor,
        sigma: float,
        estimate: Estimate | None,
        generator: torch.Generator,
        progress: Progress,
    ) -> Tensor:
        """(1, C, H, W): one sample of the posterior, of the kernel too if that is estimated, starting from what was."""
        settings = self.settings
        kernel_steps = settings.effective_steps if estimate else 0
        steps = kernel_steps + posterior.STEPS

        def report(done: int) -> None:
            progress("samples", index * steps + done, settings.samples * steps)

        if kernel_steps:
            _, crop, grey_sigma = _estimation_crop(y, sigma)
            _, own = fast.sample(
                self._denoiser(), crop, kernel, grey_sigma, kernel_steps, generator, lambda step: report(step.index + 1)
            )
            kernel = kernels.aligned(own, kernel)  # else the shift that nothing tells would count as uncertainty
        return posterior.sample(
            self._denoiser(),
            y,
            kernel,
            math.hypot(sigma, estimate.error) if estimate else sigma,
            grid(y.y.shape[-2], y.y.shape[-1], TILE_SIDE, overlap=2 * kernel.shape[-1] + 32),
            generator,
            posterior.STEPS,
            lambda step: report(kernel_steps + step.index + 1),
        )

    def _blinddps(
        self, y: Tensor, generator: torch.Generator, progress: Progress, callback: Callable[[Step], None]
    ) -> tuple[Tensor, Tensor]:
        size = _checked_size(self.settings.kernel_size, y) or min(LARGEST_BLINDDPS_KERNEL, largest_kernel(y))
        fixed = self.prior.image_size
        side = BLINDDPS_SIDE if fixed is None else fixed - (size - 1)
        height, width = y.shape[-2:]

        def report(step: Step) -> None:
            progress("blinddps", step.index + 1, step.total)
            callback(step)

        steps = self.settings.effective_steps
        callback(Step(-1, steps, y, y.new_zeros(size, size)))
        image, kernel = blinddps.sample(
            self.prior.predict,
            self.kernel_prior.predict,
            linear_alpha_bar(),
            y.expand(-1, self.prior.channels, -1, -1),
            kernel_size=size,
            settings=blinddps.Settings(steps=steps),
            tiles=grid(height, width, side, overlap=side // 4),
            tile_shape=None if fixed is None else (fixed, fixed),
            generator=generator,
            callback=report,
        )
        callback(Step(steps, steps, image, kernel))
        return (image.mean(dim=1, keepdim=True) if y.shape[1] == 1 else image), kernel

    def _denoiser(self) -> Denoiser:
        """The image prior as a sampler calls it; a network of fixed size sees overlapping tiles of that size."""
        prior, side = self.prior, self.prior.image_size
        if side is None:
            return prior.denoise

        def denoise(x: Tensor, sigma: float) -> Tensor:
            height, width = x.shape[-2:]
            bottom, right = max(0, side - height), max(0, side - width)
            padded = torch.nn.functional.pad(x, (0, right, 0, bottom), mode="replicate")
            height_padded, width_padded = padded.shape[-2:]
            tiles = grid(height_padded, width_padded, side, NETWORK_OVERLAP)
            whole = blend(((t, prior.denoise(t.of(padded), sigma)) for t in tiles), height_padded, width_padded)
            return whole[..., :height, :width]

        return denoise


def restore(image: NDArray[Any], progress: Progress = lambda stage, done, total: None, **options: Any) -> Result:
    """Deblur one photo: the kernel and the sharp image, estimated together.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3): sRGB-encoded, uint8, uint16 or floating point in [0, 1].
        progress: told how far the work is.
        options: the fields of Settings: method, prior, steps, kernel_size, kernel, sigma, linear, device, seed,
            samples.

    Returns:
        Result, its image in the shape and type of what was given.

    Raises:
        BlindDeblurError: one of its kinds; see blinddeblur.errors.

    Example:
        >>> result = blinddeblur.restore(cv2.imread("photo.jpg")[..., ::-1])  # doctest: +SKIP
    """
    return Engine(Settings(**options)).restore(image, progress)


def find_device(name: str) -> torch.device:
    """The device of a name: "auto" (the best there is), "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        UsageError: it is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"The device {name} cannot be used here. Choose --device cpu, or leave it out.") from error
    return device


def informative_crop(y: Tensor, side: int) -> Tile:
    """The part of a photo that tells most of its blur: edges in all directions, nothing clipped.

    Args:
        y: (1, C, H, W).
        side: of the square, in pixels; a smaller photo is taken whole.
    """
    height, width = y.shape[-2:]
    if height <= side and width <= side:
        return Tile(0, 0, height, width)
    grey = y.mean(dim=1)[0]
    usable = ((y > CLIPPED[0]) & (y < CLIPPED[1])).all(dim=1)[0]
    across = (grey[:-1, 1:] - grey[:-1, :-1]) * usable[:-1, :-1]
    down = (grey[1:, :-1] - grey[:-1, :-1]) * usable[:-1, :-1]

    def score(tile: Tile) -> float:
        """The smaller eigenvalue of the structure tensor: texture in one direction alone leaves the blur open."""
        a, b = tile.of(across), tile.of(down)
        xx, yy, xy = float((a * a).sum()), float((b * b).sum()), float((a * b).sum())
        return (xx + yy) / 2 - (((xx - yy) / 2) ** 2 + xy**2) ** 0.5

    return max(grid(height, width, side, overlap=side // 2), key=score)


def _estimation_crop(y: Measurement, sigma: float) -> tuple[Tile, Measurement, float]:
    """Where the kernel is estimated, the measurement there in grey, (1, 1, h, w), and the sigma of that."""
    where = informative_crop(y.y, ESTIMATION_SIDE)
    return where, y.map(where.of).grey(), sigma / y.y.shape[1] ** 0.5


def _check_finite(restored: Tensor) -> None:
    if not torch.isfinite(restored).all():
        raise EstimationError("The restoration diverged: the result is not a number somewhere. Give another --prior.")


def _load(name: str, kind: str, device: torch.device) -> Prior:
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
    if kernel_estimation.touches_rim(estimate.kernel):
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


def _given_kernel(kernel: NDArray[Any], y: Tensor) -> Tensor:
    """A kernel of the user's as (K, K) on the device, square, odd and normalised."""
    values = torch.from_numpy(np.asarray(kernel, dtype=np.float32))
    if values.ndim != 2 or not torch.isfinite(values).all() or not values.clamp_min(0).sum() > 0:
        raise KernelError("A kernel is a table of finite numbers with something positive in it.")
    rows, columns = values.shape
    size = max(rows, columns) // 2 * 2 + 1
    top, left = (size - rows) // 2, (size - columns) // 2
    square = torch.nn.functional.pad(values, (left, size - columns - left, top, size - rows - top))
    limit = largest_kernel(y)
    if size > limit:
        raise KernelError(f"The kernel has {rows}x{columns} pixels, too many for this photo: at most {limit} fit.")
    return kernels.normalise(square).to(y.device)


def _checked_size(size: int | None, y: Tensor) -> int | None:
    limit = largest_kernel(y)
    if size is not None and size > limit:
        raise KernelError(f"A kernel of {size} pixels is too large for this photo: at most {limit} fit.")
    return size


def _as_tensor(image: NDArray[Any]) -> Tensor:
    """(H, W), (H, W, 1) or (H, W, 3) of any permitted type -> (1, C, H, W) float32 in [0, 1]."""
    values = np.asarray(image)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3) or values.dtype.kind not in "uf":
        raise PhotoError(
            f"A photo is an array (H, W), (H, W, 1) or (H, W, 3) of uint8, uint16 or floating point in [0, 1]; "
            f"this is {np.asarray(image).shape} of {values.dtype}. Take transparency off first."
        )
    if min(values.shape[:2]) < MINIMUM_SIDE:
        raise PhotoError(
            f"The picture is {values.shape[1]}x{values.shape[0]} pixels. Each side must have at least {MINIMUM_SIDE}."
        )
    scale = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
    pixels = values.astype(np.float32) / np.float32(scale)
    if not np.isfinite(pixels).all():
        raise PhotoError("The photo contains values that are not numbers.")
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def _as_float(values: Tensor, image: NDArray[Any]) -> NDArray[np.float32]:
    """(1, C, H, W) -> the shape of `image`."""
    return values[0].permute(1, 2, 0).cpu().numpy().reshape(np.asarray(image).shape)


def _as_array(restored: Tensor, image: NDArray[Any]) -> NDArray[Any]:
    """(1, C, H, W) -> the shape and type of `image`."""
    pixels = _as_float(restored.clamp(0, 1), image)
    dtype = np.asarray(image).dtype
    if dtype.kind == "u":
        top = np.iinfo(dtype).max
        return np.rint(pixels.astype(np.float64) * top).astype(dtype)
    return pixels.astype(dtype)
