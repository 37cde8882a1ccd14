"""What makes an array a blur kernel, and its passage to and from the domain of a kernel prior.

A kernel is odd and square, not negative, sums to 1, and has its centre of mass at its middle pixel.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.errors import EstimationError
from blinddeblur.physics.convolution import smoothed

GRAINS = 2**40  # that the mass of a kernel is counted in
PRIOR_SIZE = 64  # side of the arrays a kernel prior knows; the middle of a kernel lies at index 32


def largest(shape: Sequence[int]) -> int:
    """The largest odd kernel that leaves half of the shorter side of a photo (..., H, W) to look at."""
    return min(shape[-2:]) // 2 // 2 * 2 + 1


def normalise(kernel: Tensor) -> Tensor:
    """Project (..., K, K) onto the set {k >= 0, sum k = 1}: negative values to zero, then each over its sum."""
    positive = kernel.clamp_min(0)
    return positive / positive.sum(dim=(-2, -1), keepdim=True).clamp_min(1e-12)


def clean(kernel: Tensor, threshold: float = 0.05, smallest: float = 0.1) -> Tensor:
    """Kernel estimates without debris: (..., K, K), each sums to 1; no numbers where nothing is left: see `remains`.

    Values under `threshold` of the maximum go, then connected pieces that hold less than `smallest` of the mass:
    camera shake leaves one trace, and the faint grain around it would grow from step to step. On the ten crops of
    estimation/first_kernel.py a threshold of .02 came to .65 and one of .1 to .70, against .66.
    """
    values = kernel.clamp_min(0)
    values = torch.where(values < threshold * values.amax(dim=(-2, -1), keepdim=True), 0, values)
    flat = values.reshape(-1, values.shape[-2] * values.shape[-1])
    pieces = _pieces((values > 0).reshape(-1, *values.shape[-2:])).flatten(1)
    # Whole numbers have one sum, in whatever order a device adds them up.
    mass = (GRAINS * flat / flat.sum(dim=1, keepdim=True)).nan_to_num().long()
    masses = torch.zeros_like(mass).scatter_add_(1, pieces, mass)
    least = torch.minimum(smallest * masses.sum(dim=1), masses.amax(dim=1))[:, None]
    kept = torch.where(masses.gather(1, pieces) < least, 0, flat).view_as(values)
    return kept / kept.sum(dim=(-2, -1), keepdim=True)


def _pieces(lit: Tensor) -> Tensor:
    """Which connected piece each pixel of (N, K, K) belongs to: one number for all of it, that of one of its pixels.

    The pixel that a pixel names takes the largest number around it, and each pixel that of the one it names (Shiloach
    and Vishkin 1982): a few steps, none of which a GPU has to be waited for.
    """
    numbers = torch.arange(lit[0].numel(), device=lit.device).expand(len(lit), -1)
    for _ in range(lit.shape[-1].bit_length() + 5):  # a spiral of 127 pixels takes 12
        seen = torch.where(lit, numbers.view_as(lit), -1).float()
        around = F.max_pool2d(seen, 3, stride=1, padding=1).long()
        around = torch.where(lit, around, numbers.view_as(lit)).flatten(1)
        numbers = numbers.scatter_reduce(1, numbers, around, "amax")
        numbers = numbers.gather(1, numbers)
    return numbers.view_as(lit)


def remains(kernel: Tensor) -> Tensor:
    """Whether anything was left of kernels (..., K, K)."""
    return kernel.sum(dim=(-2, -1)) > 0  # false for not a number


def required(kernel: Tensor) -> Tensor:
    """The kernel (K, K), if something was left of it. Raises EstimationError."""
    if bool(remains(kernel)):
        return kernel
    raise EstimationError("The estimate of the blur came out empty. Give --kernel-size, or a --kernel of your own.")


def gaussian(width: float, device: torch.device) -> Tensor:
    """A round Gaussian of a standard deviation in pixels: (K, K), K just large enough; 0 for no blur, (1, 1)."""
    offsets = torch.arange(-math.ceil(3 * width), math.ceil(3 * width) + 1, device=device)
    taps = torch.exp(-0.5 * (offsets / max(width, 1e-6)) ** 2)
    return normalise(torch.outer(taps, taps))


def line(length: float, angle: float, device: torch.device) -> Tensor:
    """Straight even motion over a length in pixels, at an angle in radians from the columns: (K, K), just large enough.

    Pixels count by how far they lie from the line, at its ends by how much of it they hold.
    """
    places = torch.arange(-math.ceil(length / 2), math.ceil(length / 2) + 1, device=device)
    along = places[None] * math.cos(angle) + places[:, None] * math.sin(angle)
    across = places[:, None] * math.cos(angle) - places[None] * math.sin(angle)
    return normalise((1 - across.abs()).clamp_min(0) * (length / 2 + 0.5 - along.abs()).clamp(0, 1))


def centre_of_mass(kernel: Tensor) -> Tensor:
    """Centres of mass, (row, column) from the middle pixel, (..., 2), of kernels (..., K, K) that sum to 1."""
    places = torch.arange(kernel.shape[-1], device=kernel.device, dtype=kernel.dtype) - kernel.shape[-1] // 2
    return torch.stack([kernel.sum(dim=-1), kernel.sum(dim=-2)], dim=-2) @ places


def centre(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Shift kernels (..., K, K) by whole pixels so that centres of mass come to the middle, as far as nothing is lost.

    With them come the (rows, columns) that each was moved by, (..., 2).
    """
    size, places = kernel.shape[-1], torch.arange(kernel.shape[-1], device=kernel.device)
    occupied = torch.stack([kernel.sum(dim=-1), kernel.sum(dim=-2)], dim=-2) > 0
    low, high = torch.where(occupied, places, size).amin(dim=-1), torch.where(occupied, places, -1).amax(dim=-1)
    moves = -centre_of_mass(kernel).nan_to_num().round().long()
    moves = torch.minimum(torch.maximum(moves, -low), size - 1 - high)
    return rolled(kernel, moves), moves


def rolled(x: Tensor, moves: Tensor) -> Tensor:
    """Arrays (..., H, W), each rolled by so many rows and columns, (..., 2), which may lie on a GPU.

    The moves have one dimension less; the others are alike, or 1.
    """
    height, width = x.shape[-2:]
    rows = (torch.arange(height, device=x.device) - moves[..., :1]) % height
    columns = (torch.arange(width, device=x.device) - moves[..., 1:]) % width
    return x.take_along_dim(rows[..., None], dim=-2).take_along_dim(columns[..., None, :], dim=-1)


def aligned(kernel: Tensor, reference: Tensor) -> Tensor:
    """A (K, K) kernel shifted, by quarters of a pixel, to where it agrees best with another (K, K) kernel; sums to 1.

    A shift of the kernel is one of the sharp image the other way: no measurement tells them apart.
    """
    size, finer = kernel.shape[-1], 4
    shape = (2 * size, 2 * size)  # room for every shift
    spectrum = torch.fft.rfft2(kernel, s=shape)
    product = torch.fft.rfft2(reference, s=shape) * spectrum.conj()
    # The spectrum with zeros above its highest frequency is that of the correlation at finer steps.
    fine = torch.zeros(2 * finer * size, finer * size + 1, dtype=product.dtype, device=product.device)
    fine[:size, : size + 1], fine[-size:, : size + 1] = product[:size], product[size:]
    place = int(torch.fft.irfft2(fine, s=(2 * finer * size, 2 * finer * size)).argmax())
    rows, columns = (p / finer for p in divmod(place, 2 * finer * size))
    down = torch.fft.fftfreq(2 * size, device=kernel.device)[:, None]
    across = torch.fft.rfftfreq(2 * size, device=kernel.device)
    turned = spectrum * torch.exp(-2j * torch.pi * (rows * down + columns * across))
    return normalise(torch.fft.irfft2(turned, s=shape)[:size, :size])


def agreement(kernel: Tensor, other: Tensor) -> Tensor:
    """Largest normalised cross-correlation over all shifts (MNC), 1 for the same shape: two (..., K, K) -> (...)."""
    shape = (2 * kernel.shape[-1], 2 * kernel.shape[-1])
    product = torch.fft.rfft2(kernel, s=shape).conj() * torch.fft.rfft2(other, s=shape)
    norms = kernel.square().sum(dim=(-2, -1)).sqrt() * other.square().sum(dim=(-2, -1)).sqrt()
    return torch.fft.irfft2(product, s=shape).amax(dim=(-2, -1)) / norms.clamp_min(1e-12)


def likeness(kernel: Tensor, other: Tensor) -> float:
    """The `agreement` of two kernels (K, K) whose sides may differ."""
    return float(agreement(*stacked([kernel, other])))


def resized(kernel: Tensor, size: int, scale: float) -> Tensor:
    """Kernels (..., K, K) enlarged or shrunk by `scale` about the middle, on arrays of odd side `size`; sum to 1."""
    half = (size - 1) / 2
    positions = torch.arange(size, device=kernel.device, dtype=kernel.dtype) - half
    several = kernel.reshape(-1, 1, *kernel.shape[-2:])
    if scale < 1:  # an area average, so that thin traces do not fall between the samples
        several = smoothed(several, 0.5 * (1 / scale**2 - 1) ** 0.5, "constant")
    reach = (kernel.shape[-1] - 1) / 2
    coordinates = positions / scale / max(reach, 0.5)
    grid = torch.stack(torch.meshgrid(coordinates, coordinates, indexing="xy"), dim=-1).expand(len(several), -1, -1, -1)
    enlarged = F.grid_sample(several, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return normalise(enlarged.view(*kernel.shape[:-2], size, size))


def fitted(kernel: Tensor, size: int) -> Tensor:
    """Kernels (..., K, K) padded with zeros or cropped about the middle to the odd side `size`; each sums to 1."""
    margin = (size - kernel.shape[-1]) // 2
    return normalise(F.pad(kernel, (margin, margin, margin, margin)))


def stacked(several: Sequence[Tensor]) -> Tensor:
    """Kernels (K, K), each of a K of its own, on arrays that hold the largest: (N, K, K)."""
    size = max(kernel.shape[-1] for kernel in several)
    return torch.stack([fitted(kernel, size) for kernel in several])


def trimmed(kernel: Tensor, margin: int) -> Tensor:
    """A (K, K) kernel on the smallest odd array about its middle that leaves `margin` empty pixels around it."""
    size = kernel.shape[-1]
    reach = int((torch.nonzero(kernel > 0) - size // 2).abs().max())
    return fitted(kernel, min(size, 2 * (reach + margin) + 1))


def from_prior(u: Tensor, size: int) -> Tensor:
    """Turn (..., 1, 64, 64) in [0, 1], as a kernel prior sees kernels, into kernels (..., 1, K, K); K odd, at most 63.

    What lies outside the K x K window is not part of the kernel: choosing K is choosing the support.
    """
    low = PRIOR_SIZE // 2 - size // 2
    return normalise(u[..., low : low + size, low : low + size])


def to_prior(kernel: Tensor) -> Tensor:
    """Turn a kernel (K, K) into what a kernel prior sees, (1, 1, 64, 64) in [0, 1]; larger ones are shrunk.

    It is divided by its maximum, and its middle lies at index 32.
    """
    size = PRIOR_SIZE - 1
    if kernel.shape[-1] > size:
        kernel = resized(kernel, size, size / kernel.shape[-1])
    kernel = fitted(kernel, size)
    return F.pad(kernel / kernel.max(), (1, 0, 1, 0))[None, None]
