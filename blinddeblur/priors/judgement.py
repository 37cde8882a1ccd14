"""What is expected of a restoration, by what can be seen without the truth: its gain over the photo, and whether
there is any.

A Gaussian process (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006) that has seen what thousands
of restorations came to. The gain to be expected of features f is a mean of theirs, by how alike they look,

    E[gain | f] = sum over i of weights_i k(f, f_i),    weights = (K + NOISE 1)^-1 gains,
    k(f, g) = CONSTANT + LINEAR f.g + CURVED exp(-|f - g|^2 / (2 REACH^2 FEATURES)),

of features less their mean, over their standard deviation. It needs no steps and no rate; and what it would say of a
photo that it had not seen is known without learning anew (Rasmussen and Williams, equation 5.12), so that the
probability is fitted to that. On the same examples small networks erred by a quarter more (RESULTS.md).
"""

import torch
from torch import Tensor, nn

FEATURES = 15  # that estimation/candidates.py gives
LARGEST_GAIN = 12.0  # dB, either way, that is told apart
LARGEST = 4.0  # standard deviations of a feature that are told apart
# In dB^2; chosen on training photos, each left out in turn.
CONSTANT, LINEAR, CURVED, NOISE = 4.0, 0.02, 12.0, 10.0
REACH = 1.0  # standard deviations of every feature, over which restorations have to do with each other


class Judgement(nn.Module):
    """Features (M, FEATURES) -> the expected gain in dB, (M,), and the probability that it is above zero, (M,).

    Attributes:
        mean, scale: (FEATURES,), of the features.
        seen: (N, FEATURES), those of the examples, less the mean and over the scale.
        weights: (N,) of the examples.
        odds: (2,), logit of the probability at no gain, and by how much it grows with a dB.
    """

    mean: Tensor
    scale: Tensor
    seen: Tensor
    weights: Tensor
    odds: Tensor

    def __init__(self, examples: int = 1) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("scale", torch.ones(FEATURES))
        self.register_buffer("seen", torch.zeros(examples, FEATURES))
        self.register_buffer("weights", torch.zeros(examples))
        self.register_buffer("odds", torch.tensor([0.0, 1.0]))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        gains = covariance(self.standard(features), self.seen) @ self.weights
        return gains.clamp(-LARGEST_GAIN, LARGEST_GAIN), torch.sigmoid(self.odds[0] + self.odds[1] * gains)

    def standard(self, features: Tensor) -> Tensor:
        """Features (M, FEATURES) less their mean, over their scale."""
        return ((features - self.mean) / self.scale).clamp(-LARGEST, LARGEST)


def covariance(one: Tensor, other: Tensor) -> Tensor:
    """k(f, g) of standard features, (M, FEATURES) and (N, FEATURES): (M, N), in dB^2."""
    apart = torch.cdist(one, other).square() / (2 * REACH**2 * one.shape[-1])
    return CONSTANT + LINEAR * one @ other.T + CURVED * torch.exp(-apart)
