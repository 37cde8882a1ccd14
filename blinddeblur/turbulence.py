"""Frames seen through turbulence -> one sharp image: register them, fuse them, take the blur away.

Works on arrays, prints nothing and touches no files but the weights; the command line and the Python interface
share it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blinddeblur.engine import Engine, Progress, find_device
from blinddeblur.errors import PhotoError, UsageError
from blinddeblur.physics.atmosphere import short_exposure_kernel
from blinddeblur.physics.noise import estimate_sigma
from blinddeblur.pixels import Pixels
from blinddeblur.priors.tilt import KolmogorovTilt
from blinddeblur.samplers import registration
from blinddeblur.samplers.schedule import Step
from blinddeblur.samplers.tilt_step import CELL
from blinddeblur.settings import SequenceSettings, Settings

STRENGTH = 5.0  # D / r0 that fields are expected from: more than most, so that no field is held back
CORRELATION_LENGTH = 16.0  # pixels
NOISE_FLOOR = 0.01  # of the registration: what interpolation and blur that differs leave


@dataclass(frozen=True)
class SequenceResult:
    """The restored scene and what was found out on the way.

    Attributes:
        image: the restored image, in the shape and type of a frame.
        kernel: (K, K) float32, the blur that all frames share, sums to 1.
        tilts: (N, 2, h, w) float32, row and column displacement in pixels at the centres of cells of `spacing` pixels:
            a frame shows at p what the image shows at p + tilt(p). Their mean over the frames is zero: it cannot be
            told from the scene's own shape.
        spacing: in pixels.
        weights: (N,) float32, how much each frame counts; they sum to 1.
        sigma: standard deviation of the noise of a frame, in [0, 1].
        residual: root mean square of what the image, blurred again, leaves of the fused frames, in [0, 1].
        sharp: whether no blur was found.
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
    """Frames as tensors (1, C, H, W) on the device, made when they are asked for."""

    def __init__(self, arrays: Sequence[NDArray[Any]], device: torch.device) -> None:
        if not arrays:
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
        self._photos = [Pixels(array, device, grey=self.channels == 1) for array in arrays]

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self._photos[index].whole()


@dataclass
class TurbulenceEngine:
    """Restores one sequence after the other with the same settings.

    Raises:
        UsageError: settings that make no sense, or a device that is not there.
        WeightsError: a prior's weights are missing or damaged.
    """

    settings: SequenceSettings = field(default_factory=SequenceSettings)

    def __post_init__(self) -> None:
        self.device = find_device(self.settings.device)

    def restore(
        self,
        frames: Sequence[NDArray[Any]],
        progress: Progress = lambda stage, done, total: None,
        callback: Callable[[Step], None] = lambda step: None,
    ) -> SequenceResult:
        """Restore the scene behind frames of one shape and type."""
        start = time.monotonic()
        seen = Frames(frames, self.device)
        sigma = self.settings.sigma
        if sigma is None:
            sigma = estimate_sigma(seen[0])
        if self.settings.method == "blinddps" and len(seen) > 1:
            raise UsageError("blinddps restores one frame. Give one, or choose the method fast.")
        with torch.inference_mode():
            grey = _Grey(seen)
            noise = max(1.5 * sigma, NOISE_FLOOR)
            prior = KolmogorovTilt(STRENGTH, CORRELATION_LENGTH)
            tilts = registration.register(grey, prior, noise, lambda d, t: progress("registration", d, t))
            weights = tilts.new_ones(len(seen))
            z = registration.fused(seen, tilts, weights, registration.median(grey), noise)
            z = registration.fused(seen, tilts, weights, z.mean(dim=1, keepdim=True), noise)
        kernel = self.settings.kernel
        if kernel is None:
            kernel = short_exposure_kernel(1.0)
        engine = Engine(
            Settings(prior=self.settings.prior, kernel=kernel, sigma=sigma / len(seen) ** 0.5, device=str(self.device))
        )
        fused = z[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy()
        result = engine.restore(fused, progress, callback)
        like = Pixels(np.zeros_like(frames[0]), self.device, grey=seen.channels == 1)
        like.write(0, torch.from_numpy(result.image.transpose(2, 0, 1).copy())[None])
        return SequenceResult(
            image=like.array,
            kernel=result.kernel,
            tilts=tilts.cpu().numpy(),
            spacing=CELL,
            weights=np.full(len(seen), 1 / len(seen), np.float32),
            sigma=sigma,
            residual=result.residual,
            sharp=result.sharp,
            warnings=result.warnings,
            seconds=time.monotonic() - start,
            method=self.settings.method,
            prior=result.prior,
            checksum=result.checksum,
            seed=self.settings.seed,
            steps=self.settings.effective_steps,
        )


class _Grey(Sequence[Tensor]):
    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self._frames[index].mean(dim=1, keepdim=True)


def stabilised(frame: NDArray[Any], tilt: NDArray[np.float32], spacing: int = CELL) -> NDArray[Any]:
    """A frame with its tilt taken away, in its shape and type.

    Args:
        frame: as TurbulenceEngine.restore takes it.
        tilt: (2, h, w), of SequenceResult.tilts.
        spacing: of SequenceResult.
    """
    photo = Pixels(frame, torch.device("cpu"))
    still = photo.like()
    still.write(0, registration.without_tilt(photo.whole(), torch.from_numpy(tilt)[None]))
    return still.array
