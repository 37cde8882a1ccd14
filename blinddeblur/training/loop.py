"""The training loop of our networks: batches and a loss in, a moving average of the network out.

It knows neither photos nor noise. What it cares for is that no progress is ever lost: everything needed to go on is
in one checkpoint file, which is replaced as a whole.
"""

import copy
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from blinddeblur.errors import EstimationError, WeightsError
from blinddeblur.files.together import write_bytes
from blinddeblur.training.muon import optimisers
from blinddeblur.training.options import Options

LARGEST_GRADIENT = 1.0  # norm at which gradients are clipped
AVERAGE_OVER = 500  # steps: length of the moving average, shorter at the start
WINDOW = 50  # steps whose losses are averaged for a report

Batch = Tensor | tuple[Tensor, ...]
Loss = Callable[[Any, Any, torch.Generator], Tensor]  # (network, batch, generator of all randomness) -> scalar


@dataclass(frozen=True)
class TrainingStatus:
    """How far a training is.

    Attributes:
        step, examples, minutes: done so far, earlier runs included.
        loss: mean over the last steps of this run; not a number before the first.
        learning_rate: of the last step.
    """

    step: int
    examples: int
    minutes: float
    loss: float
    learning_rate: float


def train(
    network: nn.Module,
    batches: Iterator[Batch],
    loss: Loss,
    checkpoint: Path,
    *,
    minutes: float = math.inf,
    steps: float = math.inf,
    learning_rate: float = Options.learning_rate,
    warm_up: int = 200,
    precision: torch.dtype = torch.float32,
    compiled: bool = False,
    save_every: float = Options.save_every,
    report_every: float = 1.0,
    seed: int = 0,
    about: Mapping[str, Any] = MappingProxyType({}),
    report: Callable[[TrainingStatus], None] = lambda status: None,
    saved: Callable[[nn.Module, TrainingStatus], None] = lambda average, status: None,
    warn: Callable[[str], None] = lambda sentence: None,
) -> nn.Module:
    """Train until the budget is spent, going on from the checkpoint where there is one.

    The learning rate rises over `warm_up` steps, or a tenth of the budget where that is shorter, and falls to zero over
    the second half of the budget. Returns the moving average of the network: what is worth shipping.

    Args:
        network: what is trained, in place, on the device it is on; in float32.
        batches: tensors, or tuples of tensors, whose first dimension counts examples; moved to the device here.
        loss: called as loss(network, batch, generator), the generator on the device.
        checkpoint: file that is written at the start, every `save_every` seconds, at an interrupt and at the end.
        minutes, steps: budget, earlier runs included; the first to be reached ends the training.
        learning_rate: the largest.
        warm_up: steps over which it rises.
        precision: of the products; weights and their average stay in float32.
        compiled: translate the network for the device first, which takes about a minute; where that fails it is
            trained as it is, after a warning.
        save_every: seconds between two checkpoints.
        report_every: seconds between two reports, each of which waits for the device.
        seed: of the generator. The same seed, batches and number of steps give the same weights.
        about: plain values to be kept in the checkpoint, for `read_checkpoint`.
        report: told how far it is, now and then and at the end.
        saved: given the moving average after each regular checkpoint, to validate and publish it.
        warn: told in a sentence what did not work as hoped.

    Raises:
        WeightsError: the checkpoint is damaged or belongs to another network.
        EstimationError: the loss is no longer a finite number, or the batches have come to an end.
        OutputError: the checkpoint cannot be written.
    """
    state = _State(network, precision, seed)
    if checkpoint.exists():
        state.load(checkpoint)
    else:
        state.save(checkpoint, about)  # says at once whether it can be written
    trained: nn.Module | None = None
    start = time.monotonic() - state.seconds
    reported = last_saved = time.monotonic()
    try:
        while (spent := max(state.seconds / (60 * minutes), state.step / steps)) < 1:
            batch = _placed(_next(batches, state.step), state.device)
            if trained is None:
                trained = _compiled(network, loss, batch, precision, warn) if compiled else network
            rise = max((state.step + 1) / warm_up, 10 * spent)
            state.update(trained, loss, batch, learning_rate * min(1.0, 2 * (1 - spent), rise))
            now = time.monotonic()
            state.seconds = now - start
            if now - reported >= report_every:
                report(state.status())
                reported = now
            if now - last_saved >= save_every:
                state.save(checkpoint, about)
                saved(state.average, state.status())
                last_saved = time.monotonic()
    except KeyboardInterrupt:
        state.save(checkpoint, about)
        raise
    state.save(checkpoint, about)
    if state.step > state.begun:
        report(state.status())
    saved(state.average, state.status())
    return state.average


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a training has left: "step", "examples", "seconds", "about", and the states of all that is trained.

    Raises WeightsError where the file is no checkpoint, or damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"network", "average", "optimisers", "step", "examples", "seconds", "about"} - content.keys()
    except Exception as error:  # torch.load raises whatever the damage makes it raise
        raise _unusable(path, "it is damaged, or no checkpoint") from error
    if missing:
        raise _unusable(path, f"it lacks {', '.join(sorted(missing))}")
    return content


class _State:
    """All that changes while a network is trained, and its passage to and from a checkpoint."""

    def __init__(self, network: nn.Module, precision: torch.dtype, seed: int) -> None:
        self.network, self.precision, self.seed = network, precision, seed
        self.device = next(network.parameters()).device
        self.average = copy.deepcopy(network).requires_grad_(False).eval()
        self.optimisers = optimisers(network, precision)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.losses = torch.full((WINDOW,), math.nan, device=self.device)  # of the last steps of this run
        self.step = self.examples = self.begun = 0
        self.seconds = self.rate = 0.0

    def update(self, trained: nn.Module, loss: Loss, batch: Batch, rate: float) -> None:
        """One step. `trained` is the network or a compiled form of it, with the same parameters."""
        self.rate = rate
        self.losses[(self.step - self.begun) % WINDOW] = _gradient(trained, loss, batch, self.generator, self.precision)
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        self.examples += len(batch if isinstance(batch, Tensor) else batch[0])
        share = max(1 / AVERAGE_OVER, 10 / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), share)

    def status(self) -> TrainingStatus:
        """How far the training is. Raises EstimationError where a loss was not finite, since it will not recover."""
        done = self.step - self.begun
        loss = self.losses[:done].mean().item() if done else math.nan
        if done and not math.isfinite(loss):
            raise _not_finite(self.step)
        return TrainingStatus(self.step, self.examples, self.seconds / 60, loss, self.rate)

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Replace the checkpoint, unless the weights are spoilt: the one before is then worth more."""
        if not all(bool(p.isfinite().all()) for p in self.network.parameters()):
            raise _not_finite(self.step)
        content = io.BytesIO()
        parts = {"network": self.network, "average": self.average}
        torch.save(
            {name: part.state_dict() for name, part in parts.items()}
            | {"optimisers": [optimiser.state_dict() for optimiser in self.optimisers]}
            | {"step": self.step, "examples": self.examples, "seconds": self.seconds, "about": dict(about)},
            content,
        )
        write_bytes(content.getvalue(), path, overwrite=True)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        content = read_checkpoint(path)
        try:
            self.network.load_state_dict(content["network"])
            self.average.load_state_dict(content["average"])
            for optimiser, state in zip(self.optimisers, content["optimisers"], strict=True):
                optimiser.load_state_dict(state)
            self.step = self.begun = int(content["step"])
            self.examples = int(content["examples"])
            self.seconds = float(content["seconds"])
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise _unusable(path, "it belongs to another network") from error
        self.generator.manual_seed(self.seed + self.step)


def _gradient(
    network: nn.Module, loss: Loss, batch: Batch, generator: torch.Generator, precision: torch.dtype
) -> Tensor:
    """The loss, detached, its gradient added to the parameters'."""
    with torch.autocast(generator.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
        value = loss(network, batch, generator)
    value.backward()  # type: ignore[no-untyped-call]
    return value.detach()


def _compiled(
    network: nn.Module, loss: Loss, batch: Batch, precision: torch.dtype, warn: Callable[[str], None]
) -> nn.Module:
    """The network translated for its device, sharing its parameters; or itself where that does not work."""
    compiled: Any = torch.compile(network)
    try:
        _gradient(compiled, loss, batch, torch.Generator(next(network.parameters()).device), precision)
    except Exception as error:  # a compiler that is missing or fails raises anything
        reason = (str(error).splitlines() or [""])[0]
        warn(f"torch.compile does not work here ({type(error).__name__}: {reason}). Training goes on without, slower.")
        compiled = network
    network.zero_grad()
    return cast("nn.Module", compiled)


def _placed(batch: Batch, device: torch.device) -> Batch:
    """A batch on the device, images with their channels last: the layout that convolutions are fastest in."""
    if not isinstance(batch, Tensor):
        return tuple(_placed(part, device) for part in batch)  # type: ignore[misc]
    layout = torch.channels_last if batch.ndim == 4 else torch.contiguous_format
    return batch.to(device, non_blocking=True).contiguous(memory_format=layout)


def _next(batches: Iterator[Batch], step: int) -> Batch:
    batch = next(batches, None)
    if batch is not None:
        return batch
    raise EstimationError(f"The training data has come to an end at step {step}. Check that it can still be read.")


def _not_finite(step: int) -> EstimationError:
    return EstimationError(
        f"The training diverged before step {step}: the loss is no longer a finite number. The last checkpoint is "
        "kept. Go on from it with a lower --learning-rate."
    )


def _unusable(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"The checkpoint {path} cannot be continued: {reason}. It was left as it is. Put a copy in its place, or "
        "start anew in another folder."
    )
