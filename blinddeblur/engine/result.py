"""What comes out of a restoration: of one photo, and of a sequence of frames."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Restored:
    """What the results of a photo and of a sequence have in common.

    Attributes:
        image: the restored picture, in the shape and type of what was given.
        kernel: (K, K) float32, not negative, sums to 1, a true convolution kernel; frames share it.
        sigma: standard deviation of the noise of the photo or of a frame, in [0, 1].
        residual: root mean square of what the restored picture, blurred again, leaves of the photo, or of the frames
            without their tilts, in [0, 1].
        sharp: whether no blur was found: `image` is then what was given, or the frames without their tilts.
        warnings: sentences on what should be looked at before the result is trusted.
        seconds: that the whole took.
        method, prior, checksum, seed, steps: how it was made; checksum is the sha256 of the image prior's weights.
    """

    image: NDArray[Any]
    kernel: NDArray[np.float32]
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


@dataclass(frozen=True)
class Result(Restored):
    """A restored photo and what was found out on the way.

    Attributes:
        confidence: the probability that the restored photo is better than the photo, from 0 to 1; None for a kernel
            that is given, for blinddps, and where the photo comes back unchanged.
        expected_gain: by how much, in dB; None likewise.
        hopeless: whether there is blur, but none of the kernels that could be its own promised to make the photo
            better: `image` is then what was given.
        kernel_prior: of blinddps; None for the other methods.
        kernel_map: (R, C, K, K) float32, kernels at the nodes of an even grid from corner to corner of the photo, where
            the blur varies over the frame: `kernel` is then the one that did not suffice. None where one serves.
        samples: (N, H, W[, C]), sharp images that all explain the photo, otherwise like `image`; None if none were
            asked for, or if they were handed over one by one.
        uncertainty: (H, W[, C]) float32 in [0, 1], the standard deviation of the error that `image` is expected to
            have; None if it was not asked for.
    """

    confidence: float | None = None
    expected_gain: float | None = None
    hopeless: bool = False
    kernel_prior: str | None = None
    kernel_map: NDArray[np.float32] | None = None
    samples: NDArray[Any] | None = None
    uncertainty: NDArray[np.float32] | None = None

    @property
    def unchanged(self) -> bool:
        """Whether `image` is what was given."""
        return self.sharp or self.hopeless


@dataclass(frozen=True)
class SequenceResult(Restored):
    """A restored scene and what was found out on the way.

    Attributes:
        tilts: (N, 2, h, w) float32, row and column displacement in pixels at the centres of square cells: a frame
            shows at p what the image shows at p + tilt(p), blurred. Of many frames their mean is zero: it cannot be
            told from the scene's own shape.
        spacing: side of the cells in pixels; 1 for blinddps.
        weights: (N,) float32, how much each frame counts; they sum to 1.
    """

    tilts: NDArray[np.float32]
    spacing: int
    weights: NDArray[np.float32]
