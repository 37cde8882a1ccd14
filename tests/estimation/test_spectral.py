"""Kernels and the power spectrum of a photo: what the likelihood says, and what has no say in it."""

import numpy as np
import pytest
import torch
from scenes import texture
from torch import Tensor

from blinddeblur import load_prior
from blinddeblur.errors import UsageError, WeightsError
from blinddeblur.estimation import spectral
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import blur
from blinddeblur.priors.loading import load_spectra
from blinddeblur.priors.photo_spectra import SIZE, PhotoSpectra, basis, frequencies

SIGMA = 0.0115


def bar(length: int) -> Tensor:
    kernel = torch.zeros(15, 15)
    kernel[7, 7 - length // 2 : 8 + length // 2] = 1 / length
    return kernel


NONE = torch.ones(1, 1)
KERNELS = [bar(9), NONE, bar(13), bar(9).T.clone(), torch.full((5, 5), 0.04)]


def blurred(side: int, kernel: Tensor) -> Tensor:
    y = blur(texture(side + kernel.shape[-1] - 1), kernel)
    noise = np.random.default_rng(4).standard_normal(y.shape).astype(np.float32)
    return (y + 0.01 * torch.from_numpy(noise)).clamp(0.02, 0.98)


def differences(y: Tensor, others: list[Tensor]) -> list[float]:
    """By how much less likely each kernel is than the first."""
    values, _ = spectral.log_likelihood(spectral.periodogram(y), others, SIGMA, load_spectra())
    return (values - values[0]).tolist()


def test_it_is_the_likelihood_of_the_reference() -> None:
    """Numbers of an implementation that takes no shortcut: all frequencies, exact curvature, seconds a kernel."""
    expected = [0, -0.034211, -0.033909, -0.045154, -0.035644]
    assert differences(blurred(128, bar(9)), KERNELS) == pytest.approx(expected, abs=1e-3)


def test_a_batch_says_what_each_alone_says() -> None:
    seen, prior = spectral.periodogram(blurred(128, bar(9))), load_spectra()
    together, departures = spectral.log_likelihood(seen, KERNELS, SIGMA, prior)
    for index, kernel in enumerate(KERNELS):
        value, departure = spectral.log_likelihood(seen, [kernel], SIGMA, prior)
        assert float(value[0]) == pytest.approx(float(together[index]), abs=1e-4)
        assert departure[0] == departures[index]


def test_a_large_photo_tells_more_surely_what_a_part_of_it_tells() -> None:
    y = blurred(400, bar(9))
    assert spectral.periodogram(y).shape == (224, 224)
    found = differences(y, KERNELS)
    assert max(found) == found[0]
    assert min(found[1:]) > 3 * min(differences(y[..., :200, :200], KERNELS)[1:])


def test_what_is_clipped_has_no_say() -> None:
    """Fine print in black and white, as sharp as can be, across a photo that is blurred."""
    framed = blurred(300, bar(9))
    framed[..., 130:170, :] = (torch.rand(40, 300, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    assert all(value < -0.005 for value in differences(framed, KERNELS)[1:])


def test_what_is_flat_has_no_say() -> None:
    y = blurred(400, bar(9))
    flat = y.clone()
    flat[..., 224:, :] = 0.5
    assert all(value < 0 for value in differences(flat, KERNELS)[1:])


@pytest.mark.parametrize("side", [32, 40, 75])
def test_small_photos_are_looked_at_as_they_are(side: int) -> None:
    y = blurred(side, bar(9))
    found = differences(y, KERNELS)
    assert np.isfinite(found).all()
    assert spectral.periodogram(y).shape == (side, side)


def test_a_kernel_larger_than_the_photo_is_folded_into_it() -> None:
    seen = spectral.periodogram(texture(64))
    long = torch.ones(1, 129) / 129
    square = kernels.normalise(torch.nn.functional.pad(long, (0, 0, 64, 64)))
    expected = torch.fft.rfft(torch.ones(129), n=64 * 129)[::129].abs().square() / 129**2  # at the same frequencies
    passed = torch.zeros(64 * 33)
    passed[seen.places] = seen.passed(square)
    assert passed.reshape(64, 33)[5] == pytest.approx(expected[:33], abs=1e-5)


def test_the_basis_is_smooth_and_the_same_on_both_sides() -> None:
    length, angle = frequencies(16, 16)
    rows = basis(length.flatten()[1:], angle.flatten()[1:])
    assert rows.shape == (16 * 9 - 1, SIZE)
    assert rows[:, :11].sum(dim=1) == pytest.approx(torch.ones(len(rows)), abs=1e-5)
    assert basis(length.flatten()[1:], angle.flatten()[1:] + torch.pi) == pytest.approx(rows, abs=1e-4)


def test_a_prior_of_coefficients_knows_their_mean_and_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.2, 2, SIZE)
    rows = 3 + scale * torch.randn(4000, SIZE, generator=generator)
    prior = PhotoSpectra.of(rows, temper=10)
    assert prior.mean == pytest.approx(torch.full((SIZE,), 3.0), abs=0.15)
    spread = torch.linalg.inv(prior.precision.double() / 10).diagonal().sqrt()
    assert spread.float() == pytest.approx(scale, rel=0.12)


def test_other_weights_are_refused() -> None:
    with pytest.raises(UsageError, match="of kind image"):
        load_spectra("photo")
    with pytest.raises((UsageError, WeightsError)):
        load_prior("photo-spectra")
