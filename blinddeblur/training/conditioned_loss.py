"""What the kernel prior that is conditioned on a photo learns: to denoise kernels, and which edges give them away."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.priors.conditioned import ConditionedKernelUNet
from blinddeblur.training.pairs import Pairs

SIGMA_RANGE = (0.01, 3.0)  # of a kernel divided by its maximum; from 2 up all that is known of it is the photo
REPEATS = 3  # noise levels for each photo, whose features cost more than the denoising of a kernel
ESTIMATES = 0.3  # weight of the agreement of the least-squares estimates with the kernel


def conditioned_loss(network: ConditionedKernelUNet, pairs: Pairs, generator: torch.Generator) -> Tensor:
    """The squared error of D(u + sigma n, sigma | y), plus how far the least-squares estimates are from the kernel.

    The first is equation 2 of Karras et al. 2022 with lambda(sigma) of Table 1, sigma log-uniform over SIGMA_RANGE. The
    second, one minus the cosine of the angle between estimate and kernel, takes the encoder straight to edges that
    are of use, as the training by stages of Schuler et al. 2016 does. Returns a scalar, near 1 before training.

    Args:
        network: D, with the standard deviation of its data as sigma_data.
        pairs: y (B, 1, H, W), the standard deviation of its noise (B,), and u (B, 1, 64, 64).
        generator: of sigma and n, on the device of the pairs.
    """
    y, noise_level, u = pairs
    features = network.features(y, noise_level)
    agreement = F.cosine_similarity(features[:, :-1].flatten(2), u.flatten(2), dim=2)
    clean = u.repeat(REPEATS, 1, 1, 1)
    low, high = (math.log(sigma) for sigma in SIGMA_RANGE)
    sigma = torch.exp(low + (high - low) * torch.rand(len(clean), generator=generator, device=u.device))
    noise = torch.randn(clean.shape, generator=generator, device=u.device)
    denoised = network(clean + sigma[:, None, None, None] * noise, sigma, features.repeat(REPEATS, 1, 1, 1))
    weight = (sigma**2 + network.sigma_data**2) / (sigma * network.sigma_data) ** 2
    error = (weight[:, None, None, None] * (denoised.float() - clean).square()).mean()
    return error + ESTIMATES * (1 - agreement).mean()
