"""How a sharp image becomes a blurred one: y = crop(k * x), its two adjoints, and what lies beyond the frame.

True convolution with odd kernels whose centre is their middle pixel. The image x reaches beyond the measurement
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


@dataclass(frozen=True)
class Blur:
    """The kernels of all pixels of a measurement: at a pixel p the kernel is sum_j weights[j, p] kernels[j].

    Attributes:
        kernels: (J, B, K, K) with K odd, the mean over the frame first; of the others only the mixtures need to be
            kernels. B is 1 for kernels that all images of a batch share, or their number.
        weights: (J, H, W) of the pixels of the measurement, or (1, 1, 1), a one, where one kernel serves them all.
    """

    kernels: Tensor
    weights: Tensor

    @classmethod
    def uniform(cls, kernel: Tensor) -> "Blur":
        """One kernel (K, K) for all pixels, or one for each image of a batch, (B, K, K) or (B, 1, K, K)."""
        return cls(kernel.reshape(1, -1, *kernel.shape[-2:]), kernel.new_ones(1, 1, 1))

    @property
    def mean(self) -> Tensor:
        """The mean kernel over the frame and over the images of a batch, (K, K)."""
        return self.kernels[0].mean(dim=0)

    @property
    def radius(self) -> int:
        """How many pixels an image reaches beyond its measurement on each side."""
        return self.kernels.shape[-1] // 2

    def cropped(self, margin: int) -> "Blur":
        """The blur of a measurement without `margin` pixels along each edge."""
        height, width = self.weights.shape[-2:]
        if (height, width) == (1, 1):
            return self
        return Blur(self.kernels, self.weights[:, margin : height - margin, margin : width - margin])

    def of(self, x: Tensor) -> Tensor:
        """The measurement of an image: (B, C, H, W) -> (B, C, H - K + 1, W - K + 1)."""
        return Convolution(self, (x.shape[-2], x.shape[-1])).forward(x)


class Convolution:
    """The linear map x -> sum_j weights[j] * crop(kernels[j] * x) for one blur and one size of x.

    Args:
        blur: of the pixels of the measurement, (H - K + 1, W - K + 1).
        shape: (H, W) of x.
    """

    def __init__(self, blur: Blur, shape: tuple[int, int]) -> None:
        self.edge = blur.kernels.shape[-1] - 1
        self.shape = shape
        self.padded = fast_shape(shape)
        self.weights, self.varies = blur.weights[:, None, None], len(blur.kernels) > 1
        self.transfer = torch.fft.rfft2(blur.kernels[:, :, None], s=self.padded)
        # Every column of a real transform stands for its mirror image as well, but for the first and, of an even
        # number, the last. With the others larger by the root of two, products of spectra are products of images.
        root = self.transfer.real.new_full((self.padded[1] // 2 + 1,), 2**0.5)
        root[0] = root[-1] = 1
        self.root, self.there, self.back = root, self.transfer / root, self.transfer.conj() * root

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H - K + 1, W - K + 1)."""
        return self.blurred(self.spectrum(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """(B, C, H - K + 1, W - K + 1) -> (B, C, H, W), with <forward(x), y> = <x, adjoint(y)>."""
        return self.image(self.gathered(y))

    def spectrum(self, x: Tensor) -> Tensor:
        """The spectrum of (B, C, H, W) with zeros beyond it, complex; products are of images, times the pixels."""
        return self.root * torch.fft.rfft2(x, s=self.padded)

    def image(self, spectrum: Tensor) -> Tensor:
        """The inverse: (B, C, H, W)."""
        return torch.fft.irfft2(spectrum / self.root, s=self.padded)[..., : self.shape[0], : self.shape[1]]

    def blurred(self, spectrum: Tensor) -> Tensor:
        """`forward` of an image that is given by its spectrum."""
        everywhere = torch.fft.irfft2(self.there * spectrum, s=self.padded)
        parts = everywhere[..., self.edge : self.shape[0], self.edge : self.shape[1]]
        return (self.weights * parts).sum(dim=0) if self.varies else parts[0]

    def gathered(self, y: Tensor) -> Tensor:
        """`adjoint`, as a spectrum; the image is then zero beyond (H, W) as well."""
        parts = self.weights * y if self.varies else y[None]
        spectra = self.back * torch.fft.rfft2(F.pad(parts, (self.edge, 0, self.edge, 0)), s=self.padded)
        return spectra.sum(dim=0) if self.varies else spectra[0]

    @cached_property
    def power(self) -> Tensor:
        """The squared modulus of the transfer function, in the mean over the frame."""
        return (self.weights.square().mean(dim=(-2, -1), keepdim=True) * self.transfer.abs() ** 2).sum(dim=0)


class ConvolutionOfKernel:
    """The linear map k -> crop(k * x) of kernels, for images x.

    Args:
        x: (B, C, H, W); every channel of an image is blurred by the same kernel.
        size: K, odd.
    """

    def __init__(self, x: Tensor, size: int) -> None:
        self.size = size
        self.shape = (x.shape[-2], x.shape[-1])
        self.padded = fast_shape(self.shape)
        self.spectrum = torch.fft.rfft2(x, s=self.padded)

    def forward(self, kernel: Tensor) -> Tensor:
        """(B, K, K) -> (B, C, H - K + 1, W - K + 1)."""
        edge = self.size - 1
        blurred = torch.fft.irfft2(torch.fft.rfft2(kernel[:, None], s=self.padded) * self.spectrum, s=self.padded)
        return blurred[..., edge : self.shape[0], edge : self.shape[1]]

    def adjoint(self, y: Tensor) -> Tensor:
        """(B, C, H - K + 1, W - K + 1) -> (B, K, K), summed over channels."""
        edge = self.size - 1
        spectrum = torch.fft.rfft2(F.pad(y, (edge, 0, edge, 0)), s=self.padded)
        product = (self.spectrum.conj() * spectrum).sum(dim=1)
        return torch.fft.irfft2(product, s=self.padded)[:, : self.size, : self.size]

    def autocorrelation(self) -> Tensor:
        """(B, H, W), of x as if it went on at its other edge, no lag first: k * it is then adjoint(forward(k))."""
        return torch.fft.irfft2(self.spectrum.abs().square().sum(dim=1), s=self.padded)


def blur(x: Tensor, kernel: Tensor) -> Tensor:
    """crop(k * x): (B, C, H, W) and (K, K), or (B, K, K), one for each image -> (B, C, H - K + 1, W - K + 1)."""
    return Blur.uniform(kernel).of(x)


def extend(y: Tensor, radius: int) -> Tensor:
    """A first guess of what lies beyond the frame: (B, C, H, W) grown by `radius` on each side by replication."""
    return F.pad(y, (radius, radius, radius, radius), mode="replicate")


def inner(x: Tensor, radius: int, like: Tensor) -> Tensor:
    """The part of an image x, which begins `radius` pixels above and left of `like`, that lies in the frame of that."""
    return x[..., radius : radius + like.shape[-2], radius : radius + like.shape[-1]]


def gradients(x: Tensor) -> Tensor:
    """Forward differences along columns and rows as further channels: (B, C, H, W) -> (B, 2 C, H - 1, W - 1)."""
    corner = x[..., :-1, :-1]
    return torch.cat([x[..., :-1, 1:] - corner, x[..., 1:, :-1] - corner], dim=1)


def local_mean(x: Tensor, window: int) -> Tensor:
    """The mean of an image (B, C, H, W) over squares of so many pixels, an odd number, as far as they lie within it."""
    return F.avg_pool2d(x, window, stride=1, padding=window // 2, count_include_pad=False)


def local_variance(x: Tensor, window: int) -> Tensor:
    """The variance of an image (B, C, H, W) over the same squares."""
    return (local_mean(x.square(), window) - local_mean(x, window).square()).clamp_min(0)


def smoothed(x: Tensor, scale: float, beyond: str = "replicate") -> Tensor:
    """An image (B, C, H, W) smoothed by a Gaussian.

    Args:
        x: the image.
        scale: standard deviation in pixels; 0 leaves the image as it is.
        beyond: what lies beyond the image: its edge, "replicate", or zeros, "constant".
    """
    if scale == 0:
        return x
    radius = max(1, round(3 * scale))
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    taps = torch.exp(-(offsets**2) / (2 * scale**2))
    taps = (taps / taps.sum()).expand(x.shape[1], 1, 1, -1)
    across = F.conv2d(F.pad(x, (radius, radius, radius, radius), mode=beyond), taps, groups=x.shape[1])
    return F.conv2d(across, taps.transpose(-1, -2), groups=x.shape[1])
