"""A kernel prior that has seen the photo: D(k, sigma | y), the denoiser of p(k | y).

Where the blurred photo has an edge, its profile tells of the blur, if one knows what the edge was. So an encoder
guesses the sharp edges behind the photo, least squares give the kernel that takes them to the measured ones

    K_e = conj(X_e) . Y / (|X_e|^2 + beta_e),      X_e, Y: spectra of guessed and measured gradients,

and a U-Net denoises the kernel with these estimates, and the autocorrelation of the measured gradients, as further
channels. Learned edges with a closed-form kernel are the layers of Schuler et al. 2016, "Learning to Deblur"; the
diffusion over kernels conditioned on the measurement is the idea of PRISM. The encoder is fully convolutional and
the estimates sum over all edges, so any size of photo will do, and more of it says more.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blinddeblur.priors.compact import CompactUNet, UNet

SIDE = 64  # of the kernel's array; its middle lies at index 32


class ConditionedKernelUNet(nn.Module):
    """Denoiser of a kernel on 64x64 pixels, given features of the photo.

    Args:
        estimates: how many guesses of the edges, each with its least-squares kernel.
        edge_widths: features of the encoder at each resolution.
        widths, blocks, mean, sigma_data: of the denoiser, see CompactUNet.
    """

    def __init__(
        self,
        estimates: int = 2,
        edge_widths: Sequence[int] = (32, 64, 96, 128),
        widths: Sequence[int] = (32, 64, 96, 128),
        blocks: int = 2,
        mean: float = 0.02,
        sigma_data: float = 0.1,
    ) -> None:
        super().__init__()
        self.channels = 1
        self.image_size = SIDE
        self.encoder = UNet(1, 2 * estimates, edge_widths, blocks, patch=2)
        self.denoiser = CompactUNet(1, widths, blocks, 2, mean, sigma_data, conditions=estimates + 1)
        self.log_ridge = nn.Parameter(torch.full((estimates,), -3.0))  # relative to the mean power of the edges
        self.sigma_data = sigma_data

    def features(self, y: Tensor, sigma: Tensor) -> Tensor:
        """What the photo says of its kernel: (B, estimates + 1, 64, 64), each scaled to a maximum of 1.

        Computed once for all noise levels of the kernel.

        Args:
            y: (B, 1, H, W), grey, of any contrast; H and W at least 64.
            sigma: (B,), standard deviation of its noise.
        """
        scale = y.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-4)
        y = (y - y.mean(dim=(1, 2, 3), keepdim=True)) / scale
        height, width = y.shape[-2:]
        padding = (0, -width % self.encoder.multiple, 0, -height % self.encoder.multiple)
        level = (sigma / scale[:, 0, 0, 0]).clamp_min(1e-3)
        guessed = self.encoder(F.pad(y, padding, mode="replicate"), level)[..., : height - 1, : width - 1]
        guessed = guessed.float().contiguous()
        measured = torch.cat([y[..., :-1, 1:] - y[..., :-1, :-1], y[..., 1:, :-1] - y[..., :-1, :-1]], dim=1)
        shape = (height + SIDE, width + SIDE)
        target = torch.fft.rfft2(measured.float(), s=shape)[:, None]  # (B, 1, 2, ...)
        edges = torch.fft.rfft2(guessed, s=shape).unflatten(1, (-1, 2))  # (B, estimates, 2, ...)
        power = _power(edges).sum(dim=2)
        ridge = self.log_ridge.exp()[:, None, None] * power.mean(dim=(-2, -1), keepdim=True) + 1e-6
        kernels = torch.fft.irfft2((edges.conj() * target).sum(dim=2) / (power + ridge), s=shape)
        correlation = torch.fft.irfft2(_power(target).sum(dim=2), s=shape)
        both = torch.cat([kernels, correlation], dim=1)
        both = torch.roll(both, (SIDE // 2, SIDE // 2), dims=(-2, -1))[..., :SIDE, :SIDE]
        return both / both.amax(dim=(-2, -1), keepdim=True).clamp_min(1e-6)

    def forward(self, x: Tensor, sigma: Tensor, features: Tensor) -> Tensor:
        """(B, 1, 64, 64) with noise of standard deviation sigma (B,), and features -> the kernel without noise."""
        return self.denoiser(x, sigma, features)


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()  # abs() would take a root, and its gradient a division
