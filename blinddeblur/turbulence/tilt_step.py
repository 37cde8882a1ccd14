"""The tilt of a frame, given the image: least squares on the measurement, held to what turbulence can do.

For the current field phi the frame is linear in what is added to it, and the field is a Gaussian one, so that the most
probable field solves a linear system: a Gauss-Newton step, by conjugate gradients. Fields are smooth, so they are kept
at the centres of square cells of CELL pixels.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.physics.tilt import enlarged, warp, within
from blinddeblur.priors.kolmogorov import KolmogorovTilt
from blinddeblur.priors.window import torus_of
from blinddeblur.solvers import conjugate_gradient

CELL = 4  # pixels a side of the cells at whose centres tilts are kept
ITERATIONS = 24  # of conjugate gradients; 12 leave an error of 0.26 px where 24 leave 0.23 and 60 leave 0.22
OUTLIER = 3.0  # standard deviations beyond which a pixel counts less: something moved, or noise that is none of ours


def tilt_step(z: Tensor, frames: Tensor, tilt: Tensor, prior: KolmogorovTilt, sigma: float) -> Tensor:
    """Better fields than `tilt`, for frames(p) = z(p + phi(p)) + n: one Gauss-Newton step.

    A shift that a whole frame shares costs nothing, since a camera moves as well: the prior is about the median of each
    field. What lies beyond z tells nothing.

    Args:
        z: (1, C, H + 2 m, W + 2 m), the image as it would be seen without tilt, blurred; m >= 0.
        frames: (B, C, H, W).
        tilt: (B, 2, h, w) in pixels at the centres of cells, h = ceil(H / CELL).
        prior: of the tilt.
        sigma: standard deviation of n.
    """
    height, width = frames.shape[-2:]
    field = enlarged(tilt, height, width, CELL)
    seen, row, column = warp(torch.cat([z, *_slopes(z)], dim=1), field).chunk(3, dim=1)
    rest = frames - seen
    trust = (1 + (rest.square().mean(dim=1, keepdim=True) / (OUTLIER * sigma) ** 2)).rsqrt()  # its square is the weight
    trust = trust * within(field, (z.shape[-1] - width) // 2)
    shift = tilt.flatten(2).median(dim=2).values[:, :, None, None]
    from_shift = field - shift
    row, column = row * trust, column * trust
    rest = rest * trust + row * from_shift[:, :1] + column * from_shift[:, 1:]
    products = [
        (a * b).sum(dim=1) for a, b in ((row, row), (row, column), (column, column), (row, rest), (column, rest))
    ]
    sums = CELL**2 * F.avg_pool2d(torch.stack(products, dim=1), CELL, ceil_mode=True, count_include_pad=False)
    rows, both, columns, right_row, right_column = (sums / sigma**2).unbind(dim=1)
    basis = _basis(prior, tilt.shape[-2], tilt.shape[-1], tilt.device)

    def normal(white: Tensor) -> Tensor:
        down, across = basis.field(white).unbind(dim=1)
        pulled = torch.stack([rows * down + both * across, both * down + columns * across], dim=1)
        return white + basis.adjoint(pulled)

    right = basis.adjoint(torch.stack([right_row, right_column], dim=1))
    white = conjugate_gradient(normal, right, torch.zeros_like(right), ITERATIONS)
    return shift + basis.field(white)


def _slopes(z: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives along rows and columns, by central differences."""
    padded = F.pad(z, (1, 1, 1, 1), mode="replicate")
    return (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2, (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2


class _Basis:
    """Fields of the prior as a linear map of white noise, phi = B u: u is what they cost."""

    def __init__(self, prior: KolmogorovTilt, height: int, width: int, device: torch.device) -> None:
        self.window = (height, width)
        # Across a torus twice as large, what it joins wrongly is hardly correlated.
        self.shape = torus_of(height, width)
        coarse = KolmogorovTilt(
            prior.d_over_r0, prior.correlation_length / CELL, prior.reach / CELL, prior.pixels_per_lambda_over_d
        )
        self.transfer = coarse.transfer(self.shape).to(device, torch.complex64)

    def field(self, white: Tensor) -> Tensor:
        """(B, P, Q) -> (B, 2, h, w)."""
        spectrum = self.transfer * torch.fft.rfft2(white)[:, None]
        height, width = self.window
        return torch.fft.irfft2(spectrum, s=self.shape)[..., :height, :width]

    def adjoint(self, field: Tensor) -> Tensor:
        """(B, 2, h, w) -> (B, P, Q)."""
        spectrum = torch.fft.rfft2(field, s=self.shape)
        return torch.fft.irfft2((self.transfer.conj() * spectrum).sum(dim=1), s=self.shape)


@lru_cache(maxsize=4)
def _basis(prior: KolmogorovTilt, height: int, width: int, device: torch.device) -> _Basis:
    return _Basis(prior, height, width, device)
