"""The training loop of our own denoisers: noise in, clean image as the target, a moving average out.

Loss and preconditioning are those of Karras et al. 2022 (EDM), equation 8; the noise levels are drawn so that
most of the effort goes where a restoration works (0.01 to 0.5 on [0, 1]) and every level up to 80 is seen.
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from blinddeblur.errors import WeightsError
from blinddeblur.priors.compact import CompactUNet

SIGMA_RANGE = (0.0025, 80.0)  # of the linear 1000-step schedule, in image units
TYPICAL_SIGMA, SPREAD = 0.08, 1.0  # of the log-normal part
EVERYWHERE = 0.2  # share of the levels drawn log-uniformly over the whole range
AVERAGE_OVER = 1000  # steps: length of the moving average, shorter at the start
SAVE_EVERY = 120.0  # seconds


def draw_sigmas(number: int, generator: torch.Generator) -> Tensor:
    """Noise levels to train on: (number,), in image units."""
    typical = TYPICAL_SIGMA * torch.exp(SPREAD * torch.randn(number, generator=generator))
    low, high = (torch.tensor(s).log() for s in SIGMA_RANGE)
    uniform = torch.exp(low + (high - low) * torch.rand(number, generator=generator))
    return torch.where(torch.rand(number, generator=generator) < EVERYWHERE, uniform, typical).clamp(*SIGMA_RANGE)


def draw_noise(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise in the shape of the images; a grey image gets grey noise, the same in all channels.

    So one network denoises grey photos as well as a grey network would: it sees that the channels are equal.
    """
    noise = torch.randn(clean.shape, generator=generator)
    grey = (clean == clean[:, :1]).flatten(1).all(dim=1)
    return torch.where(grey[:, None, None, None], noise[:, :1], noise)


def denoising_loss(network: CompactUNet, clean: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of D(clean + sigma * noise), weighted to be of order one at every level."""
    weight = (sigma**2 + network.sigma_data**2) / (sigma * network.sigma_data) ** 2
    error = network(clean + sigma[:, None, None, None] * noise, sigma) - clean
    return (weight[:, None, None, None] * error**2).mean()


def train(
    network: CompactUNet,
    draw_batch: Callable[[], Tensor],
    checkpoint: Path,
    minutes: float,
    learning_rate: float = 5e-4,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> CompactUNet:
    """Train for the given time, going on from the checkpoint where there is one.

    Args:
        network: what is trained, in place.
        draw_batch: gives (B, C, H, W) clean images in [0, 1].
        checkpoint: file that is read at the start and written every two minutes, through a temporary file.
        minutes: time budget; the learning rate falls to zero over the last half of it.
        report: called with the step and the mean loss since the last call, every 100 steps.

    Returns:
        The moving average of the network: what is worth shipping.

    Raises:
        WeightsError: the checkpoint is damaged or belongs to another network.
    """
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    step = 0
    if checkpoint.exists():
        step = _resume(checkpoint, network, average, optimiser)
    generator = torch.Generator().manual_seed(seed + step)
    start = saved = time.monotonic()
    losses: list[float] = []
    while (elapsed := time.monotonic() - start) < 60 * minutes:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, 2 * (1 - elapsed / (60 * minutes)), (step + 1) / 500)
        clean = draw_batch()
        sigma = draw_sigmas(len(clean), generator)
        loss = denoising_loss(network, clean, sigma, draw_noise(clean, generator))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        decay = min(1 - 1 / AVERAGE_OVER, step / (step + 10))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        losses.append(loss.item())
        if len(losses) == 100:
            report(step, sum(losses) / len(losses))
            losses.clear()
        if time.monotonic() - saved > SAVE_EVERY:
            _save(checkpoint, network, average, optimiser, step)
            saved = time.monotonic()
    _save(checkpoint, network, average, optimiser, step)
    return average


def _save(path: Path, network: CompactUNet, average: CompactUNet, optimiser: torch.optim.Optimizer, step: int) -> None:
    part = path.with_name(path.name + ".part")
    state = {"network": network.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save({**state, "step": step}, part)
    part.replace(path)


def _resume(path: Path, network: CompactUNet, average: CompactUNet, optimiser: torch.optim.Optimizer) -> int:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["step"])
    except Exception as error:  # torch.load raises whatever the damage makes it raise
        raise WeightsError(
            f"The checkpoint {path} cannot be continued ({error}). Move it away to start the training anew."
        ) from error
