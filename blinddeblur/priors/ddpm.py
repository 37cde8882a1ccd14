"""The schedule of published diffusion networks, and of the paper: linear, 1000 steps (Ho et al. 2020, section 4)."""

import torch
from torch import Tensor

STEPS = 1000
FIRST_BETA, LAST_BETA = 1e-4, 0.02  # the noise variance added by each step grows linearly


def linear_alpha_bar() -> Tensor:
    """The share of the image in the variance of x_t, for each of the 1000 timesteps: (1000,), float64 on the CPU."""
    betas = torch.linspace(FIRST_BETA, LAST_BETA, STEPS, dtype=torch.float64)
    return torch.cumprod(1 - betas, dim=0)
