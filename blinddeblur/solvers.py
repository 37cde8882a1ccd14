"""Linear systems by conjugate gradients, and the lengths that Fourier transforms are fast at."""

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradient(
    normal: Callable[[Tensor], Tensor],
    right: Tensor,
    start: Tensor,
    iterations: int,
    inverse: Callable[[Tensor], Tensor] = lambda residual: residual,
    done: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Approximate solution of normal(x) = right for a symmetric positive definite map.

    Args:
        normal: the map, (B, ...) -> (B, ...). The first dimension counts separate problems, with steps of their own.
        right: (B, ...).
        start: (B, ...), a first guess of x.
        iterations: at most.
        inverse: an approximate inverse of the map, symmetric and positive definite too: it makes x converge faster
            (preconditioning).
        done: given x and what the last step took off its squared error in the norm of the map, (B, 1, ...) (Hestenes
            and Stiefel 1952), says of each problem whether it is solved well enough; its x then stays as it is.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        products = torch.bmm(a.flatten(1)[:, None], b.flatten(1)[..., None])
        return products.view(-1, *[1] * (start.ndim - 1))

    x, residual = start, right - normal(start)
    power = torch.ones_like(dot(x, x))
    direction, running = torch.zeros_like(x), torch.ones_like(power, dtype=torch.bool)
    tiny = torch.finfo(x.dtype).tiny  # so that nothing is divided by zero where x is the solution
    for _ in range(iterations):
        better = inverse(residual)
        previous, power = power, dot(residual, better)
        direction = torch.addcmul(better, power / previous.clamp_min(tiny), direction)
        image = normal(direction)
        step = torch.where(running, power / dot(direction, image).clamp_min(tiny), 0)
        x, residual = torch.addcmul(x, step, direction), torch.addcmul(residual, step, image, value=-1)
        if done is not None:
            running = running & ~done(x, step * power)
            if not running.any():
                break
    return x


def toeplitz(correlation: Tensor, size: int) -> Callable[[Tensor], Tensor]:
    """The map x -> crop(correlation * x) of (B, K, K), a product with a block Toeplitz matrix of such blocks.

    Args:
        correlation: (..., H, W), at least 2 K - 1 each, an autocorrelation as a transform gives it: no lag comes
            first, and negative lags are at the end.
        size: K.
    """
    reach = size - 1
    shape = fast_shape((2 * size, 2 * size))
    lags = torch.roll(correlation, (reach, reach), dims=(-2, -1))[..., : 2 * reach + 1, : 2 * reach + 1]
    transfer = torch.fft.rfft2(lags, s=shape)

    def product(x: Tensor) -> Tensor:
        whole = torch.fft.irfft2(transfer * torch.fft.rfft2(x, s=shape), s=shape)
        return whole[..., reach : 2 * reach + 1, reach : 2 * reach + 1]

    return product


def fast_length(length: int, odd: bool = False) -> int:
    """The smallest even number from `length` upward without prime factors above 5; or odd number, above 7."""
    length += length % 2 != odd
    while True:
        rest = length
        for factor in (3, 5, 7) if odd else (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 2


def fast_shape(shape: tuple[int, int], odd: bool = False) -> tuple[int, int]:
    """The smallest sides from these upward that Fourier transforms are fast at, all even or all odd."""
    return fast_length(shape[0], odd), fast_length(shape[1], odd)
