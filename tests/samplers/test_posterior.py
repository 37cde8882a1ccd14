"""Samples of the posterior and the uncertainty map: exact where the posterior is known, honest where truth is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import blurred, lamps, psnr, streak
from torch import Tensor

import blinddeblur
from blinddeblur.engine.pipeline import Engine
from blinddeblur.engine.result import Result
from blinddeblur.errors import OutputError, UsageError
from blinddeblur.files import decoding, kernel_files
from blinddeblur.files.together import write_together
from blinddeblur.physics.convolution import Blur, blur
from blinddeblur.physics.measurement import Measurement, model_error
from blinddeblur.samplers import posterior
from blinddeblur.samplers.deblurring import Deblurring
from blinddeblur.settings import Settings

QUICK = {"steps": 3, "kernel_size": 9}


def restored(y: np.ndarray, sample_steps: int = 3, **options: Any) -> Result:
    """What comes out with so many noise levels for each sample."""
    return Engine(Settings(device="cpu", **options), sample_steps=sample_steps).restore(y)


def gaussian_denoiser(x: Tensor, sigma: float) -> Tensor:
    """The prior N(1/2, SIGMA_DATA^2) of independent pixels, whose posterior under any blur is Gaussian."""
    share = posterior.SIGMA_DATA**2 / (posterior.SIGMA_DATA**2 + sigma**2)
    return 0.5 + share * (x - 0.5)


def test_samples_of_a_gaussian_prior_have_the_mean_and_variance_of_the_posterior() -> None:
    side, radius, sigma, number = 12, 2, 0.05, 200
    kernel = torch.from_numpy(streak(2 * radius + 1, 2.5))
    wide = side + 2 * radius
    prior, noise = posterior.SIGMA_DATA, model_error(sigma)
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + prior * torch.randn(1, 1, wide, wide, generator=generator)
    y = blur(x, kernel) + noise * torch.randn(1, 1, side, side, generator=generator)
    forward = blur(torch.eye(wide**2).reshape(-1, 1, wide, wide), kernel).reshape(wide**2, -1).T  # y = forward x
    covariance = torch.linalg.inv(forward.T @ forward / noise**2 + torch.eye(wide**2) / prior**2)
    expected = covariance @ (forward.T @ y.flatten() / noise**2 + 0.5 / prior**2)

    def inside(values: Tensor) -> Tensor:
        return values.reshape(wide, wide)[radius:-radius, radius:-radius]

    mean, variance = inside(expected), inside(covariance.diagonal())
    # The samples are channels, which this prior and the blur treat one by one.
    pixels = y.expand(-1, number, -1, -1)
    stack = Measurement(pixels, torch.zeros_like(pixels, dtype=torch.bool), linear=False)  # a Gaussian clips nothing
    given = Deblurring(gaussian_denoiser, stack, Blur.uniform(kernel), sigma, 200)
    samples = posterior.sample(given, (2.0, 0.01))[0]  # from noise that drowns the prior, as theory has it
    assert float(samples.var(dim=0).mean() / variance.mean()) == pytest.approx(1, abs=0.06)
    assert float((samples.mean(dim=0) - mean).square().mean() / variance.mean()) < 3 / number
    by_pixel = samples.var(dim=0) / variance  # as far as 200 samples tell: within four standard deviations, 10 % each
    assert float(by_pixel.min()) > 0.6
    assert float(by_pixel.max()) < 1.4


def test_the_restored_photo_stays_what_it_is_without_samples() -> None:
    _, y = blurred(48, 56, 3, streak(9, 5))
    plain = restored(y, **QUICK)
    sampled = restored(y, samples=2, **QUICK)
    assert plain.samples is None
    assert plain.uncertainty is None
    assert np.array_equal(plain.image, sampled.image)
    assert np.array_equal(plain.kernel, sampled.kernel)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((48, 56), np.uint16), ((48, 56, 1), np.float32), ((48, 56, 3), np.uint8)]
)
def test_samples_and_map_have_the_shape_of_the_photo(shape: tuple[int, ...], dtype: type) -> None:
    _, y = blurred(48, 56, shape[2] if len(shape) == 3 else 1, streak(9, 5))
    scale = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    result = restored((y.reshape(shape) * scale).astype(dtype), kernel=streak(9, 5), samples=2)
    assert result.samples is not None
    assert result.uncertainty is not None
    assert result.samples.shape == (2, *shape)
    assert result.samples.dtype == dtype
    assert result.uncertainty.shape == shape
    assert result.uncertainty.dtype == np.float32
    assert 0 < result.uncertainty.min() <= result.uncertainty.max() < 1


def test_same_seed_same_samples_and_more_samples_begin_with_the_same() -> None:
    _, y = blurred(48, 56, 1, streak(9, 5))
    first, again, more, other = (
        restored(y, samples=samples, seed=seed, kernel=streak(9, 5))
        for samples, seed in ((2, 1), (2, 1), (3, 1), (2, 2))
    )
    assert np.array_equal(first.samples, again.samples)
    assert np.array_equal(first.uncertainty, again.uncertainty)
    assert np.array_equal(first.samples, more.samples[:2])
    assert not np.array_equal(first.samples, other.samples)
    assert not np.array_equal(first.samples[0], first.samples[1])


def test_tiles_do_not_show_in_samples() -> None:
    kernel = streak(9, 5)
    _, y = blurred(70, 110, 1, kernel)
    whole = restored(y, kernel=kernel, samples=2)
    tiled = restored(y, kernel=kernel, samples=2, tile=80)
    assert psnr(tiled.samples[0], whole.samples[0], border=1) > psnr(whole.samples[1], whole.samples[0], border=1) + 6


def test_lamps_do_not_ring_in_samples() -> None:
    x, pixels = lamps(linear=False)
    y = Measurement.of(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None])
    unmasked = replace(y, clipped=torch.zeros_like(y.clipped))
    denoise, known = blinddeblur.load_prior("photo").denoise, Blur.uniform(torch.from_numpy(streak()))
    with torch.inference_mode():
        masked, ringing = (
            posterior.sample(Deblurring(denoise, seen, known, 0.004))[0].permute(1, 2, 0).clamp(0, 1).numpy()
            for seen in (y, unmasked)
        )
    assert psnr(masked, x) > psnr(ringing, x) + 2  # measured: 25.3 against 21.6 dB


def test_samples_explain_linear_light() -> None:
    x, y = lamps(linear=True)
    as_light = blinddeblur.restore(y, kernel=streak(), linear=True, samples=2, device="cpu")
    as_pixels = blinddeblur.restore(y, kernel=streak(), samples=2, device="cpu")
    assert psnr(as_light.samples[0], x) > psnr(as_pixels.samples[0], x) + 6  # measured: 30.2 against 21.2 dB


def test_samples_can_be_handed_over_one_by_one() -> None:
    _, y = blurred(48, 56, 1, streak(9, 5))
    settings, seen, stages = Settings(kernel=streak(9, 5), samples=3, device="cpu"), {}, []
    engine = Engine(settings, sample_steps=3)
    result = engine.restore(y, lambda *stage: stages.append(stage), keep=seen.__setitem__)
    assert result.samples is None
    assert np.array_equal(np.stack([seen[index] for index in range(3)]), engine.restore(y).samples)
    assert stages[-1] == ("samples", 3, 3)


@pytest.mark.parametrize("number", [-1, 1, 65])
def test_numbers_of_samples_that_make_no_sense(number: int) -> None:
    with pytest.raises(UsageError, match="between 2 and 64"):
        Settings(samples=number)


def test_blinddps_draws_no_samples() -> None:
    with pytest.raises(UsageError, match="Leave out --samples"):
        Settings(samples=4, method="blinddps")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_map_is_written_to_look_at_and_to_compute_with(tmp_path: Path, channels: int) -> None:
    values = np.linspace(0, 0.2, 40 * 50 * channels, dtype=np.float32).reshape(40, 50, channels)
    files = kernel_files.uncertainty_files(values, tmp_path / "a.b")
    write_together(files.items(), overwrite=False)
    picture, array = files
    assert (picture.name, array.name) == ("a.b.uncertainty.png", "a.b.uncertainty.npy")
    np.testing.assert_array_equal(np.load(array), values[..., 0] if channels == 1 else values)
    seen = decoding.read(picture)
    assert seen.depth == 16
    np.testing.assert_allclose(seen.pixels, np.clip(values / 0.1, 0, 1), atol=1e-5)
    picture.unlink()
    with pytest.raises(OutputError, match="exists already"):
        write_together(files.items(), overwrite=False)
    assert not picture.exists()


@pytest.mark.slow
def test_the_map_covers_the_error() -> None:
    kernel = streak()
    x, y = blurred(160, 170, 3, kernel, sigma=0.01)
    result = blinddeblur.restore(y, kernel=kernel, samples=8, device="cpu")
    assert result.uncertainty is not None
    inner = slice(12, -12)
    error, sigma = np.abs(result.image - x)[inner, inner], result.uncertainty[inner, inner]
    # A drawing is easier than the photos of the calibration (0.6 to 0.76): flat areas come out better than feared.
    assert 0.6 < (error < sigma).mean() < 0.93
    assert (error < 3 * sigma).mean() > 0.98
    assert sigma.mean() < 2 * np.sqrt((error**2).mean())
    doubtful = sigma > np.median(sigma)
    assert (error**2)[doubtful].mean() > 4 * (error**2)[~doubtful].mean()
