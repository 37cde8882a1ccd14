"""What is expected of a restoration, by what can be seen without the truth: its gain over the photo, and whether
there is any.

Several small networks that were trained on different shares of the same examples; their mean errs less than each, most
where there were few examples.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 27  # that judging.features gives
WIDTH = 8
MEMBERS = 8
LARGEST_GAIN = 12.0  # dB, either way, that is told apart


class Judgement(nn.Module):
    """Features (M, FEATURES) -> the expected gain in dB, (M,), and the probability that it is above zero, (M,)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int = FEATURES, width: int = WIDTH, members: int = MEMBERS) -> None:
        super().__init__()
        sizes = (features, width, width, 2)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(members, before, after) / before**0.5)
            for before, after in itertools.pairwise(sizes)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, after)) for after in sizes[1:])
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """The means over the members."""
        gains, odds = self.of_each(seen)
        return gains.mean(dim=0), torch.sigmoid(odds.mean(dim=0))

    def of_each(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """What each member says: gains and logits of the probability, (MEMBERS, M) both."""
        x = ((seen - self.mean) / self.scale).clamp(-4, 4)[None]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight + bias
            if layer < len(self.weights) - 1:
                x = F.silu(x)
        return LARGEST_GAIN * torch.tanh(x[..., 0] / LARGEST_GAIN), x[..., 1]
