"""How noisy a measurement is."""

import torch
from torch import Tensor

QUANTISATION = 0.29 / 255  # standard deviation of rounding to 8 bits
CLIPPED = (1.5 / 255, 253.5 / 255)  # pixels outside have lost their noise


def estimate_sigma(y: Tensor) -> float:
    """Standard deviation of the noise of a photo, in image units, from its finest diagonal details.

    The median of the absolute Haar details (Donoho and Johnstone 1994) in blocks, and of the blocks the calmer
    third: texture only ever adds detail. Blur has taken the photo's own finest detail away, which helps.

    Args:
        y: (B, C, H, W) in [0, 1], H and W at least 16.

    Returns:
        sigma, at least the error of rounding to 8 bits.
    """
    height, width = (side // 2 * 2 for side in y.shape[-2:])
    y = y[..., :height, :width]
    a, b, c, d = y[..., ::2, ::2], y[..., ::2, 1::2], y[..., 1::2, ::2], y[..., 1::2, 1::2]
    detail = ((a - b - c + d) / 2).abs()
    corners = torch.stack([a, b, c, d])
    detail[(corners < CLIPPED[0]).any(dim=0) | (corners > CLIPPED[1]).any(dim=0)] = float("nan")
    side = 8  # of the blocks: 64 values give a median good to 15 %
    blocks = detail.unfold(-2, side, side).unfold(-2, side, side).flatten(-2).reshape(-1, side * side)
    usable = blocks[blocks.isnan().sum(dim=1) < side * side // 2]
    if len(usable) == 0:
        return QUANTISATION
    medians = usable.nanmedian(dim=1).values / 0.6745
    calmest = medians.sort().values[: max(1, len(medians) // 3)]
    # The lower third of a spread of 15 % lies 1.09 spreads below its middle on average.
    return max(float(calmest.mean()) / (1 - 1.09 * 0.15), QUANTISATION)
