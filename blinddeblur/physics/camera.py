"""A camera that turns while it moves: one density of poses behind the kernels of all places of a photo.

A pose is a shift t, in pixels, and a small turn a, in radians, about the middle of the photo; it moves what lies at p
by t + a J p, J being the quarter turn. So with the density of poses w(t, a) the kernel at p is
k_p(d) = sum_a w(d - a J p, a), linear in w (Whyte et al., CVPR 2010; Gupta et al., ECCV 2010). Turns about other points
are turns about the middle and shifts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from blinddeblur.physics import kernels
from blinddeblur.solvers import fast_shape

ROUNDS = 4  # of fitting the poses and of shifting the kernels, whose places nobody knows, onto the fit
ITERATIONS = 25  # of each fit
FAINT = 0.03  # of a kernel's maximum: less is no part of it


@dataclass(frozen=True)
class Poses:
    """A density of poses.

    Attributes:
        density: (A, S, S), not negative, sums to 1: shifts at each of A turns.
        turns: (A,), in radians.
    """

    density: Tensor
    turns: Tensor

    def kernels(self, places: Tensor) -> Tensor:
        """(P, S, S): the kernels at places (P, 2), rows and columns from the middle of the photo."""
        projected = _Projection(self.turns, places, self.density.shape[-1]).forward(self.density)
        faint = FAINT * projected.amax(dim=(-2, -1), keepdim=True)
        return kernels.normalise(torch.where(projected > faint, projected, 0))

    def centred(self) -> "Poses":
        """These poses counted from their mean, which no measurement tells from any other pose."""
        mean_turn = (self.density.sum(dim=(-2, -1)) * self.turns).sum()
        _, moves = kernels.centre(self.density.sum(dim=0))
        return Poses(kernels.rolled(self.density, moves[None]), self.turns - mean_turn)


class _Projection:
    """The linear map from a density of poses to the kernels at some places, and its adjoint."""

    def __init__(self, turns: Tensor, places: Tensor, size: int) -> None:
        self.size = size
        self.padded = fast_shape((size, size))
        down = torch.fft.fftfreq(self.padded[0]).to(places)[:, None]
        across = torch.fft.rfftfreq(self.padded[1]).to(places)
        rows, columns = (turns * move[:, None] for move in (-places[:, 1], places[:, 0]))  # (P, A): a J p
        self.transfer = _moved(rows, down) * _moved(columns, across)

    def forward(self, density: Tensor) -> Tensor:
        spectrum = (self.transfer * torch.fft.rfft2(density, s=self.padded)).sum(dim=1)
        return torch.fft.irfft2(spectrum, s=self.padded)[..., : self.size, : self.size].clamp_min(0)

    def adjoint(self, values: Tensor) -> Tensor:
        spectrum = (self.transfer.conj() * torch.fft.rfft2(values, s=self.padded)[:, None]).sum(dim=0)
        return torch.fft.irfft2(spectrum, s=self.padded)[..., : self.size, : self.size].clamp_min(0)


def _moved(shifts: Tensor, frequencies: Tensor) -> Tensor:
    """Spectrum of a shift between two whole pixels, with linear shares: unlike exact ones they leave all positive."""
    whole = shifts.floor()[..., None, None]
    share = shifts[..., None, None] - whole
    return torch.exp(-2j * torch.pi * whole * frequencies) * (
        1 - share + share * torch.exp(-2j * torch.pi * frequencies)
    )


def fit(found: Tensor, places: Tensor, weights: Tensor, turns: Tensor) -> Poses:
    """The poses that explain kernels best, in the sense of Kullback and Leibler: expectation maximisation.

    Args:
        found: (P, S, S), kernels, each at an unknown shift of a few pixels.
        places: (P, 2), where they were found, in pixels from the middle of the photo.
        weights: (P,), how much each counts.
        turns: (A,), that may occur.
    """
    size = found.shape[-1]
    projection = _Projection(turns, places, size)
    mean = (weights[:, None, None] * found).sum(dim=0) / weights.sum()
    density = mean.expand(len(turns), -1, -1).clamp_min(1e-4 / size**2) / len(turns)
    sums = weights.sum()  # what the adjoint makes of ones
    for _ in range(ROUNDS):
        for _ in range(ITERATIONS):
            ratio = found / projection.forward(density).clamp_min(1e-5)
            density = density * projection.adjoint(weights[:, None, None] * ratio) / sums
        explained = projection.forward(density)
        found = torch.stack([kernels.aligned(k, e) for k, e in zip(found, explained, strict=True)])
    return Poses(density / density.sum(), turns).centred()
