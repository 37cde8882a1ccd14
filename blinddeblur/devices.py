"""The devices that networks run on: which one a name means, and which of them are faster in half precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from blinddeblur.errors import UsageError

# Fewer are done as soon by one thread less; and where others compute as well, each operation waits for the last thread.
PIXELS_A_THREAD = 192**2


def find_device(name: str) -> torch.device:
    """The device "auto" (the best), "cpu", "cuda", "cuda:N" or "mps". Raises UsageError where there is none."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"The device {name} cannot be used here. Choose --device cpu, or leave it out.") from error
    return device


def half_is_faster(device: torch.device) -> bool:
    """Whether convolutions run faster in bfloat16 there: GPUs of CUDA, and CPUs with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # young in torch
    return device.type == "cpu" and any(capabilities.get(unit, False) for unit in ("amx_bf16", "avx512_bf16"))


@contextmanager
def threads_for(pixels: int) -> Iterator[None]:
    """As many threads as are of use for an image of so many pixels, and no more than there were."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, -(-pixels // PIXELS_A_THREAD))))
    try:
        yield
    finally:
        torch.set_num_threads(before)
