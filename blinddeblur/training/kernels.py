"""Random blur kernels: what the kernel prior learns from, and blur for tests.

Written from the physics. Camera shake is a path of the camera's pointing during the exposure: hand tremor is a
damped, randomly driven motion with occasional jerks (Boracchi and Foi 2012; Delbracio and Sapiro 2015), of which
the sensor integrates the time spent at each point. A subject that moves draws a straight or gently curved line.
Defocus is a disc, or the polygon of the aperture blades; diffraction and resampling add a small Gaussian to
everything.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

SHARES = {"shake": 0.55, "line": 0.2, "defocus": 0.12, "gaussian": 0.13}  # camera shake is what people bring
FINER = 4  # sub-pixels a side while a kernel is drawn


def random_kernel(rng: np.random.Generator, size: int = 63, extent: float | None = None) -> NDArray[np.float32]:
    """One kernel of a random kind.

    Args:
        rng: where the randomness comes from.
        size: side of the array, odd.
        extent: how far the blur reaches in pixels; by default drawn log-uniformly from 3 to 0.9 of the size.

    Returns:
        (size, size) float32, not negative, sums to 1, centre of mass within a pixel of the middle.
    """
    if extent is None:
        extent = float(np.exp(rng.uniform(np.log(3), np.log(0.9 * size))))
    kind = rng.choice(list(SHARES), p=list(SHARES.values()))
    softness = float(rng.uniform(0.3, 1.0))  # pixels; optics and the pixel's own area
    if kind == "gaussian":
        return gaussian(
            size, extent / 4, float(rng.uniform(1, 2.5)), float(rng.uniform(0, math.pi)), rng.uniform(-0.5, 0.5, 2)
        )
    if kind == "defocus":
        return defocus(size, extent / 2, int(rng.integers(5, 9)) if rng.random() < 0.4 else 0, softness, rng)
    path = shake(rng) if kind == "shake" else line(rng)
    return exposed(path, size, extent, softness, rng.uniform(-0.5, 0.5, 2))


def shake(rng: np.random.Generator, samples: int = 1000) -> NDArray[np.float64]:
    """The path of a hand-held camera during one exposure: (samples, 2), of arbitrary scale.

    Velocity follows a damped random drive whose damping decides between straight streaks and tangles; jerks turn
    it abruptly; a restoring pull keeps the hand near its aim.
    """
    persistence = np.exp(rng.uniform(np.log(0.03), np.log(1.5)))  # of the velocity, in exposures
    pull = rng.uniform(0, 1.5) / persistence
    jerk_rate = rng.choice([0.0, rng.uniform(0.5, 4.0)])  # an exposure
    step = 1 / samples
    velocity = rng.normal(size=2)
    position = np.zeros(2)
    path = np.empty((samples, 2))
    drive = rng.normal(size=(samples, 2)) * math.sqrt(2 * step / persistence)
    jerks = rng.random(samples) < jerk_rate * step
    for i in range(samples):
        velocity = velocity * (1 - step / persistence) + drive[i] - pull * step * position
        if jerks[i]:
            angle = rng.uniform(0, 2 * math.pi)
            velocity = rng.uniform(0.3, 2.0) * np.array([math.cos(angle), math.sin(angle)])
        position = position + velocity * step
        path[i] = position
    return path


def line(rng: np.random.Generator, samples: int = 400) -> NDArray[np.float64]:
    """A straight or gently bent path at nearly constant speed: (samples, 2), of arbitrary scale."""
    t = np.linspace(-0.5, 0.5, samples)
    bend = rng.choice([0.0, rng.uniform(-0.6, 0.6)])
    along, across = t + rng.uniform(-0.4, 0.4) * t**2, bend * t**2
    angle = rng.uniform(0, math.pi)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.stack([along, across], axis=1) @ rotation.T


def exposed(
    path: NDArray[np.float64], size: int, extent: float, softness: float, shift: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The kernel of a path scaled to `extent` pixels, the time at each point integrated over the pixels.

    Args:
        path: (N, 2) at equal times.
        size: side of the array.
        extent: larger side of the box around the path, in pixels.
        softness: standard deviation of the Gaussian of optics and pixels, in pixels.
        shift: (row, column) of the centre of mass relative to the middle, in pixels.
    """
    span = max(np.ptp(path[:, 0]), np.ptp(path[:, 1]), 1e-9)
    scaled = path * (extent / span)
    points = (scaled - scaled.mean(axis=0) + shift + size / 2) * FINER
    fine = np.zeros((size * FINER, size * FINER))
    cells = np.floor(points).astype(int)
    inside = ((cells >= 0) & (cells < size * FINER)).all(axis=1)
    np.add.at(fine, (cells[inside, 0], cells[inside, 1]), 1.0)
    return _binned(fine, softness)


def defocus(size: int, radius: float, blades: int, softness: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """The image of a point out of focus: a disc, or a regular polygon for an aperture of `blades` blades."""
    positions = (np.arange(size * FINER) + 0.5) / FINER - size / 2
    shift, turn = rng.uniform(-0.5, 0.5, 2), rng.uniform(0, 2 * math.pi)
    rows, columns = positions[:, None] - shift[0], positions[None] - shift[1]
    distance = np.hypot(rows, columns)
    edge: NDArray[np.float64] | float = radius
    if blades:
        sector = (np.arctan2(rows, columns) + turn) % (2 * math.pi / blades) - math.pi / blades
        edge = radius * math.cos(math.pi / blades) / np.cos(sector)
    return _binned((distance <= edge).astype(np.float64), softness)


def gaussian(
    size: int, sigma: float, elongation: float = 1.0, angle: float = 0.0, shift: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """A Gaussian of standard deviation `sigma` pixels along its longer axis."""
    row_shift, column_shift = (0.0, 0.0) if shift is None else shift
    positions = np.arange(size) - size // 2
    rows, columns = positions[:, None] - row_shift, positions[None] - column_shift
    along = rows * math.sin(angle) + columns * math.cos(angle)
    across = rows * math.cos(angle) - columns * math.sin(angle)
    bell = np.exp(-0.5 * ((along / sigma) ** 2 + (across * elongation / sigma) ** 2))
    return (bell / bell.sum()).astype(np.float32)


def _binned(fine: NDArray[np.float64], softness: float) -> NDArray[np.float32]:
    """Soften a sub-pixel drawing, sum it over the pixels, and make it sum to 1."""
    soft = cv2.GaussianBlur(fine, (0, 0), softness * FINER, borderType=cv2.BORDER_CONSTANT)
    size = fine.shape[0] // FINER
    kernel = soft.reshape(size, FINER, size, FINER).sum(axis=(1, 3))
    return (kernel / kernel.sum()).astype(np.float32)
