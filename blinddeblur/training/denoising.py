"""What a denoiser learns: the mean squared error of Karras et al. 2022 (EDM), over noise levels of our choice.

The levels are drawn so that most of the effort goes where a restoration works (0.01 to 0.5 on [0, 1]) and every
level up to 80 is seen.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from blinddeblur.priors.compact import CompactUNet

SIGMA_RANGE = (0.0025, 80.0)  # of the linear 1000-step schedule, in image units
TYPICAL_SIGMA, SPREAD = 0.08, 1.0  # median, in image units, and logarithmic deviation of the levels drawn log-normally
EVERYWHERE = 0.2  # share of the levels drawn log-uniformly over the whole range
RANGES = 26  # ranges of ln(sigma), each 0.4 wide, with a running mean of the error
RATE = 0.02  # share of the newest error in that mean


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

    Equation 2 of Karras et al. 2022 with lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, Table 1,
    which brings an untrained network to an error of one at every level. A trained one errs least at middle levels and
    would learn them least; so the error is brought to the same mean at all levels by its running mean at each, the
    purpose of the learned uncertainty of Karras et al. 2024 (EDM2), equation 21.

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
        weight = (sigma**2 + network.sigma_data**2) / (sigma * network.sigma_data) ** 2
        denoised = network(clean + sigma[:, None, None, None] * noise, sigma)
        error = weight * (denoised.float() - clean).square().mean(dim=(1, 2, 3))
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
