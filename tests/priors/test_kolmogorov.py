"""The tilt prior: its covariance against an integral, its samples against its covariance, its posterior mean against
dense matrices."""

import math

import pytest
import torch
from torch import Tensor
from torch.special import bessel_j0, bessel_j1

from blinddeblur.errors import EstimationError, UsageError
from blinddeblur.priors.kolmogorov import KOLMOGOROV, KolmogorovTilt

SMALL = KolmogorovTilt(d_over_r0=3, correlation_length=4, outer_scale=16, tolerance=1e-7)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def integral(lag: float, outer_scale: float) -> tuple[float, float]:
    """Longitudinal and lateral covariance in (D/r0)^(5/3) (lambda/D)^2; lengths in apertures, outer scale any.

    An isotropic spectrum f f^T W(f) has, with u = 2 pi f r, the longitudinal covariance 2 pi int W f^3 (J0 - J1 / u) df
    and the lateral one 2 pi int W f^3 J1 / u df.
    """
    f = torch.logspace(-10, 2.5, 200_000, dtype=torch.float64)
    u = (2 * math.pi * f * lag).clamp_min(1e-6)
    aperture = 2 * bessel_j1(math.pi * f) / (math.pi * f)
    density = 2 * math.pi * KOLMOGOROV * f**3 * (f**2 + outer_scale**-2) ** (-11 / 6) * aperture.nan_to_num(1) ** 2
    lateral, both = (torch.trapezoid(density * kernel * f, f.log()) for kernel in (bessel_j1(u) / u, bessel_j0(u)))
    return float(both - lateral), float(lateral)


def dense(prior: KolmogorovTilt, height: int, width: int) -> Tensor:
    """C as a matrix (2 H W, 2 H W)."""
    lags = prior.covariance(height, width)
    rows, columns = torch.arange(height), torch.arange(width)
    down = (rows[:, None] - rows + height - 1)[:, None, :, None]
    right = (columns[:, None] - columns + width - 1)[None, :, None, :]
    n = height * width
    row, column, crossed = (table[down, right].reshape(n, n) for table in lags)
    return torch.cat([torch.cat([row, crossed], 1), torch.cat([crossed.T, column], 1)])


def test_without_an_outer_scale_the_variance_is_that_of_the_literature() -> None:
    assert integral(0, 1e9)[0] == pytest.approx(0.170, rel=5e-3)


@pytest.mark.parametrize("outer_scale", [4.0, 20.0])
def test_the_covariance_is_the_integral_of_the_spectrum(outer_scale: float) -> None:
    length = 12
    prior = KolmogorovTilt(3, length, outer_scale * length, pixels_per_lambda_over_d=1.5)
    size = 2 * length + 1
    row, column, crossed = prior.covariance(size, size)[:, size - 1 :, size - 1 :] / (3 ** (5 / 3) * 1.5**2)
    tolerance = 3e-4 * integral(0, outer_scale)[0]  # what the aperture leaves beyond the band of the pixels
    for lag in (0, 3, 12, 24):
        along, across = integral(lag / length, outer_scale)
        for table, expected in ((row[lag, 0], along), (row[0, lag], across), (column[0, lag], along)):
            assert float(table) == pytest.approx(expected, abs=tolerance)
        assert abs(float(crossed[lag, 0])) < tolerance  # components do not mix along an axis,
    along, across = integral(5 * 2**0.5 / length, outer_scale)
    assert float(crossed[5, 5]) == pytest.approx((along - across) / 2, abs=tolerance)  # but do along a diagonal
    assert float(row[12, 0]) < 0.9 * float(row[0, 12])  # a gradient loses its memory faster along itself


def test_the_variance_grows_with_the_turbulence_and_the_sampling_not_with_the_aperture_in_pixels() -> None:
    variance = KolmogorovTilt(1, 8).variance
    assert variance == pytest.approx(4 * integral(0, 20)[0], rel=1e-3)
    assert KolmogorovTilt(8, 8).variance == pytest.approx(32 * variance)
    assert KolmogorovTilt(1, 8, pixels_per_lambda_over_d=4).variance == pytest.approx(4 * variance)
    assert KolmogorovTilt(1, 16).variance == pytest.approx(variance, rel=1e-3)


def test_the_torus_is_large_enough() -> None:
    size = 20
    wider = SMALL.covariance(3 * size, 3 * size)[:, 2 * size : 4 * size - 1, 2 * size : 4 * size - 1]
    torch.testing.assert_close(SMALL.covariance(size, size), wider, rtol=0, atol=3e-5 * SMALL.variance)


def test_samples_have_the_covariance() -> None:
    number, size = 800, 32
    phi = SMALL.sample(number, size, size, generator()).double()
    lags = SMALL.covariance(size, size)
    zero = size - 1
    # The mean of n products of a Gaussian field deviates by sqrt(2 sum of C^2 / n) at most; five of these.
    error = 5 * math.sqrt(2 * float((lags[0] ** 2).sum()) / (number * (size - 7) ** 2))
    assert error < 0.05 * SMALL.variance
    for component in (0, 1):
        for down, right in ((0, 0), (3, 0), (0, 3), (4, 7)):
            product = phi[:, component, : size - down, : size - right] * phi[:, component, down:, right:]
            assert float(product.mean()) == pytest.approx(float(lags[component, zero + down, zero + right]), abs=error)
    crossed = phi[:, 0, 3:, 3:] * phi[:, 1, :-3, :-3]
    assert float(crossed.mean()) == pytest.approx(float(lags[2, zero + 3, zero + 3]), abs=error)


@pytest.mark.parametrize("lag", [1, 5, 12])
def test_points_differ_as_the_structure_function_says(lag: int) -> None:
    fields = SMALL.sample(400, 24, 24, generator(4))
    differences = (fields[..., lag:, :] - fields[..., :-lag, :], fields[..., lag:] - fields[..., :-lag])
    mean = sum(float(difference.square().mean()) for difference in differences) / 2
    assert SMALL.structure(lag) == pytest.approx(mean, rel=0.06)
    assert SMALL.structure(0) == pytest.approx(0, abs=1e-9)
    doubled = KolmogorovTilt(2 * SMALL.d_over_r0, SMALL.correlation_length, SMALL.outer_scale)
    assert doubled.structure(lag) == pytest.approx(2 ** (5 / 3) * SMALL.structure(lag))


def test_near_points_hardly_know_the_outer_scale() -> None:
    near, far = KolmogorovTilt(2, 4, 80), KolmogorovTilt(2, 4, 320)
    assert far.variance > 1.4 * near.variance
    assert far.structure(4) == pytest.approx(near.structure(4), rel=0.08)


def test_a_seed_gives_the_same_fields_however_many_are_drawn() -> None:
    three = SMALL.sample(3, 7, 10, generator(5))
    assert three.shape == (3, 2, 7, 10)
    assert three.dtype == torch.float32
    assert torch.equal(SMALL.sample(2, 7, 10, generator(5)), three[:2])
    assert not torch.equal(SMALL.sample(2, 7, 10, generator(6)), three[:2])


@pytest.mark.parametrize(("height", "width"), [(9, 12), (1, 1), (1, 17), (2, 3), (3, 4), (21, 16)])
def test_the_posterior_mean_is_that_of_dense_matrices(height: int, width: int) -> None:
    covariance = dense(SMALL, height, width)
    x = torch.randn(2, 2, height, width, generator=generator(), dtype=torch.float64)
    for sigma in (0.03, 0.3, 3.0, 100.0):
        noisy = covariance + sigma**2 * torch.eye(len(covariance))
        expected = (covariance @ torch.linalg.solve(noisy, x.flatten(1).T)).T.reshape(x.shape)
        error = (SMALL.denoise(x, sigma) - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        assert float(error) < 1e-5


@pytest.mark.parametrize("sigma", [0.02, 0.3, 3.0])
def test_the_default_tolerance_is_kept_on_a_larger_window(sigma: float) -> None:
    prior, exact = KolmogorovTilt(3, 8), KolmogorovTilt(3, 8, tolerance=1e-6)
    x = prior.sample(1, 65, 80, generator()) + sigma * torch.randn(1, 2, 65, 80, generator=generator(1))
    expected = exact.denoise(x, sigma)
    error = (prior.denoise(x, sigma) - expected).square().mean().sqrt()
    assert float(error) < prior.tolerance * float(expected.square().mean().sqrt())


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
def test_the_error_is_the_posterior_variance_and_less_than_that_of_shrinkage(sigma: float) -> None:
    number, size = 300, 16
    phi = SMALL.sample(number, size, size, generator(2))
    x = phi + sigma * torch.randn(phi.shape, generator=generator(3))
    error = float((SMALL.denoise(x, sigma) - phi).square().mean())
    covariance = dense(SMALL, size, size)
    n = len(covariance)
    posterior = covariance - covariance @ torch.linalg.solve(covariance + sigma**2 * torch.eye(n), covariance)
    deviation = math.sqrt(2 * float((posterior**2).sum()) / number) / n  # of the mean square of n correlated errors
    assert error == pytest.approx(float(posterior.trace()) / n, abs=4 * deviation)
    assert error < 0.8 * SMALL.variance * sigma**2 / (SMALL.variance + sigma**2)


def test_each_field_of_a_batch_can_have_its_noise() -> None:
    x = torch.randn(3, 2, 10, 11, generator=generator())
    sigma = torch.tensor([0.0, 0.2, 30.0])
    together = SMALL.denoise(x, sigma)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], SMALL.denoise(x[i : i + 1], float(sigma[i])))


def test_without_noise_the_measurement_stands_and_in_noise_nothing_is_seen() -> None:
    x = SMALL.sample(1, 12, 15, generator())
    assert torch.equal(SMALL.denoise(x, 0), x)
    torch.testing.assert_close(SMALL.denoise(x, 1e-3), x, rtol=0, atol=2e-3)
    assert float(SMALL.denoise(x + 1e6, 1e6).abs().max()) < 1e-3
    assert torch.equal(SMALL.denoise(torch.zeros_like(x), 1.0), torch.zeros_like(x))


def test_gradients_are_those_of_the_map() -> None:
    prior = KolmogorovTilt(3, 4, 16, tolerance=1e-11)
    x = torch.randn(2, 2, 2, 3, generator=generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: prior.denoise(x, torch.tensor([0.3, 2.0])), (x,))
    square = x.detach()[:1, :, :, :2].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: prior.denoise(x, 1.0).square().sum(), (square,))


def test_the_scale_of_the_paper() -> None:
    prior = KolmogorovTilt(3, 4, 16, tolerance=1e-6)
    x_0 = prior.sample(20, 32, 32, generator()) / prior.unit
    assert float((x_0.abs() > 1).float().mean()) < 1e-3
    alpha_bar = 0.2
    noise = torch.randn(x_0.shape, generator=generator(1))
    x_t = (alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * noise).requires_grad_()
    estimate, v = prior.predict(x_t, 500, alpha_bar)
    assert v is None
    expected = prior.denoise(prior.unit * (x_0 + 2 * noise), prior.unit * 2)  # 2 is sqrt((1 - 0.2) / 0.2)
    torch.testing.assert_close(prior.unit * estimate, expected, rtol=0, atol=1e-4)
    estimate.square().sum().backward()
    assert x_t.grad is not None
    assert float(x_t.grad.abs().max()) > 0


def test_it_says_what_a_sampler_asks_of_a_prior() -> None:
    assert (SMALL.kind, SMALL.channels, SMALL.image_size, SMALL.checksum) == ("tilt", 2, None, None)
    assert SMALL.name


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["d_over_r0", "correlation_length", "outer_scale", "tolerance"])
def test_parameters_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"The {name} of the tilt is .*\. Give a positive number\."):
        KolmogorovTilt(**({"d_over_r0": 3.0, "correlation_length": 4.0} | {name: value}))


def test_fields_that_make_no_sense() -> None:
    x = torch.zeros(2, 2, 8, 8)
    for bad in (x[:, :1], x[0], torch.zeros(2, 3, 8, 8), torch.zeros(2, 2, 0, 8)):
        with pytest.raises(UsageError, match=r"takes \(B, 2, H, W\)"):
            SMALL.denoise(bad, 1.0)
    for sigma in (-1.0, math.nan, torch.ones(3), torch.ones(2, 1)):
        with pytest.raises(UsageError, match="not negative"):
            SMALL.denoise(x, sigma)
    with pytest.raises(EstimationError, match="not numbers"):
        SMALL.denoise(x * math.nan, 1.0)
    with pytest.raises(UsageError, match="too much memory"):
        KolmogorovTilt(3, 1e9).denoise(x, 1.0)
