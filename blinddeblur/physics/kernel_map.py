"""Blur that varies over the frame: kernels at the nodes of a grid, mixed smoothly in between.

The filter flow of Hirsch et al. (CVPR 2010), y = sum_j w_j * crop(k_j * x) with bilinear weights w_j, but not with one
convolution for each node: over a tile, neighbouring kernels are nearly combinations of a few (Flicker and Rigaut 2005;
Denis et al., IJCV 2015), and a kernel that is a combination has the same combination of weights.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from blinddeblur.physics.convolution import Blur
from blinddeblur.tiles import Tile

TOLERANCE = 0.02  # of the energy of the mean kernel: that much of what differs may be left out


@dataclass(frozen=True)
class KernelMap:
    """The kernels of a photo.

    Attributes:
        kernels: (R, C, K, K), each at its node.
        rows: (R,), rising, where in the photo the nodes lie, in pixels. Beyond the outermost ones nothing changes.
        columns: (C,), rising, likewise.
    """

    kernels: Tensor
    rows: Tensor
    columns: Tensor

    @classmethod
    def uniform(cls, kernel: Tensor) -> "KernelMap":
        """One kernel (K, K) for the whole photo."""
        return cls(kernel[None, None], kernel.new_zeros(1), kernel.new_zeros(1))

    def of(self, tile: Tile, tolerance: float = TOLERANCE) -> Blur:
        """The kernels of a part of the photo, as its mean kernel and what differs from that.

        Args:
            tile: the part.
            tolerance: of the energy of the mean kernel, how much of what differs may be left out.
        """
        if self.kernels.shape[:2] == (1, 1):
            return Blur.uniform(self.kernels[0, 0])
        down = _hats(tile.top + torch.arange(tile.height).to(self.rows), self.rows)
        across = _hats(tile.left + torch.arange(tile.width).to(self.columns), self.columns)
        nodes = torch.einsum("hr,wc->rchw", down, across).flatten(0, 1)
        shares = nodes.mean(dim=(-2, -1))
        values = self.kernels.flatten(0, 1).flatten(1)
        mean = shares @ values
        different = values - mean
        _, energies, directions = torch.linalg.svd(shares.sqrt()[:, None] * different, full_matrices=False)
        left = energies.square().flip(0).cumsum(0).flip(0)  # what the first ones leave
        number = int((left > tolerance * mean.square().sum()).sum())
        basis = directions[:number]
        mixing = torch.einsum("jk,jhw->khw", different @ basis.T, nodes)
        size = self.kernels.shape[-1]
        parts = torch.cat([mean[None], basis]).reshape(-1, 1, size, size)
        return Blur(parts, torch.cat([torch.ones_like(nodes[:1]), mixing]))


def _hats(positions: Tensor, nodes: Tensor) -> Tensor:
    """Weights of linear interpolation between nodes (N,), constant beyond the outermost: (P,) -> (P, N)."""
    if len(nodes) == 1:
        return torch.ones_like(positions)[:, None]
    inside = positions.clamp(nodes[0], nodes[-1])
    low = (torch.searchsorted(nodes, inside, right=True) - 1).clamp(0, len(nodes) - 2)
    share = (inside - nodes[low]) / (nodes[low + 1] - nodes[low])
    weights = torch.zeros(len(positions), len(nodes)).to(nodes)
    weights.scatter_(1, low[:, None], (1 - share)[:, None])
    return weights.scatter_(1, low[:, None] + 1, share[:, None])
