"""Random blur kernels: what the kernel prior learns from, and blur for tests.

Written from the physics. Motion is a path of the image over the sensor during the exposure, and its kernel is the time
spent at each point (Boracchi and Foi 2012; Delbracio and Sapiro 2015). Defocus is the image of the aperture. Resampling
softens everything. What happens one after the other in an exposure adds up along one path; what happens at once is
convolved. docs/kernels.md shows and measures every kind.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from blinddeblur.errors import KernelError, UsageError

# Camera shake is what people bring; "mixed" and "double" are mostly camera shake too.
SHARES = {"shake": 0.45, "line": 0.15, "defocus": 0.1, "gaussian": 0.1, "mixed": 0.12, "double": 0.08}
LARGEST = 0.9  # extent of a kernel, as a share of the side of its array
FINER = 3  # sub-pixels a side while a kernel is drawn


def random_kernel(
    rng: np.random.Generator, size: int = 63, extent: float | None = None, kind: str | None = None
) -> NDArray[np.float32]:
    """One random blur kernel.

    Returns (size, size) float32, not negative, sums to 1, centre of mass within a pixel of the middle, nothing cut off.

    Args:
        rng: where the randomness comes from.
        size: side of the array, odd, at least 7.
        extent: how far the blur reaches in pixels, before softening: the larger side of the box around the
            path, the diameter of a defocus, five standard deviations of a Gaussian; above 0, at most 0.9 of the size.
            By default drawn log-uniformly from 3 up (from a third of a size below 9). A lopsided kernel that would
            not fit with its centre of mass in the middle is drawn smaller.
        kind: a key of SHARES; by default drawn with these probabilities.

    Raises:
        KernelError: the size is even or too small, or the extent does not fit it.
        UsageError: there is no such kind.
    """
    if size < 7 or size % 2 == 0:
        raise KernelError(f"A kernel cannot be drawn on {size} x {size} pixels. Give an odd size of 7 or more.")
    if extent is None:
        extent = math.exp(rng.uniform(math.log(min(3, size / 3)), math.log(LARGEST * size)))
    if not 0 < extent <= LARGEST * size:
        raise KernelError(
            f"A blur of {extent:g} pixels does not fit a kernel of size {size}. "
            f"Give an extent above 0 and up to {LARGEST * size:g}, or a larger size."
        )
    if kind is None:
        kind = random_kind(rng)
    if kind == "mixed":
        return _mixed(rng, size, extent)
    if kind in SHARES:
        return _simple(rng, kind, size, extent, rng.uniform(-0.5, 0.5, 2))
    raise UsageError(f"There is no kind of kernel called {kind!r}. Give one of {', '.join(SHARES)}.")


def random_kind(rng: np.random.Generator) -> str:
    """A key of SHARES, drawn with these probabilities."""
    return str(rng.choice(list(SHARES), p=list(SHARES.values())))


def shake(rng: np.random.Generator, samples: int = 3000) -> NDArray[np.float64]:
    """The path of a hand-held camera during one exposure: (samples, 2) at equal times, of arbitrary scale.

    Hand and camera are a damped oscillator, w'' + 2 zeta omega w' + omega^2 w = force, driven by the random firing of
    muscles and by occasional jerks (pressing the button). Slow low-damped ones draw arcs and loops, fast ones tangles;
    an aim that drifts pulls them out to streaks. The hand rests now and then, which leaves the bright spots.
    """
    steps = 1024  # of the motion; more than the fastest oscillation asks for
    omega = 2 * math.pi * math.exp(rng.uniform(math.log(0.15), math.log(3)))  # tremor of 8 to 12 Hz, 1/60 to 1/3 s
    zeta = math.exp(rng.uniform(math.log(0.1), math.log(1.5)))
    # The stationary answer to forces that repeat after two exposures, of which one is used: no run-in, no loop.
    force = rng.normal(size=(2 * steps, 2))
    jerks = rng.random(2 * steps) < rng.choice([0.0, rng.uniform(0.5, 4)]) / steps
    force[jerks] += math.sqrt(steps) * rng.normal(size=(int(jerks.sum()), 2))  # one outweighs the tremor of its time
    frequencies = math.pi * np.arange(steps + 1)[:, None]  # angular, per exposure
    response = 1 / (omega**2 - frequencies**2 + 2j * zeta * omega * frequencies)
    path = np.fft.irfft(np.fft.rfft(force, axis=0) * response, axis=0)[:steps]
    path /= path.std() + 1e-12
    path[:, 1] *= rng.uniform(0.2, 1)  # the wrist turns more easily about one axis
    drift = rng.choice([0.0, rng.exponential(3)]) * _direction(rng)
    path = path @ _rotation(rng) + np.linspace(-0.5, 0.5, steps)[:, None] * drift
    return _paced(path, rng, samples)


def line(rng: np.random.Generator, samples: int = 400) -> NDArray[np.float64]:
    """The path of a moving subject: (samples, 2) at equal times, straight or bent, steady or accelerated."""
    t = np.linspace(-0.5, 0.5, samples)
    bend = rng.choice([0.0, rng.uniform(-0.6, 0.6)])
    acceleration = rng.choice([0.0, rng.uniform(-0.9, 0.9)])  # below 1: it does not turn back
    return np.stack([t + acceleration * t**2, bend * t**2], axis=1) @ _rotation(rng)


def double(rng: np.random.Generator, samples: int = 4000) -> NDArray[np.float64]:
    """An exposure in two parts: (samples, 2) at equal times. A hand that jumps, or a flash before or after a trail."""
    first = int(samples * rng.uniform(0.15, 0.85))
    path = shake(rng, first) if rng.random() < 0.7 else line(rng, first)
    path = (path - path[-1]) / max(np.ptp(path, axis=0).max(), 1e-9)
    if rng.random() < 0.5:  # the flash freezes the end of the trail, or its start: time runs both ways
        return np.concatenate([path, np.zeros((samples - first, 2))])
    again = shake(rng, samples - first)
    again *= rng.uniform(0.1, 1) / max(np.ptp(again, axis=0).max(), 1e-9)
    return np.concatenate([path, again - again[0] + rng.uniform(0.2, 1.2) * _direction(rng)])


def exposed(
    path: NDArray[np.float64], size: int, extent: float, softness: float, shift: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The kernel of a path scaled to `extent` pixels, the time at each point integrated over the pixels.

    Raises KernelError where the softness alone fills the array.

    Args:
        path: (N, 2) at equal times.
        size: side of the array.
        extent: larger side of the box around the path, in pixels; less where the kernel would not fit.
        softness: standard deviation of the Gaussian of resampling, in pixels.
        shift: (row, column) of the centre of mass relative to the middle, in pixels.
    """
    centred = path - path.mean(axis=0)
    span, reach = np.ptp(path, axis=0).max(), np.abs(centred).max()
    scale = min(extent / max(span, 1e-9), _room(size, softness, shift) / max(reach, 1e-9))
    points = (centred * scale + shift + size / 2) * FINER - 0.5  # in sub-pixels, whole numbers at their centres
    low = np.floor(points).astype(np.intp)
    row, column = (points - low).T
    side = size * FINER
    corner = low[:, 0] * side + low[:, 1]
    fine = np.zeros(side * side)  # each point is shared among four sub-pixels: the centre of mass stays exact
    for offset, weight in ((0, (1 - row) * (1 - column)), (1, (1 - row) * column), (side, row * (1 - column))):
        fine += np.bincount(corner + offset, weight, minlength=side * side)
    fine += np.bincount(corner + side + 1, row * column, minlength=side * side)
    return _binned(fine.reshape(side, side), softness)


def defocus(
    size: int,
    radius: float,
    softness: float,
    blades: int = 0,
    turn: float = 0.0,
    rim: float = 0.0,
    shift: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """The image of a point out of focus: a disc, or a regular polygon for an aperture of `blades` blades.

    Raises KernelError where the softness alone fills the array.

    Args:
        size: side of the array.
        radius: of the circle around it, in pixels; less where the kernel would not fit.
        softness: standard deviation of the Gaussian of resampling, in pixels.
        turn: of the polygon, in radians.
        rim: in [-1, 1]; the intensity goes as 1 + rim (2 r^2 / radius^2 - 1), r from the middle. Spherical aberration
            makes the rim brighter behind the focus and darker before it, or the other way about.
        shift: (row, column) of the middle, in pixels.
    """
    shift = np.zeros(2) if shift is None else shift
    radius = min(radius, _room(size, softness, shift))
    positions = (np.arange(size * FINER) + 0.5) / FINER - size / 2
    rows, columns = positions[:, None] - shift[0], positions[None] - shift[1]
    distance = np.hypot(rows, columns)
    edge: NDArray[np.float64] | float = radius
    if blades:
        sector = (np.arctan2(rows, columns) + turn) % (2 * math.pi / blades) - math.pi / blades
        edge = radius * math.cos(math.pi / blades) / np.cos(sector)
    covered = np.clip((edge - distance) * FINER + 0.5, 0, 1)  # of each sub-pixel: no stairs at the edge
    return _binned(covered * np.maximum(1 + rim * (2 * (distance / radius) ** 2 - 1), 0), softness)


def gaussian(
    size: int, sigma: float, elongation: float = 1.0, angle: float = 0.0, shift: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """A Gaussian of standard deviation `sigma` pixels along its longer axis, `sigma / elongation` across."""
    row_shift, column_shift = (0.0, 0.0) if shift is None else shift
    positions = np.arange(size) - size // 2
    rows, columns = positions[:, None] - row_shift, positions[None] - column_shift
    along = rows * math.sin(angle) + columns * math.cos(angle)
    across = rows * math.cos(angle) - columns * math.sin(angle)
    bell = np.exp(-0.5 * ((along / sigma) ** 2 + (across * elongation / sigma) ** 2))
    return (bell / bell.sum()).astype(np.float32)


def _simple(
    rng: np.random.Generator, kind: str, size: int, extent: float, shift: NDArray[np.float64]
) -> NDArray[np.float32]:
    """A random kernel of any kind but "mixed", its centre of mass `shift` pixels from the middle."""
    # In pixels. The lens softens the sharp photo as well, so only resampling and the shake of the path itself are left
    # for the kernel: crisp for a photo that was shrunk, up to a pixel where the camera interpolates colours.
    softness = min(math.exp(rng.uniform(math.log(0.15), math.log(1.0))), size / 20)
    if kind == "gaussian":
        sigma = min(extent / 5, _room(size, softness, shift) / 3)
        long, short = math.hypot(sigma, softness), math.hypot(sigma / rng.uniform(1, 2.5), softness)
        return gaussian(size, long, long / short, float(rng.uniform(0, math.pi)), shift)
    if kind == "defocus":
        blades = int(rng.integers(5, 10)) if rng.random() < 0.5 else 0
        rim = float(rng.choice([0.0, rng.uniform(-0.5, 0.7)]))
        return defocus(size, extent / 2, softness, blades, float(rng.uniform(0, 2 * math.pi)), rim, shift)
    path = {"shake": shake, "line": line, "double": double}[kind](rng)
    return exposed(path, size, extent, softness, shift)


def _mixed(rng: np.random.Generator, size: int, extent: float) -> NDArray[np.float32]:
    """Motion while out of focus: two kernels convolved, drawn on arrays so small that the whole result fits."""
    blurry = min(max(2 * int(rng.uniform(0.15, 0.6) * size / 2) + 1, 3), size - 4)  # the part of defocus or Gaussian
    moving = size + 1 - blurry
    motion = _simple(
        rng, str(rng.choice(["shake", "line"], p=[0.7, 0.3])), moving, extent * moving / size, rng.uniform(-0.5, 0.5, 2)
    )
    optics = _simple(rng, str(rng.choice(["defocus", "gaussian"])), blurry, extent * blurry / size, np.zeros(2))
    margin = blurry // 2
    padded = cv2.copyMakeBorder(motion, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)
    kernel = cv2.filter2D(padded, -1, cv2.flip(optics, -1), borderType=cv2.BORDER_CONSTANT)
    kernel = np.maximum(kernel, 0)  # Fourier transforms leave rounding errors
    return (kernel / kernel.sum()).astype(np.float32)


def _paced(path: NDArray[np.float64], rng: np.random.Generator, samples: int) -> NDArray[np.float64]:
    """A path (N, 2) walked at an uneven pace, with rests: (samples, 2) at equal times."""
    steps = len(path)
    places = np.linspace(0, 1, steps)
    knots = rng.normal(size=int(rng.integers(3, 12)))
    time = np.exp(rng.uniform(0, 1) * np.interp(places, np.linspace(0, 1, len(knots)), knots))
    time /= time.sum()
    for place in rng.random(rng.poisson(2)):  # rests: the hand hardly moves for up to half of the time
        width = math.exp(rng.uniform(math.log(0.003), math.log(0.04)))  # share of the path that it creeps meanwhile
        bump = np.exp(-0.5 * ((places - place) / width) ** 2)
        time += rng.exponential(0.3) * bump / bump.sum()
    clock = np.cumsum(time)
    equal = np.linspace(clock[0], clock[-1], samples)
    return np.stack([np.interp(equal, clock, path[:, axis]) for axis in (0, 1)], axis=1)


def _room(size: int, softness: float, shift: NDArray[np.float64]) -> float:
    """How far from its centre of mass a kernel may reach before softening, in pixels."""
    room = size / 2 - 1 - float(np.abs(shift).max()) - 3 * softness  # three standard deviations, and the rim stays free
    if room <= 0:
        raise KernelError(
            f"A softness of {softness:g} pixels does not fit a kernel of size {size}. Give a larger size."
        )
    return room


def _direction(rng: np.random.Generator) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * math.pi)
    return np.array([math.cos(angle), math.sin(angle)])


def _rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    cosine, sine = _direction(rng)
    return np.array([[cosine, -sine], [sine, cosine]])


def _binned(fine: NDArray[np.float64], softness: float) -> NDArray[np.float32]:
    """Soften a sub-pixel drawing, sum it over the pixels, and make it sum to 1."""
    soft = cv2.GaussianBlur(fine.astype(np.float32), (0, 0), softness * FINER, borderType=cv2.BORDER_CONSTANT)
    size = fine.shape[0] // FINER
    kernel = soft.reshape(size, FINER, size, FINER).sum(axis=(1, 3))
    return (kernel / kernel.sum()).astype(np.float32)
