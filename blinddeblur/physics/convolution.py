"""How a sharp image becomes a blurred one: y = crop(k * x), its two adjoints, and least squares with either.

True convolution with an odd kernel whose centre is its middle pixel. The image x reaches beyond the measurement
y by the kernel radius on every side, because light from there falls into the frame: nothing is assumed about the
unseen border, neither zeros nor a circular wrap. Fourier transforms do the work; cropping to the part that no
wrap reaches makes them exact.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.solvers import fast_shape


class Convolution:
    """The linear map x -> crop(k * x) for one kernel and one size of x.

    Args:
        kernel: (K, K) with K odd, or (B, 1, K, K): one for each image of a batch.
        shape: (H, W) of x; the measurement is (H - K + 1, W - K + 1).
    """

    def __init__(self, kernel: Tensor, shape: tuple[int, int]) -> None:
        self.size = kernel.shape[-1]
        self.shape = shape
        self.padded = fast_shape(shape)
        self.transfer = torch.fft.rfft2(kernel, s=self.padded)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H - K + 1, W - K + 1)."""
        edge = self.size - 1
        blurred = torch.fft.irfft2(self.transfer * torch.fft.rfft2(x, s=self.padded), s=self.padded)
        return blurred[..., edge : self.shape[0], edge : self.shape[1]]

    def adjoint(self, y: Tensor) -> Tensor:
        """(B, C, H - K + 1, W - K + 1) -> (B, C, H, W), with <forward(x), y> = <x, adjoint(y)>."""
        edge = self.size - 1
        spectrum = torch.fft.rfft2(F.pad(y, (edge, 0, edge, 0)), s=self.padded)
        correlated = torch.fft.irfft2(self.transfer.conj() * spectrum, s=self.padded)
        return correlated[..., : self.shape[0], : self.shape[1]]

    @cached_property
    def power(self) -> Tensor:
        """Of the transfer function."""
        return self.transfer.abs() ** 2

    def solve(self, x: Tensor, weight: float, power: Tensor | None = None) -> Tensor:
        """What (adjoint forward + weight)^-1 x, (B, C, H, W), would be if the frame had no border.

        With `power`, that of a map with another power than this kernel's.
        """
        spectrum = torch.fft.rfft2(x, s=self.padded) / ((self.power if power is None else power) + weight)
        return torch.fft.irfft2(spectrum, s=self.padded)[..., : self.shape[0], : self.shape[1]]


@dataclass(frozen=True)
class Mixture:
    """Kernels whose shares differ from pixel to pixel: at a pixel p the kernel is sum_j weights[j, p] kernels[j].

    Attributes:
        kernels: (J, K, K), the mean over the frame first; of the others only the mixtures need to be kernels.
        weights: (J, H, W), of the pixels of the measurement.
    """

    kernels: Tensor
    weights: Tensor

    def cropped(self, margin: int) -> "Mixture":
        """The same for a measurement without `margin` pixels along each edge."""
        height, width = self.weights.shape[-2:]
        return Mixture(self.kernels, self.weights[:, margin : height - margin, margin : width - margin])


Blur = Tensor | Mixture  # one kernel (K, K) for all pixels, or one for each


class VaryingConvolution:
    """The linear map x -> sum_j weights[j] * crop(kernels[j] * x), with the same methods as `Convolution`.

    Args:
        mixture: of the kernels, for a measurement (H - K + 1, W - K + 1).
        shape: (H, W) of x.
    """

    def __init__(self, mixture: Mixture, shape: tuple[int, int]) -> None:
        self.weights = mixture.weights[:, None]
        self.each = Convolution(mixture.kernels[:, None], shape)

    def forward(self, x: Tensor) -> Tensor:
        """(1, C, H, W) -> (1, C, H - K + 1, W - K + 1)."""
        return (self.weights * self.each.forward(x)).sum(dim=0, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        """(1, C, H - K + 1, W - K + 1) -> (1, C, H, W), with <forward(x), y> = <x, adjoint(y)>."""
        return self.each.adjoint(self.weights * y).sum(dim=0, keepdim=True)

    @cached_property
    def power(self) -> Tensor:
        """The mean power over the frame."""
        shares = self.weights.square().mean(dim=(-2, -1), keepdim=True)
        return (shares * self.each.power).sum(dim=0, keepdim=True)

    def solve(self, x: Tensor, weight: float) -> Tensor:
        """Roughly (adjoint forward + weight)^-1 x, (1, C, H, W): with the mean power everywhere."""
        return self.each.solve(x, weight, self.power)


class ConvolutionOfKernel:
    """The same product as a linear map of the kernel, k -> crop(k * x), for one image x.

    Args:
        x: (B, C, H, W); every channel and image is blurred by the same kernel.
        size: K, odd.
    """

    def __init__(self, x: Tensor, size: int) -> None:
        self.size = size
        self.shape = (x.shape[-2], x.shape[-1])
        self.padded = fast_shape(self.shape)
        self.spectrum = torch.fft.rfft2(x, s=self.padded)

    def forward(self, kernel: Tensor) -> Tensor:
        """(K, K) -> (B, C, H - K + 1, W - K + 1)."""
        edge = self.size - 1
        blurred = torch.fft.irfft2(torch.fft.rfft2(kernel, s=self.padded) * self.spectrum, s=self.padded)
        return blurred[..., edge : self.shape[0], edge : self.shape[1]]

    def adjoint(self, y: Tensor) -> Tensor:
        """(B, C, H - K + 1, W - K + 1) -> (K, K), summed over images and channels."""
        edge = self.size - 1
        spectrum = torch.fft.rfft2(F.pad(y, (edge, 0, edge, 0)), s=self.padded)
        product = (self.spectrum.conj() * spectrum).sum(dim=(0, 1))
        return torch.fft.irfft2(product, s=self.padded)[: self.size, : self.size]


def convolution(kernel: Blur, shape: tuple[int, int]) -> Convolution | VaryingConvolution:
    """The map of a blur, for images x of a shape (H, W)."""
    return VaryingConvolution(kernel, shape) if isinstance(kernel, Mixture) else Convolution(kernel, shape)


def mean_kernel(kernel: Blur) -> Tensor:
    """(K, K), the mean over the frame."""
    return kernel.kernels[0] if isinstance(kernel, Mixture) else kernel


def blur(x: Tensor, kernel: Blur) -> Tensor:
    """crop(k * x): (B, C, H, W) and (K, K) -> (B, C, H - K + 1, W - K + 1)."""
    return convolution(kernel, (x.shape[-2], x.shape[-1])).forward(x)


def extend(y: Tensor, radius: int) -> Tensor:
    """A first guess of what lies beyond the frame: (B, C, H, W) grown by `radius` on each side by replication."""
    return F.pad(y, (radius, radius, radius, radius), mode="replicate")


def gradients(x: Tensor) -> Tensor:
    """Forward differences along columns and rows as further images: (B, C, H, W) -> (2 B, C, H - 1, W - 1)."""
    horizontal = x[..., :-1, 1:] - x[..., :-1, :-1]
    vertical = x[..., 1:, :-1] - x[..., :-1, :-1]
    return torch.cat([horizontal, vertical])
