"""The tilt of Kolmogorov turbulence as a prior: how far each image point is displaced, in closed form, no network.

Not the warp itself (that is physics) and not the blur that turbulence adds.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from blinddeblur.errors import EstimationError, UsageError
from blinddeblur.priors.window import Window, torus_of
from blinddeblur.solvers import fast_shape

KOLMOGOROV = 0.0229  # of the phase spectrum, 0.0229 r0^(-5/3) f^(-11/3) rad^2 (Noll 1976)
OUTER_SCALE = 20  # in correlation lengths: 2 m behind an aperture of 10 cm, an order found near the ground
MARGIN = 2  # outer scales around a window; correlations fall as exp(-2 pi r / L), to 1e-5 of the variance there
LARGEST_TORUS = 8192  # side in pixels; one array of its spectrum then takes 270 MB
CORRELATION_LENGTH = 16.0  # pixels, where nothing else is known of the aperture
TYPICAL_STRENGTH = 2.0  # D / r0 of tilts of 1.2 pixels (root mean square), about those of the paper
NETWORK_UNIT = 2.5  # pixels that are 1 to a network of tilts: where the fields of the paper end
RANGE = 4  # standard deviations at the ends of [-1, 1], the scale of the paper: 6 values in 100,000 lie outside


@dataclass(frozen=True)
class KolmogorovTilt:
    """Tilt seen through an aperture of diameter D and turbulence of Fried parameter r0: a denoiser, exact.

    A point is displaced by the gradient of the phase, averaged over the aperture: that is what moves its centre of
    mass (the G-tilt; Fried 1975, Tyler 1994), and leaves a blur kernel that is centred. So with f = (f_row, f_column)
    in cycles per pixel, von Karman's phase spectrum and the aperture's transform, the 2x2 spectrum has rank one:

        S(f) = c f f^T (|f|^2 + 1/L^2)^(-11/6) (2 J1(pi l |f|) / (pi l |f|))^2,    c = 0.0229 a^2 (D/r0)^(5/3) l^(1/3)

    c: an angle is lambda / 2 pi times the slope of the phase, so 2 pi rad per aperture are one lambda / D, `a` pixels;
    per aperture, lengths are 1 / l and the phase spectrum is 0.0229 (D/r0)^(5/3) (l f)^(-11/3) l^2.

    For L to infinity the integral of S gives each axis 0.170 (D/r0)^(5/3) (lambda/D)^2. (Noll's 0.182 belongs to the
    Zernike tilt, whose filter is 8 J2(x) / x^2 in place of 2 J1(x) / x.) A finite L lowers this, see `variance`, by
    taking away shifts that the whole image shares; how neighbours differ hardly depends on it. The field is limited
    to the band of the pixel grid.

    Attributes:
        d_over_r0: D / r0, the strength of the turbulence.
        correlation_length: l, the aperture as it appears in the image at the distance of the turbulence, in pixels.
        outer_scale: L, in pixels; None means 20 correlation lengths.
        pixels_per_lambda_over_d: a, 2 for an image sampled at its Nyquist rate.
        tolerance: of the posterior mean, estimated error relative to the answer, both root mean square.

    Raises UsageError where a parameter is not a positive number.
    """

    d_over_r0: float
    correlation_length: float
    outer_scale: float | None = None
    pixels_per_lambda_over_d: float = 2.0
    tolerance: float = 0.01

    name: ClassVar[str] = "kolmogorov-tilt"
    kind: ClassVar[str] = "tilt"
    checksum: ClassVar[str | None] = None
    channels: ClassVar[int] = 2
    image_size: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        for name in ("d_over_r0", "correlation_length", "outer_scale", "pixels_per_lambda_over_d", "tolerance"):
            value = getattr(self, name)
            if not (value is None and name == "outer_scale") and not (math.isfinite(value) and value > 0):
                raise UsageError(f"The {name} of the tilt is {value}. Give a positive number.")

    @property
    def reach(self) -> float:
        """The outer scale in use, in pixels."""
        return OUTER_SCALE * self.correlation_length if self.outer_scale is None else self.outer_scale

    @cached_property
    def variance(self) -> float:
        """The variance of one component at one point, in squared pixels."""
        return float(self.covariance(1, 1)[0, 0, 0])

    @property
    def unit(self) -> float:
        """The displacement, in pixels, that is 1 on the scale of the paper."""
        return RANGE * math.sqrt(self.variance)

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """E[phi | x] for x = phi + sigma n, of a field that goes on beyond the window: C (C + sigma^2)^(-1) x.

        Differentiable in x, not in sigma.

        Args:
            x: (B, 2, H, W), row and column displacement in pixels.
            sigma: standard deviation of the noise in pixels, not negative; one number, or one for each field (B,).

        Raises:
            UsageError: the shape or sigma make no sense.
            EstimationError: x is not a number somewhere.
        """
        if x.ndim != 4 or x.shape[1] != self.channels or x.numel() == 0:
            raise UsageError(f"The prior {self.name} takes (B, {self.channels}, H, W); this is {tuple(x.shape)}.")
        level = torch.as_tensor(sigma, dtype=torch.float64)
        if level.shape not in ((), (1,), (len(x),)) or not ((level >= 0) & level.isfinite()).all():
            raise UsageError(
                "The noise of a tilt is a number of pixels, not negative: give one, or one for each field."
            )
        if not torch.isfinite(x).all():
            raise EstimationError("The tilt holds values that are not numbers. Use more steps, or smaller ones.")
        device = torch.device("cpu") if x.device.type == "mps" else x.device  # Apple's have no double precision
        window = _window(self, x.shape[2], x.shape[3], device)
        level = level.to(device).expand(len(x))
        mean = window.posterior_mean(x, level)
        return torch.where(level.to(x.device)[:, None, None, None] > 0, mean, x)

    def predict(self, x_t: Tensor, t: int, alpha_bar: float) -> tuple[Tensor, None]:
        """Tweedie's estimate on the scale of the paper, where x_0 = phi / unit; no variance is learned.

        Args:
            x_t: (B, 2, H, W), sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise.
            t: timestep; alpha_bar says all that is needed.
            alpha_bar: of the schedule there, above 0.
        """
        sigma = self.unit * math.sqrt((1 - alpha_bar) / alpha_bar)
        return self.denoise(self.unit / math.sqrt(alpha_bar) * x_t, sigma) / self.unit, None

    def sample(self, number: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draws (number, 2, height, width) in pixels: windows of a torus on which they cannot see round."""
        shape = self._torus(height, width)
        transfer = self.transfer(shape, generator.device)
        fields = []
        for _ in range(number):
            white = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
            spectrum = torch.fft.rfft2(white)
            gradient = [torch.fft.irfft2(t * spectrum, s=shape)[:height, :width] for t in transfer]
            fields.append(torch.stack(gradient).float())
        return torch.stack(fields)

    def covariance(self, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
        """The covariance of row with row, column with column and row with column displacement, over lags in a window.

        (3, 2 height - 1, 2 width - 1) in squared pixels, float64; lag zero lies in the middle.
        """
        shape = self._torus(height, width)
        row, column, power = self.spectrum(shape, device)
        tables = []
        for product in (row * row, column * column, row * column):
            table = torch.fft.irfft2(product * power, s=shape).roll((height - 1, width - 1), (0, 1))
            tables.append(table[: 2 * height - 1, : 2 * width - 1].clone())  # not a view: the whole may be large
        return torch.stack(tables)

    def structure(self, lag: int) -> float:
        """Mean squared difference of a component between points `lag` pixels apart along an axis, in squared pixels.

        The mean over both axes and components. Unlike the variance it hardly depends on the outer scale, and a few
        fields show it well.
        """
        rows, columns, _ = self.covariance(lag + 1, lag + 1)
        return float((2 * (rows + columns)[lag, lag] - (rows + columns)[lag, -1] - (rows + columns)[-1, lag]) / 2)

    def spectrum(self, shape: tuple[int, int], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """f_row (P, 1), f_column (1, Q // 2 + 1) and S / (f f^T) (P, Q // 2 + 1) on a P x Q torus with odd sides."""
        row = torch.fft.fftfreq(shape[0], dtype=torch.float64, device=device)[:, None]
        column = torch.fft.rfftfreq(shape[1], dtype=torch.float64, device=device)[None]
        squared = row**2 + column**2
        argument = (math.pi * self.correlation_length * squared.sqrt()).clamp_min(1e-9)
        aperture = 2 * torch.special.bessel_j1(argument) / argument
        strength = self.pixels_per_lambda_over_d**2 * self.d_over_r0 ** (5 / 3) * self.correlation_length ** (1 / 3)
        return row, column, KOLMOGOROV * strength * (squared + self.reach**-2) ** (-11 / 6) * aperture**2

    def transfer(self, shape: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """What to multiply the spectrum of white noise by, on a P x Q torus with odd sides: (2, P, Q // 2 + 1)."""
        row, column, power = self.spectrum(shape, device)
        return torch.stack([1j * f * power.sqrt() for f in (row, column)])

    def _torus(self, height: int, width: int) -> tuple[int, int]:
        """Sides of a torus on which no correlation reaches round to a window."""
        margin = math.ceil(MARGIN * self.reach)
        if max(height, width) + max(margin, height, width) > LARGEST_TORUS:
            raise UsageError(
                f"A tilt of outer scale {self.reach:g} px on {height} x {width} px takes too much memory. "
                "Give a smaller outer_scale or correlation_length."
            )
        return fast_shape((height + max(margin, height - 1), width + max(margin, width - 1)), odd=True)


@lru_cache(maxsize=4)
def _window(prior: KolmogorovTilt, height: int, width: int, device: torch.device) -> Window:
    """A sampler asks for the same one at every step, and making it takes longer than using it."""
    with torch.no_grad():
        spectrum = prior.spectrum(torus_of(height, width), device)
        return Window(prior.covariance(height, width, device), *spectrum, prior.tolerance)
