"""The optimisers of our networks: Muon for the hidden convolutions, AdamW for everything else.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") replaces each update of a weight
matrix by the nearest orthogonal one, so that all directions are learned at the same pace. On our U-Nets it reaches in
five minutes what AdamW reaches in a hundred.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: steepest at zero with singular values within 0.7 to 1.2
ITERATIONS = 5
MOMENTUM = 0.95  # of the moving average of gradients, in Nesterov's form
UPDATE_SCALE = 0.2  # root mean square of an AdamW update (Liu et al. 2025), so that both share one learning rate
EDGES = {"head", "tail"}  # first and last layers have no hidden features on one side; Jordan et al. leave them to AdamW


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by a Newton-Schulz iteration; the learning rate is on the scale of AdamW's.

    Args:
        params: weights with at least two dimensions; all but the first are taken as one.
        precision: of the iteration. bfloat16 is enough where the hardware is fast in it.
    """

    def __init__(self, params: Iterable[Tensor], precision: torch.dtype) -> None:
        super().__init__(params, {"lr": 1e-3, "momentum": MOMENTUM})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient. A closure is not supported."""
        for group in self.param_groups:
            for weights in _stacks(group["params"]):
                self._update(weights, group["lr"], group["momentum"])

    def _update(self, weights: list[Tensor], lr: float, momentum: float) -> None:
        """Update weights of one shape, in one batch."""
        directions = []
        for weight in weights:
            gradient, state = weight.grad, self.state[weight]
            assert gradient is not None
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            average = state["momentum"].lerp_(gradient, 1 - momentum)
            directions.append(gradient.lerp(average, momentum).flatten(1).to(self.precision))
        together = orthogonalise(torch.stack(directions)) if len(directions) > 1 else [orthogonalise(directions[0])]
        for weight, update in zip(weights, together, strict=True):
            scale = UPDATE_SCALE * max(update.shape) ** 0.5  # an orthogonal m x n matrix has entries of 1 / sqrt(max)
            weight.add_(update.view_as(weight).to(weight.dtype), alpha=-lr * scale)


def orthogonalise(matrices: Tensor) -> Tensor:
    """(..., m, n) -> the same shape, U V' of the singular value decomposition U S V', up to about 20 % in S.

    Five steps of X <- a X + b (X X') X + c (X X')^2 X from X / ||X||, without any decomposition.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices  # X X' is then the smaller of the two products
    x = x / (torch.linalg.matrix_norm(x.float(), keepdim=True).to(x.dtype) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def optimisers(network: nn.Module, precision: torch.dtype) -> list[torch.optim.Optimizer]:
    """Muon for the hidden convolutions of a network, AdamW for what is left: embeddings, biases, head and tail."""
    hidden = [p for name, p in network.named_parameters() if p.ndim == 4 and not EDGES & set(name.split("."))]
    taken = {id(p) for p in hidden}
    rest = [p for p in network.parameters() if id(p) not in taken]
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    chosen: list[torch.optim.Optimizer] = []
    if hidden:
        chosen.append(Muon(hidden, precision))
    if rest:
        chosen.append(torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.0, fused=fused))
    return chosen


def _stacks(weights: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Weights to be updated together: those of one shape on a GPU, where a launch costs more than a small product."""
    by_shape: dict[Any, list[Tensor]] = {}
    for weight in weights:
        if weight.grad is not None:
            # On a CPU one product after the other is faster, by up to 1.6 times.
            key = id(weight) if weight.device.type == "cpu" else weight.shape
            by_shape.setdefault(key, []).append(weight)
    yield from by_shape.values()
