"""The first guess of the kernel: coarse to fine, from salient edges, without any network.

Alternates two least-squares problems at each level of a pyramid, as in Xu, Zheng and Jia (CVPR 2013) and Pan et
al. (CVPR 2014): an image with few non-zero gradients (half-quadratic splitting) and a kernel that explains the
gradients of the measurement by those of that image. The image is only a means here; it is not returned.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.devices import threads_for
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import gradients
from blinddeblur.solvers import conjugate_gradient, fast_shape, toeplitz

# The numbers up to RIDGE were compared with others on ten crops of training photos alone, 192 pixels a side under
# random kernels of 5 to 20 pixels and noise of .01, where first guesses agree with the truth (MNC) to .66 in the mean.
# That is too few to change them by, and says nothing of kernels after refinement: they were kept even where others came
# to more.
CONTRAST = 0.2  # standard deviation that the image is scaled to, unless EDGE comes first; with .1 .59, with .4 .72
EDGE = 0.12  # the largest gradients, but for a hundredth: a page of text has steep ones; with .06 .51, with .24 .68
RATIO = math.sqrt(0.5)  # of the sides of neighbouring levels of the pyramid; with .5 .68
COARSEST = 5  # pixels of the side of the kernel at the first level; not compared
ROUNDS = 5  # of image and kernel at each level; with 3 .64, with 10 .69
SPARSITY = (4e-3, 1e-3)  # weight of |grad x|_0, where each level starts and its floor; with half .75, with twice .59
DECAY = 1 / 1.1  # of the weight of |grad x|_0 from round to round; with 1 .66, with 1 / 1.3 .72
GROWTH = 4  # of the coupling from step to step; with 2 guesses on the photos of ITERATIONS agree to .83, with 4 to .89
STIFFEST = 1e3  # coupling at which the splitting ends; with 1e2 .70, with 1e4 .68
RIDGE = 0.01  # weight of |k|^2, relative to the energy of the gradients; with .003 and with .03 .67
# Of conjugate gradients for the kernel. Stopping early leaves out what the edges tell least of: on 17 training photos
# of 256 pixels under random kernels of 5 to 45 pixels first guesses agree with the truth to .59 in the mean with 30, to
# .77 with 15, .82 with 10, .77 with 6 (RESULTS.md).
ITERATIONS = 10
SIZES = (47, 127)  # of the classical guess: the second where the blur does not fit into the first
RIM = 2  # pixels at the edge of the kernel's array that must be empty
ALL = 0.999  # of the mass: no pixel of a trace of 50, cut at a twentieth of its maximum, has less than what is missing


def classical_guess(y: Tensor, size: int | None) -> Tensor:
    """The guess by salient edges; unless its size is given, its array grows until the rim of the estimate is empty.

    Raises EstimationError where nothing is left of the estimate, as in a photo without any texture.
    """
    limit = kernels.largest(y.shape)
    for candidate in SIZES if size is None else (size,):
        kernel = kernels.required(first_kernel(y, min(candidate, limit))[0])
        if candidate >= limit or not touches_rim(kernel):
            break
    return kernel


def touches_rim(kernel: Tensor) -> bool:
    """Whether a (K, K) kernel reaches the edge of its array, so that there may be more of it."""
    return float(kernel[RIM:-RIM, RIM:-RIM].sum()) < ALL


def first_kernel(y: Tensor, size: int) -> Tensor:
    """Estimate the kernels of blurred images: (B, K, K), not negative, each sums to 1, centred.

    Args:
        y: (B, C, H, W) in [0, 1]; channels are averaged.
        size: K, odd: side of the array the kernel has to fit into.

    Where nothing is left of an estimate, it is not numbers; see `kernels.remains`.
    """
    grey = y.mean(dim=1, keepdim=True)
    steepness = gradients(grey).square().sum(dim=1).sqrt().flatten(1).quantile(0.99, dim=1)
    scale = torch.minimum(CONTRAST / grey.flatten(1).std(dim=1), EDGE / steepness).nan_to_num(1, 1, 1)
    grey = scale[:, None, None, None] * grey
    sizes = _pyramid(size)
    kernel = torch.zeros(len(y), sizes[0], sizes[0], device=y.device)
    kernel[:, sizes[0] // 2, sizes[0] // 2 - 1 : sizes[0] // 2 + 1] = 0.5
    for previous, current in zip([sizes[0], *sizes], sizes, strict=False):
        if current != previous:
            kernel = kernels.resized(kernel, current, current / previous)
        level = _shrunk(grey, current / size)
        with threads_for(level.numel()):
            kernel = _at_one_level(level, kernel)
    return kernel


def _pyramid(size: int) -> list[int]:
    """Odd kernel sides, coarsest first, ending with `size`."""
    sizes = [size]
    while sizes[0] > COARSEST:
        smaller = round(sizes[0] * RATIO)
        sizes.insert(0, max(COARSEST, smaller - 1 + smaller % 2))
    return sizes


def _shrunk(image: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return image
    shape = [max(16, round(side * scale)) for side in image.shape[-2:]]
    return F.interpolate(image, shape, mode="bicubic", antialias=True, align_corners=False)


def _at_one_level(y: Tensor, kernel: Tensor) -> Tensor:
    height, width = y.shape[-2:]
    periodic = _periodic(y, kernel.shape[-1])
    target = gradients(y)
    sparsity = SPARSITY[0]
    for _ in range(ROUNDS):
        image = _few_gradients(periodic, kernel, sparsity)[..., :height, :width]
        edges = gradients(image)
        estimate = _explaining_kernel(edges, target, kernel.shape[-1])
        kernel, _ = kernels.centre(kernels.clean(estimate))
        sparsity = max(sparsity * DECAY, SPARSITY[1])
    return kernel


def _few_gradients(y: Tensor, kernel: Tensor, sparsity: float) -> Tensor:
    """argmin over x of |k * x - y|^2 + sparsity |grad x|_0, circular, by half-quadratic splitting."""
    shape = (y.shape[-2], y.shape[-1])
    transfer = _transfer(kernel, shape)
    impulse = torch.zeros(1, 1, *shape, device=y.device)
    impulse[..., 0, 0] = 1
    differences = torch.fft.rfft2(_circular_gradients(impulse))
    data = transfer.conj() * torch.fft.rfft2(y)
    blur_power, gradient_power = transfer.abs() ** 2, (differences.abs() ** 2).sum(dim=1, keepdim=True)
    x, coupling = y, 2 * sparsity
    while coupling < STIFFEST:
        gradient = _circular_gradients(x)
        kept = (gradient**2).sum(dim=1, keepdim=True) >= sparsity / coupling
        pull = (differences.conj() * torch.fft.rfft2(gradient * kept)).sum(dim=1, keepdim=True)
        spectrum = (data + coupling * pull) / (blur_power + coupling * gradient_power)
        x = torch.fft.irfft2(spectrum, s=shape)
        coupling *= GROWTH
    return x


def _explaining_kernel(edges: Tensor, target: Tensor, size: int) -> Tensor:
    """argmin over k of |edges * k - target|^2 + ridge |k|^2 on a support of size x size pixels: (B, K, K).

    The normal equations of the kernel are a convolution with the autocorrelation of the edges, known once and
    far smaller than the image.
    """
    shape = fast_shape((edges.shape[-2] + size, edges.shape[-1] + size))
    spectrum = torch.fft.rfft2(edges, s=shape)
    power = torch.fft.irfft2(spectrum.abs().square().sum(dim=1), s=shape)
    product = torch.fft.irfft2((spectrum.conj() * torch.fft.rfft2(target, s=shape)).sum(dim=1), s=shape)
    radius = size // 2
    right = torch.roll(product, (radius, radius), dims=(-2, -1))[:, :size, :size]
    product_with, ridge = toeplitz(power, size), RIDGE * power[:, :1, :1]
    return conjugate_gradient(lambda k: product_with(k) + ridge * k, right, torch.zeros_like(right), ITERATIONS)


def _transfer(kernel: Tensor, shape: tuple[int, int]) -> Tensor:
    """The spectra (B, 1, H, W), on larger arrays, of kernels (B, K, K) whose middle pixel is the origin."""
    size = kernel.shape[-1]
    padded = F.pad(kernel, (0, shape[1] - size, 0, shape[0] - size))
    return torch.fft.rfft2(torch.roll(padded, (-(size // 2), -(size // 2)), dims=(-2, -1)))[:, None]


def _circular_gradients(x: Tensor) -> Tensor:
    """Forward differences along columns and rows, wrapping around: (B, 1, H, W) -> (B, 2, H, W)."""
    return torch.cat([torch.roll(x, -1, dims=-1) - x, torch.roll(x, -1, dims=-2) - x], dim=1)


def _periodic(y: Tensor, margin: int) -> Tensor:
    """y with at least `margin` more rows and columns that lead smoothly from its end back to its beginning."""
    height, width = y.shape[-2:]
    rows, columns = fast_shape((height + 2 * margin, width + 2 * margin))
    y = _bridged(y, columns - width)
    return _bridged(y.transpose(-1, -2), rows - height).transpose(-1, -2)


def _bridged(y: Tensor, length: int) -> Tensor:
    weight = torch.linspace(0, 1, length + 2, device=y.device)[1:-1]
    return torch.cat([y, y[..., -1:] * (1 - weight) + y[..., :1] * weight], dim=-1)
