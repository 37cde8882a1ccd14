"""Frames seen through turbulence -> one sharp scene: register them, refine tilts and blur together, take both away.

Works on arrays, prints nothing and touches no files but the weights; the command line and the Python interface
share it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blinddeblur.devices import find_device
from blinddeblur.engine import doubts
from blinddeblur.engine.crops import informative_crop
from blinddeblur.engine.frames import Frames, Grey
from blinddeblur.engine.known_kernel import given_kernel
from blinddeblur.engine.pixels import Pixels
from blinddeblur.engine.result import SequenceResult
from blinddeblur.engine.tiled import TiledRestoration
from blinddeblur.errors import UsageError
from blinddeblur.estimation.noise import estimate_sigma
from blinddeblur.estimation.sharpness import NO_BLUR, is_sharp
from blinddeblur.physics import kernels
from blinddeblur.physics.atmosphere import SIZE, Blurs, round_blurs
from blinddeblur.physics.convolution import blur, extend
from blinddeblur.physics.kernel_map import KernelMap
from blinddeblur.physics.tilt import warp
from blinddeblur.priors.kolmogorov import CORRELATION_LENGTH, NETWORK_UNIT, TYPICAL_STRENGTH, KolmogorovTilt
from blinddeblur.priors.loading import load_prior
from blinddeblur.progress import Callback, Progress, Step, both, unheard, unseen
from blinddeblur.samplers import blinddps_turbulence
from blinddeblur.settings import SequenceSettings, Settings
from blinddeblur.tiles import Tile, evenly
from blinddeblur.turbulence import refinement, registration
from blinddeblur.turbulence.tilt_step import CELL

STRENGTH = 5.0  # D / r0 that many frames are expected to show: more than most do, so that no field is held back
FEW_FRAMES = 3  # frames from which on noise shows in how they differ; blur that differs adds up to a tenth to it
HIDDEN = 1.5  # times the noise of a single frame that frames must differ by before a codec is held to have hidden it
NOISE_FRAMES = 5  # frames whose noise stands for that of all
ESTIMATION_SIDE = 512  # pixels a side of the part of large frames on which the blur is estimated


class _Found(NamedTuple):
    """What a method found of a sequence, as in SequenceResult."""

    image: Pixels
    kernel: Tensor
    tilts: Tensor
    spacing: int
    weights: Tensor
    sigma: float
    residual: float
    sharp: bool = False
    warnings: tuple[str, ...] = ()


@dataclass
class TurbulenceEngine:
    """Restores one sequence after the other with the same settings; loads each prior once.

    Attributes:
        settings: of the restoration.
        estimation_side: of the part of large frames on which the blur is estimated, in pixels.

    Raises:
        UsageError: settings that make no sense, or a device that is not there.
        WeightsError: a prior's weights are missing or damaged.
    """

    settings: SequenceSettings = field(default_factory=SequenceSettings)
    estimation_side: int = ESTIMATION_SIDE

    def __post_init__(self) -> None:
        settings = self.settings
        self.device = find_device(settings.device)
        self.prior = load_prior(settings.effective_prior, self.device, kind="image")
        if settings.traits.joint:
            self.kernel_prior = load_prior("kernel", self.device, kind="kernel")
            self.tilt_prior = (
                KolmogorovTilt(TYPICAL_STRENGTH, CORRELATION_LENGTH)
                if settings.tilt_prior is None
                else load_prior(settings.tilt_prior, self.device, kind="tilt")
            )
            self.tilt_unit = getattr(self.tilt_prior, "unit", NETWORK_UNIT)

    def restore(
        self,
        frames: Sequence[NDArray[Any]],
        progress: Progress = unheard,
        callback: Callback = unseen,
    ) -> SequenceResult:
        """Restore the scene behind the frames.

        Args:
            frames: N of (H, W), (H, W, 1) or (H, W, 3), in the order of time: sRGB-encoded, uint8, uint16 or floating
                point in [0, 1], all of one shape and type.
            callback: told of every step of the sampler, with tensors, and of what was before (index -1) and after; of
                large frames it shows the part that tells most.

        Raises:
            UsageError: no frames, or more or larger ones than the method takes.
            PhotoError: a frame that is no picture, too small, or unlike the others in shape or type.
            KernelError: the kernel does not fit into a frame.
            EstimationError: no usable answer came out.
        """
        start, settings = time.monotonic(), self.settings
        seen = Frames(frames, self.device)
        found = (self._jointly if settings.traits.joint else self._step_by_step)(seen, progress, callback)
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
    def _step_by_step(self, seen: Frames, progress: Progress, callback: Callback) -> _Found:
        """The default method: tilts, then blur and better tilts, then the scene."""
        steps = self.settings.effective_steps
        sigma = _noise(seen) if self.settings.sigma is None else self.settings.sigma
        blurs = self._blurs(seen, sigma)
        noise = sigma / seen.channels**0.5  # of the mean of the channels
        grey = Grey(seen, Tile(0, 0, seen.height, seen.width))
        prior = KolmogorovTilt(STRENGTH, CORRELATION_LENGTH)
        tilts = registration.register(grey, prior, noise, lambda done, total: progress("registration", done, total))
        weights = registration.lucky_weights(grey, tilts, noise)
        if self.settings.sigma is None and len(seen) >= FEW_FRAMES:
            moving = registration.noise_between(grey, tilts, weights, noise)
            if moving > HIDDEN * noise:
                noise, sigma = moving, moving * seen.channels**0.5
        part = self._telling_part(seen)
        kernel, tilts = self._blur_and_tilts(seen, part, tilts, weights, blurs, prior, noise, progress, callback)
        still = registration.still(seen, tilts, weights, noise)
        unlike = registration.misfits(grey, tilts, still.mean(dim=1, keepdim=True))
        restored, rest, sharp = still, 0.0, float(kernel.max()) > NO_BLUR
        if not sharp:
            left = sigma * float(weights.square().sum().sqrt())
            deblurred, rest = TiledRestoration(self.prior, Settings()).restore(
                _pixels(still), KernelMap.uniform(kernel), left, progress
            )
            restored = deblurred.whole()
        callback(Step(steps, steps, part.of(restored), kernel))
        warnings = doubts.of_frames(unlike, sharp)
        return _Found(seen.image(restored), kernel, tilts, CELL, weights, sigma, rest, sharp, warnings)

    def _blurs(self, seen: Frames, sigma: float) -> Blurs:
        """Those to choose from: the one that is given, none for a frame that is sharp already, or round ones."""
        first, kernel = _pixels(seen[0]), self.settings.kernel
        if kernel is None and not (len(seen) == 1 and is_sharp(seen[0], sigma)):
            return round_blurs(min(SIZE, kernels.largest((seen.height, seen.width))), self.device)
        known = torch.ones(1, 1, device=self.device) if kernel is None else given_kernel(kernel, first)
        return Blurs(known[None], known.new_zeros(1))

    def _telling_part(self, seen: Frames) -> Tile:
        """Where blur and tilt are refined: the whole of small frames. It begins where cells do."""
        part = informative_crop(_pixels(seen[len(seen) // 2]), self.estimation_side)
        return replace(part, top=part.top // CELL * CELL, left=part.left // CELL * CELL)

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
        callback: Callback,
    ) -> tuple[Tensor, Tensor]:
        """The kernel and better tilts; of large frames only the kernel, on a part of them."""
        steps = self.settings.effective_steps
        callback(Step(-1, steps, part.of(seen[0]), torch.zeros_like(blurs.kernels[0])))
        cells = Tile(part.top // CELL, part.left // CELL, -(-part.height // CELL), -(-part.width // CELL))
        kernel, better = refinement.estimate(
            self.prior.denoise,
            Grey(seen, part),
            cells.of(tilts),
            weights,
            blurs,
            prior,
            noise,
            steps,
            torch.Generator().manual_seed(self.settings.seed),
            both("tilt and blur", progress, callback),
        )
        whole = (part.height, part.width) == (seen.height, seen.width)
        return kernel, better if whole else tilts

    def _jointly(self, seen: Frames, progress: Progress, callback: Callback) -> _Found:
        """Image, kernel and tilt of one frame together: the paper's method."""
        settings, height, width = self.settings, seen.height, seen.width
        if len(seen) > 1:
            raise UsageError(
                f"{settings.method} restores one frame, not {len(seen)}. Give one, or choose the method fast."
            )
        size = min(SIZE, kernels.largest((height, width)))
        image_side, tilt_side = self.prior.image_size, self.tilt_prior.image_size
        for side, needed in (
            (image_side, max(blinddps_turbulence.sides(height, width, size, self.tilt_unit))),
            (tilt_side, max(height, width) + size - 1),
        ):
            beyond = needed - (side or settings.traits.tile)  # the gradient is taken through the whole frame at once
            if beyond > 0:
                raise UsageError(
                    f"{settings.method} takes frames of up to {max(height, width) - beyond} pixels on a side with "
                    f"these priors; this one has {width}x{height}. Cut a part out, or choose the method fast."
                )
        y, steps = seen[0], settings.effective_steps
        callback(Step(-1, steps, y, y.new_zeros(size, size)))
        image, kernel, tilt = blinddps_turbulence.sample(
            self.prior.predict,
            self.kernel_prior.predict,
            self.tilt_prior.predict,
            y.expand(-1, max(self.prior.channels, y.shape[1]), -1, -1),
            size,
            self.tilt_unit,
            steps=steps,
            image_side=image_side,
            tilt_side=tilt_side,
            generator=torch.Generator().manual_seed(settings.seed),
            callback=both(settings.method, progress, callback),
        )
        image = image.mean(dim=1, keepdim=True) if seen.channels == 1 else image
        callback(Step(steps, steps, image, kernel))
        again = blur(extend(warp(image, tilt), size // 2), kernel)
        rest = float((again - y).square().mean().sqrt())
        return _Found(seen.image(image), kernel, tilt, 1, y.new_ones(1), _noise(seen), rest)


def stabilised(frame: NDArray[Any], tilt: NDArray[np.float32], spacing: int) -> NDArray[Any]:
    """A frame with its tilt taken away, in its shape and type.

    Args:
        frame: as TurbulenceEngine.restore takes it.
        tilt: (2, h, w), one of SequenceResult.tilts.
        spacing: as in SequenceResult.
    """
    photo = Pixels(frame, torch.device("cpu"))
    still = photo.like()
    still.write(0, registration.without_tilt(photo.whole(), torch.from_numpy(tilt)[None], spacing))
    return still.array


def _noise(frames: Frames) -> float:
    """Standard deviation of the noise of a frame: the median of some, spread evenly."""
    chosen = evenly(len(frames) - 1, min(len(frames), NOISE_FRAMES))
    return float(np.median([estimate_sigma(frames[i]) for i in chosen]))


def _pixels(image: Tensor) -> Pixels:
    """(1, C, H, W) as a photo of floating point."""
    values = image[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy()
    return Pixels(values, image.device, grey=image.shape[1] == 1)
