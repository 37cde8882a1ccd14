"""White noise that belongs to places of a photo and not to tiles: whatever part is asked for, a pixel has the same."""

import numpy as np
import torch
from torch import Tensor

BLOCK = 64  # pixels that are drawn at once


def seed(*key: int) -> int:
    """A seed made of several numbers, zero or larger."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def white_noise(key: tuple[int, ...], top: int, left: int, shape: tuple[int, int, int]) -> Tensor:
    """Standard normal noise, (1, C, h, w) float32, on the CPU.

    Args:
        key: which noise; numbers, zero or larger.
        top, left: of the part; may be negative, where a photo is continued beyond its frame.
        shape: (C, h, w).
    """
    channels, height, width = shape
    noise = torch.empty(channels, height, width)
    for row in range(top // BLOCK, (top + height - 1) // BLOCK + 1):
        for column in range(left // BLOCK, (left + width - 1) // BLOCK + 1):
            generator = torch.Generator().manual_seed(seed(*key, row % 2**32, column % 2**32))
            block = torch.randn(channels, BLOCK, BLOCK, generator=generator)
            first, second = row * BLOCK - top, column * BLOCK - left  # where the block begins
            rows, columns = slice(max(first, 0), first + BLOCK), slice(max(second, 0), second + BLOCK)
            part = noise[:, rows, columns]
            inner = block[:, rows.start - first :, columns.start - second :]
            part.copy_(inner[:, : part.shape[1], : part.shape[2]])
    return noise[None]
