"""The posterior mean of a stationary Gaussian gradient field of which one sees a window and noise.

On a torus that is one multiplication per frequency (Wiener). A window is no torus: the field goes on beyond its border,
unseen, and C, the covariance within, is Toeplitz but not circulant. It is applied exactly by Fourier transforms on a
torus twice as large, and (C + sigma^2) z = x is solved by conjugate gradients.
"""

import math
from typing import Any

import torch
from torch import Tensor

from blinddeblur.solvers import conjugate_gradient, fast_length, fast_shape

POLYNOMIALS = 48  # along a side, solved for directly; 32 take half as many iterations again
ITERATIONS = 200  # 2 to 20 are usual; only noise well under a hundredth of a pixel comes near
SMALLEST_SIGMA = 1e-6  # pixels, so that nothing is divided by zero


class Window:
    """What all posterior means on a window of one size have in common.

    The Wiener filter of the torus alone is a poor preconditioner, for it errs along the whole border, most for what is
    smooth. So what is smooth, the span Z of gradients of polynomials, is solved for directly, and conjugate gradients
    do the rest (deflation, method A-DEF2 of Tang, Nabben, Vuik and Erlangga 2009). Hundreds of iterations become a few.

    Args:
        lags: (3, 2 H - 1, 2 W - 1), covariance of row with row, column with column and row with column component over
            the lags within the window, lag zero in the middle; float64.
        row, column, power: f_row (P, 1), f_column (1, Q // 2 + 1) and S / (f f^T) on the torus of `torus_of(H, W)`.
        tolerance: at which the iterations stop: estimated error relative to the answer, both root mean square. Fields
            and noise as the prior expects them come out within half of it; pure noise where sigma is a few hundredths
            of a pixel, within three times.
    """

    def __init__(self, lags: Tensor, row: Tensor, column: Tensor, power: Tensor, tolerance: float) -> None:
        height, width = (side // 2 + 1 for side in lags.shape[1:])
        self.shape, self.torus = (height, width), torus_of(height, width)
        self.tolerance = tolerance
        # Eigenvalues of this torus may be negative. That is harmless: within the window C is exact, and has none.
        embedded = lags.new_zeros(3, *self.torus)
        embedded[:, : 2 * height - 1, : 2 * width - 1] = lags
        self.transfer = torch.fft.rfft2(embedded.roll((1 - height, 1 - width), (1, 2))).real
        # A preconditioner need not be exact: single precision takes half the time.
        self.row, self.column, self.power = row.float(), column.float(), power.float()
        self.rows, self.row_slopes, row_norms = _polynomials(height, lags.device)
        self.columns, self.column_slopes, column_norms = _polynomials(width, lags.device)
        norms = (row_norms[:, None, :, None] + column_norms[:, None, :]).sqrt()
        self.scale = torch.where(norms > 0, 1 / norms, 0)
        values, self.vectors = torch.linalg.eigh(self._coarse_covariance(lags))
        self.values = values.clamp_min(0)[..., None]

    def posterior_mean(self, x: Tensor, sigma: Tensor) -> Tensor:
        """C (C + sigma^2)^(-1) x: (B, 2, H, W) and (B,) -> (B, 2, H, W), differentiable in x.

        The inside is float64: C + sigma^2 has condition numbers beyond what float32 can tell apart.
        """
        mean: Tensor = _PosteriorMean.apply(x, sigma, self)  # type: ignore[no-untyped-call]
        return mean

    def solve(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The posterior mean in float64 and without gradients."""
        variance = sigma.clamp_min(SMALLEST_SIGMA)[:, None, None, None] ** 2

        def normal(z: Tensor) -> Tensor:
            return self.covariance(z) + variance * z

        def precondition(residual: Tensor) -> Tensor:
            z = (residual - self.wiener(residual, variance)) / variance
            return z - self.coarse(normal(z), variance)

        def done(z: Tensor, gain: Tensor) -> Tensor:
            # The squared error in the norm of C + sigma^2 is at least sigma^2 times the plain one. Where a step takes
            # little off it, little is left.
            size = (x - variance * z).square().sum(dim=(1, 2, 3), keepdim=True)
            return variance * gain <= self.tolerance**2 * size

        start = self.coarse(x, variance)
        start = start + precondition(x - normal(start))  # the residual has no part in Z now, which the method needs
        return x - variance * conjugate_gradient(normal, x, start, ITERATIONS, precondition, done)

    def covariance(self, z: Tensor) -> Tensor:
        """C z, exact: (B, 2, H, W) -> (B, 2, H, W)."""
        row, column = self._transform(z).unbind(1)
        rows, columns, crossed = self.transfer
        return self._inverse(torch.stack([rows * row + crossed * column, crossed * row + columns * column], dim=1))

    def wiener(self, x: Tensor, variance: Tensor) -> Tensor:
        """The posterior mean as if zeros had been seen all around the window."""
        row, column = self._transform(x.float()).unbind(1)
        gain = self.power / (self.power * (self.row**2 + self.column**2) + variance[:, 0].float())
        potential = gain * (self.row * row + self.column * column)
        return self._inverse(torch.stack([self.row * potential, self.column * potential], dim=1)).to(x)

    def coarse(self, x: Tensor, variance: Tensor) -> Tensor:
        """Z (Z^T (C + sigma^2) Z)^(-1) Z^T x, with the columns of Z orthonormal."""
        row, column = x[:, None, None].unbind(3)
        weights = self.row_slopes.mT[:, None] @ row @ self.columns + self.rows.mT[:, None] @ column @ self.column_slopes
        along = self.vectors.mT @ (self.scale * weights).flatten(3)[..., None]
        solved = self.vectors @ (along / (self.values + variance[..., None]))
        weights = self.scale * solved.reshape(weights.shape)
        row = self.row_slopes[:, None] @ weights @ self.columns.mT
        column = self.rows[:, None] @ weights @ self.column_slopes.mT
        return torch.stack([row.sum(dim=(1, 2)), column.sum(dim=(1, 2))], dim=1)

    def _coarse_covariance(self, lags: Tensor) -> Tensor:
        """Z^T C Z, (2, 2, N, N): polynomials even and odd in either direction do not mix, which leaves four blocks."""

        def product(table: Tensor, row: tuple[Tensor, Tensor], column: tuple[Tensor, Tensor]) -> Tensor:
            return _correlation(*row)[:, None] @ table @ _correlation(*column).mT

        rows, row_slopes, columns, column_slopes = self.rows, self.row_slopes, self.columns, self.column_slopes
        blocks = product(lags[0], (row_slopes, row_slopes), (columns, columns))
        blocks += product(lags[1], (rows, rows), (column_slopes, column_slopes))
        blocks += product(lags[2], (row_slopes, rows), (columns, column_slopes))
        blocks += product(lags[2], (rows, row_slopes), (column_slopes, columns))
        m, n, scale = rows.shape[2], columns.shape[2], self.scale.flatten(2)
        blocks = blocks.reshape(2, 2, m, m, n, n).transpose(3, 4).reshape(2, 2, m * n, m * n)
        return scale[..., None] * blocks * scale[..., None, :]

    def _transform(self, x: Tensor) -> Tensor:
        """rfft2 of x on the torus; one side at a time passes over the rows that are zero."""
        return torch.fft.fft(torch.fft.rfft(x, n=self.torus[1]), n=self.torus[0], dim=-2)

    def _inverse(self, spectrum: Tensor) -> Tensor:
        rows = torch.fft.ifft(spectrum, dim=-2)[..., : self.shape[0], :]
        return torch.fft.irfft(rows, n=self.torus[1])[..., : self.shape[1]]


class _PosteriorMean(torch.autograd.Function):
    """x -> E[phi | x]. The map is linear and self-adjoint: it takes gradients back as it takes x forth."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sigma: Tensor, window: Window) -> Tensor:
        ctx.sigma, ctx.window = sigma, window
        return window.solve(x.to(sigma.device, torch.float64), sigma.double()).to(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.window.posterior_mean(gradient, ctx.sigma), None, None


def torus_of(height: int, width: int) -> tuple[int, int]:
    """Sides of a torus on which no two points of a window are nearer to each other the other way round."""
    return fast_shape((2 * height - 1, 2 * width - 1), odd=True)  # so that each frequency but 0 has its negative


def _polynomials(length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(2, length, N), (2, length, N), (2, N): orthonormal polynomials, their slopes and the squared norms of those.

    The even ones, then the odd ones; the slopes are orthogonal as well. Degrees stay under 3 sqrt(length): far beyond
    2 sqrt(length) polynomials swing between equally spaced points. On a single point what should be odd is zero.
    """
    x = torch.linspace(-1, 1, length, dtype=torch.float64, device=device) * (length > 1)
    values, slopes = [torch.ones_like(x), x], [torch.zeros_like(x), torch.ones_like(x)]
    pairs = max(1, min(POLYNOMIALS // 2, math.isqrt(length * 9 // 4), length // 2))
    for _ in range(2 * pairs - 2):  # Chebyshev's, which span the same space as powers but in numbers of one size
        slopes.append(2 * values[-1] + 2 * x * slopes[-1] - slopes[-2])
        values.append(2 * x * values[-1] - values[-2])
    value = torch.stack(values).reshape(-1, 2, length).permute(1, 2, 0)
    slope = torch.stack(slopes).reshape(-1, 2, length).permute(1, 2, 0) * 2 / max(length - 1, 1)
    _, lengths, axes = torch.linalg.svd(value, full_matrices=False)
    whiten = axes.mT * torch.where(lengths > 0, 1 / lengths, 0)[:, None, :]
    norms, turn = torch.linalg.eigh((slope @ whiten).mT @ (slope @ whiten))
    return value @ whiten @ turn, slope @ whiten @ turn, norms.clamp_min(0)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """sum_i a[i, m] b[i - lag, n] over every lag: two (2, length, N) -> (2, N N, 2 length - 1), lag 0 in the middle."""
    length = a.shape[1]
    n = fast_length(2 * length - 1, odd=True)
    spectrum = torch.fft.rfft(a, n=n, dim=1)[..., None] * torch.fft.rfft(b, n=n, dim=1)[..., None, :].conj()
    return torch.fft.irfft(spectrum, n=n, dim=1).roll(length - 1, 1)[:, : 2 * length - 1].flatten(2).mT
