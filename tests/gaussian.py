"""A diffusion prior whose answers are known."""

import torch
from torch import Tensor


class Gaussian:
    """The exact prior of independent Gaussian numbers N(mean, deviation^2), on the paper's scale."""

    def __init__(self, mean: float | Tensor, deviation: float | Tensor, v: float | None = None) -> None:
        self.mean, self.deviation, self.v = mean, deviation, v

    def __call__(self, x_t: Tensor, t: int, alpha_bar: float) -> tuple[Tensor, Tensor | None]:
        signal, noise = alpha_bar * self.deviation**2, 1 - alpha_bar
        x0 = self.mean + self.deviation**2 * alpha_bar**0.5 / (signal + noise) * (x_t - alpha_bar**0.5 * self.mean)
        return x0, None if self.v is None else torch.full_like(x0, self.v)


class GaussianImage:
    """The same of an image of one channel, any size, as a prior that can denoise and predict: N(mean, deviation^2)
    in [0, 1]."""

    channels = 1
    image_size: int | None = None

    def __init__(self, mean: float | Tensor, deviation: float) -> None:
        self.mean, self.deviation = mean, deviation
        self.predict = Gaussian(2 * mean - 1, 2 * deviation)

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        return self.mean + self.deviation**2 / (self.deviation**2 + sigma**2) * (x - self.mean)
