"""Frames seen through turbulence -> one sharp image: register them, refine tilts and blur together, take both away.

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

from blinddeblur.engine.pipeline import NO_BLUR, Engine, Progress, given_kernel, in_tiles, informative_crop, load
from blinddeblur.engine.pixels import Pixels
from blinddeblur.errors import PhotoError, UsageError
from blinddeblur.estimation.noise import estimate_sigma
from blinddeblur.estimation.search import largest_kernel
from blinddeblur.estimation.sharpness import is_sharp
from blinddeblur.physics.atmosphere import SIZE, Blurs, round_blurs
from blinddeblur.physics.convolution import blur, extend
from blinddeblur.physics.tilt import warp
from blinddeblur.priors.guided_diffusion import linear_alpha_bar
from blinddeblur.priors.kolmogorov import KolmogorovTilt
from blinddeblur.progress import Step
from blinddeblur.samplers import blinddps_turbulence
from blinddeblur.settings import SequenceSettings, Settings
from blinddeblur.tiles import Tile, evenly
from blinddeblur.turbulence import refinement, registration
from blinddeblur.turbulence.tilt_step import CELL

STRENGTH = 5.0  # D / r0 that many frames are expected to show: more than most do, so that no field is held back
BLINDDPS_STRENGTH = 2.0  # that of blinddps: tilts of 1.2 pixels (root mean square), about those of the paper
CORRELATION_LENGTH = 16.0  # pixels
FEW_FRAMES = 3  # from which on noise shows in how frames differ; blur that differs adds up to a tenth to it, so
HIDDEN = 1.5  # times what a single frame shows is what a codec has hidden there
NOISE_FRAMES = 5  # whose noise stands for that of all
ESTIMATION_SIDE = 512  # pixels of the part of large frames on which the blur is estimated
BLINDDPS_SIDE = 512  # pixels: blinddps takes the gradient through a network that sees the whole frame
NETWORK_UNIT = 2.5  # pixels that are 1 to a network of tilts: where the fields of the paper end
UNLIKE = (3.0, 0.04)  # a frame differs from the rest by so many times what is usual, and by this much


@dataclass(frozen=True)
class SequenceResult:
    """The restored scene and what was found out on the way.

    Attributes:
        image: the restored image, in the shape and type of a frame.
        kernel: (K, K) float32, the blur that the frames share, not negative, sums to 1.
        tilts: (N, 2, h, w) float32, row and column displacement in pixels at the centres of square cells: a frame
            shows at p what the image shows at p + tilt(p), blurred. Of many frames their mean is zero: it cannot be
            told from the scene's own shape.
        spacing: side of the cells in pixels; 1 for blinddps.
        weights: (N,) float32, how much each frame counts; they sum to 1.
        sigma: standard deviation of the noise of a frame, in [0, 1].
        residual: root mean square of what the image, blurred again, leaves of the frames without their tilts, in
            [0, 1].
        sharp: whether no blur was found: `image` is then the frames without their tilts, or the only frame.
        warnings: sentences on what should be looked at before the result is trusted.
        seconds: that the whole took.
        method, prior, checksum, seed, steps: how it was made; checksum is the sha256 of the image prior's weights.
    """

    image: NDArray[Any]
    kernel: NDArray[np.float32]
    tilts: NDArray[np.float32]
    spacing: int
    weights: NDArray[np.float32]
    sigma: float
    residual: float
    sharp: bool
    warnings: tuple[str, ...]
    seconds: float
    method: str
    prior: str
    checksum: str | None
    seed: int
    steps: int


class Frames(Sequence[Tensor]):
    """Frames as tensors (1, C, H, W) on the device, made when they are asked for; grey as (1, 1, H, W).

    Raises:
        UsageError: there are none.
        PhotoError: one that is no picture, or unlike the others in shape or type.
    """

    def __init__(self, arrays: Sequence[NDArray[Any]], device: torch.device) -> None:
        if len(arrays) == 0:
            raise UsageError("There are no frames. Give at least one.")
        first = np.asarray(arrays[0])
        for index, array in enumerate(arrays):
            if np.shape(array) != first.shape or np.asarray(array).dtype != first.dtype:
                raise PhotoError(
                    f"All frames must have one size and type: frame {index} is {np.shape(array)} of "
                    f"{np.asarray(array).dtype}, the first {first.shape} of {first.dtype}."
                )
        photos = [Pixels(array, device) for array in arrays]
        self.channels = max(photo.channels for photo in photos)
        self._photos = [Pixels(photo.array, device, grey=self.channels == 1) for photo in photos]
        self.height, self.width = photos[0].height, photos[0].width

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self._photos[index].whole()

    def image(self, x: Tensor) -> Pixels:
        """An image (1, C, H, W) in the shape and type of the frames."""
        like = self._photos[0].like()
        like.write(0, x)
        return like


class _Grey(Sequence[Tensor]):
    """The mean of the channels of a part of each frame."""

    def __init__(self, frames: Frames, part: Tile) -> None:
        self._frames, self._part = frames, part

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self._part.of(self._frames[index]).mean(dim=1, keepdim=True)


class _Found(NamedTuple):
    """What a method found of a sequence."""

    image: Pixels
    kernel: Tensor
    tilts: Tensor
    spacing: int
    weights: Tensor
    sigma: float
    residual: float
    sharp: bool
    warnings: tuple[str, ...]


@dataclass
class TurbulenceEngine:
    """Restores one sequence after the other with the same settings; loads each prior once.

    Raises:
        UsageError: settings that make no sense, or a device that is not there.
        WeightsError: a prior's weights are missing or damaged.
    """

    settings: SequenceSettings = field(default_factory=SequenceSettings)

    def __post_init__(self) -> None:
        settings = self.settings
        given = np.ones((1, 1), np.float32)  # what it deblurs has a known blur, so that it needs no prior of kernels
        self._engine = Engine(Settings(prior=settings.prior, device=settings.device, kernel=given))
        self.device, self.prior = self._engine.device, self._engine.prior
        if settings.method == "blinddps":
            self.kernel_prior = load("kernel", "kernel", self.device)
            kolmogorov = KolmogorovTilt(BLINDDPS_STRENGTH, CORRELATION_LENGTH)
            self.tilt_prior = (
                kolmogorov if settings.tilt_prior is None else load(settings.tilt_prior, "tilt", self.device)
            )
            # A network has learned fields on the scale of the paper, where 2.5 pixels are 1.
            self.tilt_unit = getattr(self.tilt_prior, "unit", NETWORK_UNIT)

    def restore(
        self,
        frames: Sequence[NDArray[Any]],
        progress: Progress = lambda stage, done, total: None,
        callback: Callable[[Step], None] = lambda step: None,
    ) -> SequenceResult:
        """Restore the scene behind the frames.

        Args:
            frames: N of (H, W), (H, W, 1) or (H, W, 3), in the order of time: sRGB-encoded, uint8, uint16 or floating
                point in [0, 1], all of one shape and type.
            progress: told how far the work is.
            callback: told of every step of the sampler, with tensors, and of what was before (index -1) and after; of
                large frames it shows the part that tells most.

        Raises:
            UsageError: no frames, or more or larger ones than the method takes.
            PhotoError: a frame that is no picture, too small, or unlike the others in shape or type.
            KernelError: the kernel does not fit into a frame.
            EstimationError: no usable answer came out.
        """
        start = time.monotonic()
        seen = Frames(frames, self.device)
        settings = self.settings
        found = (self._blinddps if settings.method == "blinddps" else self._fast)(seen, progress, callback)
        return SequenceResult(
            image=np.array(frames[0]) if found.sharp and len(seen) == 1 else found.image.array,
            kernel=found.kernel.cpu().numpy().astype(np.float32),
            tilts=found.tilts.cpu().numpy(),
            spacing=found.spacing,
            weights=found.weights.cpu().numpy(),
            sigma=found.sigma,
            residual=found.residual,
            sharp=found.sharp,
            warnings=found.warnings,
            seconds=time.monotonic() - start,
            method=settings.method,
            prior=self.prior.name,
            checksum=self.prior.checksum,
            seed=settings.seed,
            steps=settings.effective_steps,
        )

    @torch.inference_mode()
    def _fast(self, seen: Frames, progress: Progress, callback: Callable[[Step], None]) -> _Found:
        steps = self.settings.effective_steps
        sigma = _noise(seen) if self.settings.sigma is None else self.settings.sigma
        blurs = self._blurs(seen, sigma)
        noise = sigma / seen.channels**0.5  # of the mean of the channels
        grey = _Grey(seen, Tile(0, 0, seen.height, seen.width))
        prior = KolmogorovTilt(STRENGTH, CORRELATION_LENGTH)
        tilts = registration.register(grey, prior, noise, lambda done, total: progress("registration", done, total))
        weights = registration.lucky_weights(grey, tilts, noise)
        if self.settings.sigma is None and len(seen) >= FEW_FRAMES:
            moving = registration.noise_between(grey, tilts, weights, noise)
            if moving > HIDDEN * noise:
                noise, sigma = moving, moving * seen.channels**0.5
        part = _telling_part(seen)
        kernel, tilts = self._blur_and_tilts(seen, part, tilts, weights, blurs, prior, noise, progress, callback)
        still = registration.still(seen, tilts, weights, noise)
        unlike = registration.misfits(grey, tilts, still.mean(dim=1, keepdim=True))
        restored, rest, sharp = still, 0.0, float(kernel.max()) > NO_BLUR
        if not sharp:
            left = sigma * float(weights.square().sum().sqrt())
            deblurred, rest = self._engine.deblur(_pixels(still), kernel, left, progress)
            restored = deblurred.whole()
        callback(Step(steps, steps, part.of(restored), kernel))
        return _Found(seen.image(restored), kernel, tilts, CELL, weights, sigma, rest, sharp, _warnings(unlike, sharp))

    def _blurs(self, seen: Frames, sigma: float) -> Blurs:
        """Those to choose from: the one that is given, none for a frame that is sharp already, or round ones."""
        if self.settings.kernel is None and not (len(seen) == 1 and is_sharp(seen[0], sigma)):
            return round_blurs(min(SIZE, largest_kernel((seen.height, seen.width))), self.device)
        point = np.ones((1, 1), np.float32)
        known = given_kernel(point if self.settings.kernel is None else self.settings.kernel, _pixels(seen[0]))
        return Blurs(known[None], known.new_zeros(1))

    def _blur_and_tilts(
        self,
        seen: Frames,
        part: Tile,
        tilts: Tensor,
        weights: Tensor,
        blurs: Blurs,
        prior: KolmogorovTilt,
        noise: float,
        progress: Progress,
        callback: Callable[[Step], None],
    ) -> tuple[Tensor, Tensor]:
        """The kernel and better tilts; of large frames only the kernel, on a part of them."""
        settings, steps = self.settings, self.settings.effective_steps

        def report(step: Step) -> None:
            progress("tilt and blur", step.index + 1, step.total)
            callback(step)

        whole = (part.height, part.width) == (seen.height, seen.width)
        callback(Step(-1, steps, part.of(seen[0]), torch.zeros_like(blurs.kernels[0])))
        side = self.prior.image_size
        kernel, better = refinement.sample(
            self.prior.denoise if side is None else in_tiles(self.prior, side),
            _Grey(seen, part),
            _cells(part).of(tilts),
            weights,
            blurs,
            prior,
            noise,
            steps,
            torch.Generator().manual_seed(settings.seed),
            report,
        )
        return kernel, better if whole else tilts

    def _blinddps(self, seen: Frames, progress: Progress, callback: Callable[[Step], None]) -> _Found:
        settings, height, width = self.settings, seen.height, seen.width
        if len(seen) > 1:
            raise UsageError(f"blinddps restores one frame, not {len(seen)}. Give one, or choose the method fast.")
        size = min(SIZE, largest_kernel((height, width)))
        image_side, tilt_side = self.prior.image_size, self.tilt_prior.image_size
        for side, needed in (
            (image_side or BLINDDPS_SIDE, max(blinddps_turbulence.sides(height, width, size, self.tilt_unit))),
            (tilt_side or BLINDDPS_SIDE, max(height, width) + size - 1),
        ):
            if needed > side:
                largest = max(height, width) - (needed - side)
                raise UsageError(
                    f"blinddps takes frames of up to {largest} pixels on a side with these priors; this one has "
                    f"{width}x{height}. Cut a part out, or choose the method fast."
                )
        y, steps = seen[0], settings.effective_steps

        def report(step: Step) -> None:
            progress("blinddps", step.index + 1, step.total)
            callback(step)

        callback(Step(-1, steps, y, y.new_zeros(size, size)))
        found = blinddps_turbulence.sample(
            self.prior.predict,
            self.kernel_prior.predict,
            self.tilt_prior.predict,
            linear_alpha_bar(),
            y.expand(-1, self.prior.channels, -1, -1),
            size,
            self.tilt_unit,
            steps=steps,
            image_side=image_side,
            tilt_side=tilt_side,
            generator=torch.Generator().manual_seed(settings.seed),
            callback=report,
        )
        image = found.image.mean(dim=1, keepdim=True) if seen.channels == 1 else found.image
        callback(Step(steps, steps, image, found.kernel))
        again = blur(extend(warp(image, found.tilt), size // 2), found.kernel)
        rest = float((again - y).square().mean().sqrt())
        weights = y.new_ones(1)
        return _Found(seen.image(image), found.kernel, found.tilt, 1, weights, _noise(seen), rest, False, ())


def stabilised(frame: NDArray[Any], tilt: NDArray[np.float32], spacing: int) -> NDArray[Any]:
    """A frame with its tilt taken away, in its shape and type.

    Args:
        frame: as TurbulenceEngine.restore takes it.
        tilt: (2, h, w), of SequenceResult.tilts.
        spacing: of SequenceResult.
    """
    photo = Pixels(frame, torch.device("cpu"))
    still = photo.like()
    still.write(0, registration.without_tilt(photo.whole(), torch.from_numpy(tilt)[None], spacing))
    return still.array


def _telling_part(seen: Frames) -> Tile:
    """Of the frames, where blur and tilt are refined: the whole if they are small. It begins where cells do."""
    middle = _pixels(seen[len(seen) // 2])
    part = informative_crop(middle, ESTIMATION_SIDE, Tile(0, 0, seen.height, seen.width))
    return replace(part, top=part.top // CELL * CELL, left=part.left // CELL * CELL)


def _cells(part: Tile) -> Tile:
    """The cells of a part that begins where cells do."""
    return Tile(part.top // CELL, part.left // CELL, -(-part.height // CELL), -(-part.width // CELL))


def _noise(frames: Frames) -> float:
    """Standard deviation of the noise of a frame: the median of some, spread evenly."""
    chosen = evenly(len(frames) - 1, min(len(frames), NOISE_FRAMES))
    return float(np.median([estimate_sigma(frames[i]) for i in chosen]))


def _pixels(image: Tensor) -> Pixels:
    """(1, C, H, W) as a photo of floating point."""
    values = image[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy()
    return Pixels(values, image.device, grey=image.shape[1] == 1)


def _warnings(misfits: Tensor, sharp: bool) -> tuple[str, ...]:
    if sharp and len(misfits) == 1:
        return ("This frame is sharp already and is left as it is. Give a --kernel to deblur it all the same.",)
    usual = float(misfits.median())
    unlike = [i for i, misfit in enumerate(misfits.tolist()) if misfit > max(UNLIKE[0] * usual, UNLIKE[1])]
    if not unlike:
        return ()
    which = f"Frame {unlike[0]} is" if len(unlike) == 1 else f"Frames {', '.join(map(str, unlike))} are"
    return (
        f"{which} hardly like the others (counted from 0). If the scene or the light is another there, leave them out.",
    )
