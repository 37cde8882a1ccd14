"""What networks learn: the mean squared error of Karras et al. 2022 (EDM), over noise levels of our choice.

For a prior of images or kernels the levels are drawn so that most of the effort goes where a restoration works (0.01 to
0.5 on [0, 1]) and every level up to 80 is seen. A kernel prior that is conditioned on a photo also learns which edges
give kernels away.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.priors.compact import CompactUNet
from blinddeblur.priors.conditioned import ConditionedKernelUNet
from blinddeblur.training.pairs import Pairs

SIGMA_RANGE = (0.0025, 80.0)  # of the linear 1000-step schedule, in image units
TYPICAL_SIGMA, SPREAD = 0.08, 1.0  # median, in image units, and logarithmic deviation of the levels drawn log-normally
EVERYWHERE = 0.2  # share of the levels drawn log-uniformly over the whole range
RANGES = 26  # ranges of ln(sigma), each 0.4 wide, with a running mean of the error
RATE = 0.02  # share of the newest error in that mean

KERNEL_SIGMA_RANGE = (0.01, 3.0)  # of a kernel divided by its maximum; from 2 up all that is known of it is the photo
REPEATS = 3  # noise levels for each photo, whose features cost more than the denoising of a kernel
ESTIMATES = 0.3  # weight of the agreement of the least-squares estimates with the kernel


def draw_sigmas(number: int, generator: torch.Generator) -> Tensor:
    """Noise levels to train on: (number,), in image units, on the generator's device."""
    device = generator.device
    typical = TYPICAL_SIGMA * torch.exp(SPREAD * torch.randn(number, generator=generator, device=device))
    low, high = (torch.tensor(s).log() for s in SIGMA_RANGE)
    uniform = torch.exp(low + (high - low) * torch.rand(number, generator=generator, device=device))
    anywhere = torch.rand(number, generator=generator, device=device) < EVERYWHERE
    return torch.where(anywhere, uniform, typical).clamp(*SIGMA_RANGE)


def draw_noise(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise in the shape of the images; a grey image gets grey noise, the same in all channels.

    So one network denoises grey photos as well as a grey network would: it sees that the channels are equal.
    """
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    grey = (clean == clean[:, :1]).flatten(1).all(dim=1)
    return torch.where(grey[:, None, None, None], noise[:, :1], noise)


class DenoisingLoss:
    """The squared error of D(x + sigma n, sigma), every noise level counting the same.

    Equation 2 of Karras et al. 2022 with lambda(sigma) of Table 1, which brings an untrained network to an error of one
    at every level. A trained one errs least at middle levels and would learn them least; so the error is brought to the
    same mean at all levels by its running mean at each, the purpose of the learned uncertainty of Karras et al. 2024
    (EDM2), equation 21.

    Args:
        draw: gives the noise levels of a batch (number,), on the generator's device.
    """

    def __init__(self, draw: Callable[[int, torch.Generator], Tensor] = draw_sigmas) -> None:
        self.draw = draw
        self.typical: Tensor | None = None  # error at each of a few ranges of ln(sigma), in a moving average

    def __call__(self, network: CompactUNet, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A scalar: the mean error over the levels, near 1 for an untrained network.

        Args:
            network: D, with the standard deviation of its data as sigma_data.
            clean: (B, C, H, W), x in [0, 1].
            generator: of sigma and n, on the device of the images.
        """
        sigma = self.draw(len(clean), generator)
        noise = draw_noise(clean, generator)
        denoised = network(clean + sigma[:, None, None, None] * noise, sigma)
        error = _weight(sigma, network.sigma_data) * (denoised.float() - clean).square().mean(dim=(1, 2, 3))
        return (error * self._balance(sigma, error.detach())).mean()

    def _balance(self, sigma: Tensor, error: Tensor) -> Tensor:
        """What brings the error at each level of a batch (B,) to the mean over all levels."""
        low, high = (math.log(s) for s in SIGMA_RANGE)
        place = ((sigma.log() - low) / (high - low) * RANGES).long().clamp(0, RANGES - 1)
        if self.typical is None:
            self.typical = error.mean().expand(RANGES).clone()
        count = torch.zeros_like(self.typical).index_add_(0, place, torch.ones_like(error))
        total = torch.zeros_like(self.typical).index_add_(0, place, error)
        step = 1 - (1 - RATE) ** count
        self.typical = self.typical + step * (total / count.clamp_min(1) - self.typical)
        return self.typical.mean() / self.typical[place]


def conditioned_loss(network: ConditionedKernelUNet, pairs: Pairs, generator: torch.Generator) -> Tensor:
    """The squared error of D(u + sigma n, sigma | y), plus how far the least-squares estimates are from the kernel.

    The first is equation 2 of Karras et al. 2022, sigma log-uniform over KERNEL_SIGMA_RANGE. The second, one minus the
    cosine of the angle between estimate and kernel, takes the encoder straight to edges that are of use, as the
    training by stages of Schuler et al. 2016 does. Returns a scalar, near 1 before training.

    Args:
        network: D, with the standard deviation of its data as sigma_data.
        pairs: y (B, 1, H, W), the standard deviation of its noise (B,), and u (B, 1, 64, 64).
        generator: of sigma and n, on the device of the pairs.
    """
    y, noise_level, u = pairs
    features = network.features(y, noise_level)
    agreement = F.cosine_similarity(features[:, :-1].flatten(2), u.flatten(2), dim=2)
    clean = u.repeat(REPEATS, 1, 1, 1)
    low, high = (math.log(sigma) for sigma in KERNEL_SIGMA_RANGE)
    sigma = torch.exp(low + (high - low) * torch.rand(len(clean), generator=generator, device=u.device))
    noise = torch.randn(clean.shape, generator=generator, device=u.device)
    denoised = network(clean + sigma[:, None, None, None] * noise, sigma, features.repeat(REPEATS, 1, 1, 1))
    weight = _weight(sigma, network.sigma_data)
    error = (weight[:, None, None, None] * (denoised.float() - clean).square()).mean()
    return error + ESTIMATES * (1 - agreement).mean()


def _weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """lambda(sigma) of Table 1 of Karras et al. 2022."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
