"""The first guess of the kernel by a network that has seen the photo: the mean of p(k | y).

What the classical guess (first_kernel.py) is to shake and edges, this one is to defocus, to soft blur and to noise:
neither is better everywhere, and the evidence decides between them.
"""

import torch
from torch import Tensor

from blinddeblur.physics import kernels
from blinddeblur.samplers.schedule import Denoiser

SMALLEST_PHOTO = kernels.PRIOR_SIZE  # pixels of its shorter side
KNOWS_NOTHING = 3.0  # noise, of a kernel's maximum, under which nothing of it is left


def learned_kernel(denoise: Denoiser, device: torch.device, size: int) -> Tensor:
    """The kernel that a conditioned prior expects.

    Args:
        denoise: the prior, given the photo: D(u + sigma n, sigma | y), u (1, 1, 64, 64) a kernel over its maximum.
        device: of the prior.
        size: K, odd, at most 63: side of the array the kernel has to fit into.

    Returns:
        (K, K), not negative, sums to 1, centred.

    Raises:
        EstimationError: nothing is left of the estimate.
    """
    u = denoise(torch.zeros(1, 1, kernels.PRIOR_SIZE, kernels.PRIOR_SIZE, device=device), KNOWS_NOTHING)
    return kernels.centre(kernels.clean(kernels.from_prior(u.clamp_min(0), size)[0, 0]))[0]
