"""Blurred photos and their kernels: what the kernel prior that is conditioned on a photo learns from."""

import numpy as np
import torch
from torch import Tensor

from blinddeblur.physics.convolution import blur
from blinddeblur.physics.kernels import PRIOR_SIZE, to_prior
from blinddeblur.training.random_kernels import random_kernel

KERNEL_SIZE = PRIOR_SIZE - 1  # pixels; the largest that the prior takes as it is
SIDE = 128  # pixels of a blurred photo: twice the kernel, so that there are edges within reach of it
SHARP_SIDE = SIDE + KERNEL_SIZE - 1  # light from beyond the frame falls into it
NOISE = (0.002, 0.03)  # standard deviations, from a good camera's at base ISO to a dark scene's

Pairs = tuple[Tensor, Tensor, Tensor]  # blurred photos, the standard deviations of their noise, and their kernels


def blurred(sharp: Tensor, rng: np.random.Generator) -> Pairs:
    """Turn photos grey, blur each by a random kernel and add noise of a random level, log-uniform over NOISE.

    Args:
        sharp: (B, C, H, W) in [0, 1], C any number of channels.
        rng: where the randomness comes from.

    Returns:
        (B, 1, H - 62, W - 62), what a camera sees of them; (B,), the standard deviation of its noise; and
        (B, 1, 64, 64), the kernels as a prior sees them, in [0, 1].
    """
    drawn = [torch.from_numpy(random_kernel(rng, KERNEL_SIZE)) for _ in sharp]
    y = blur(sharp.mean(dim=1, keepdim=True), torch.stack(drawn))
    low, high = np.log(NOISE)
    sigma = torch.from_numpy(np.exp(rng.uniform(low, high, len(sharp))).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(y.shape, dtype=np.float32))
    return y + sigma[:, None, None, None] * noise, sigma, torch.cat([to_prior(kernel) for kernel in drawn])
