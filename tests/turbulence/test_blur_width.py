"""How wide a round blur is: the family of blurs, spectra of pictures, and what spectra, tilts and edges tell."""

import itertools

import numpy as np
import pytest
import torch
from scenes import sharp
from torch import Tensor

from blinddeblur.errors import KernelError
from blinddeblur.physics.atmosphere import Blurs, round_blurs
from blinddeblur.physics.convolution import blur
from blinddeblur.physics.measurement import Measurement
from blinddeblur.physics.spectrum import BANDS, HIGHEST, LOWEST, counts, frequencies, radial_power, radial_transfer
from blinddeblur.priors.kolmogorov import KolmogorovTilt
from blinddeblur.priors.power_law import LEAST_BANDS, log_likelihood
from blinddeblur.turbulence import blur_width, refinement
from blinddeblur.turbulence.refinement import evidence

CELL = 4
SIZES = [(256, 256), (300, 530), (64, 64), (49, 61), (33, 300), (32, 32)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(1, 1, height, width, generator=generator(seed))


def texture(height: int, width: int, slope: float, seed: int) -> Tensor:
    """A random picture (1, 1, height, width) whose power falls with frequency by a power law."""
    side = 2 * max(height, width)  # what lies opposite on the torus is no neighbour
    frequency = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None])
    amplitude = torch.where(frequency > 0, frequency ** (slope / 2), 0)
    x = torch.fft.irfft2(torch.fft.rfft2(noise(side, side, seed)) * amplitude, s=(side, side))
    return 0.5 + 0.15 * (x / x.std())[..., :height, :width]


@pytest.fixture(scope="module")
def blurs() -> Blurs:
    return round_blurs(31)


def widths(blurs: Blurs) -> Tensor:
    """Standard deviation along an axis, in pixels."""
    size = blurs.kernels.shape[-1]
    return (blurs.kernels.sum(dim=1) * (torch.arange(size) - size // 2) ** 2).sum(dim=1).sqrt()


@pytest.mark.parametrize("size", [9, 17, 31])
def test_blurs_go_from_a_point_to_wide_ones(size: int) -> None:
    blurs = round_blurs(size)
    kernels = blurs.kernels
    assert kernels.shape == (len(blurs.strengths), size, size)
    point = torch.zeros(size, size)
    point[size // 2, size // 2] = 1
    assert torch.equal(kernels[0], point)
    assert float(kernels.min()) >= 0
    torch.testing.assert_close(kernels.sum(dim=(1, 2)), torch.ones(len(kernels)))
    assert (widths(blurs).diff() > 0).all()
    assert (kernels.amax(dim=(1, 2)).diff() < 0).all()
    torch.testing.assert_close(kernels, kernels.flip(1))  # round ones: the same from all sides
    torch.testing.assert_close(kernels, kernels.transpose(1, 2))
    assert blurs.strengths[0] == 0
    assert (blurs.strengths.diff() >= 0).all()


def test_blurs_on_an_even_array_are_refused() -> None:
    with pytest.raises(KernelError, match="odd size"):
        round_blurs(16)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_white_noise_has_its_variance_in_all_bands(height: int, width: int) -> None:
    found = torch.stack([radial_power(0.3 + 0.2 * noise(height, width, seed)) for seed in range(16)]).mean(dim=0)
    number = counts(height, width)
    assert found.shape == number.shape == frequencies().shape == (BANDS,)
    assert torch.equal(found.isnan(), number == 0)
    seen = number > 0
    # Neighbouring frequencies share their noise under the window, some four of them in each direction.
    deviation = 2 / (number[seen] * 16).sqrt() + 0.01
    assert ((found[seen] / 0.04 - 1).abs() < 3 * deviation).all()


@pytest.mark.parametrize(("height", "width"), [(256, 256), (100, 131), (63, 45)])
def test_a_band_is_the_mean_over_its_frequencies(height: int, width: int) -> None:
    y = texture(height, width, -2.0, 3)
    window = np.outer(np.hanning(height), np.hanning(width))
    centred = (y - y.mean())[0, 0].double().numpy()
    power = np.abs(np.fft.rfft2(centred * window)) ** 2 / (window**2).sum()
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    edges = np.geomspace(LOWEST, HIGHEST, BANDS + 1)
    found, number, middles = radial_power(y), counts(height, width), frequencies()
    for band, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = (frequency >= low * (1 + 1e-6)) & (frequency < high * (1 - 1e-6))
        assert int(number[band]) == pytest.approx(inside.sum(), abs=4)  # those on an edge
        if int(number[band]) == inside.sum() > 0:
            assert float(found[band]) == pytest.approx(power[inside].mean(), rel=1e-3)
        assert low < float(middles[band]) < high


@pytest.mark.parametrize(("height", "width"), [(256, 256), (300, 400), (129, 99)])
def test_blurred_noise_falls_as_the_transfer_function(blurs: Blurs, height: int, width: int) -> None:
    for index in (0, 3, 14, 22):
        kernel = blurs.kernels[index]
        seen = [radial_power(blur(noise(height + 30, width + 30, seed), kernel)) for seed in range(8)]
        expected, number = radial_transfer(kernel), counts(height, width)
        told = (number > 20) & (expected > 1e-3)
        assert int(told.sum()) > 8
        torch.testing.assert_close(torch.stack(seen).mean(dim=0)[told], expected[told], rtol=0.25, atol=1e-4)


def test_transfer_functions_fall_with_the_width(blurs: Blurs) -> None:
    transfers = torch.stack([radial_transfer(kernel) for kernel in blurs.kernels])
    torch.testing.assert_close(transfers[0], torch.ones(BANDS))
    assert (transfers.diff(dim=0) < 1e-6).all()
    still = int((blurs.strengths == 0).nonzero().max())  # the aperture alone: its cut-off is half a cycle per pixel
    assert float(transfers[still, -1]) < 0.01


@pytest.mark.parametrize(("height", "width"), [(64, 80), (160, 128), (256, 300)])
def test_the_spectrum_tells_how_wide_the_blur_is(blurs: Blurs, height: int, width: int) -> None:
    wide, sigma = widths(blurs), 0.005
    for true in (0, 13, 18, 22):
        found = []
        for seed in range(4):
            y = blur(texture(height + 30, width + 30, -2.75, seed), blurs.kernels[true])
            belief = blur_width.from_spectrum(y + sigma * noise(height, width, 9), blurs, sigma)
            assert belief.shape == blurs.strengths.shape
            found.append(wide[blur_width.median(belief)])
        assert float(torch.stack(found).mean()) == pytest.approx(float(wide[true]), rel=0.15)


def test_noise_alone_tells_nothing(blurs: Blurs) -> None:
    assert torch.equal(blur_width.from_spectrum(0.02 * noise(80, 80), blurs, 0.02), torch.zeros(len(blurs.kernels)))
    flat = blur_width.from_spectrum(torch.full((1, 1, 80, 80), 0.5), blurs, 0.0)
    assert torch.isfinite(flat).all()


def test_too_few_bands_tell_nothing() -> None:
    place = frequencies()
    transfers = torch.stack([torch.ones(BANDS), torch.exp(-40 * place**2)])
    power, number = transfers[1] * place**-2.75, torch.full((BANDS,), 100.0)
    told = log_likelihood(power, transfers, 0.0, place, number)
    assert float(told[1]) > float(told[0]) + 3
    for blind in (torch.nan, 1e-9):  # no such frequency, or one below the noise
        few = torch.where(torch.arange(BANDS) < LEAST_BANDS - 1, power, blind)
        none = number if blind == 1e-9 else torch.where(few.isnan(), 0, number)
        assert torch.equal(log_likelihood(few, transfers, 1e-6, place, none), torch.zeros(2))
    contrast = log_likelihood(3.7 * power, transfers, 0.0, place, number)
    torch.testing.assert_close(contrast, told)


@pytest.mark.parametrize("strength", [1.0, 4.0])
@pytest.mark.parametrize(("number", "height", "width"), [(30, 64, 96), (40, 52, 40), (8, 96, 96)])
def test_tilts_tell_the_strength_of_the_air(number: int, height: int, width: int, strength: float) -> None:
    assumed = KolmogorovTilt(5.0, 16.0)
    fields = KolmogorovTilt(strength, 16.0).sample(number, height, width, generator(2))
    tilts = torch.nn.functional.avg_pool2d(fields, CELL)
    tilts = tilts - tilts.mean(dim=0)
    assert blur_width.strength_of(tilts, CELL, assumed) == pytest.approx(strength, rel=0.15)
    drift = torch.tensor([5.0, -3.0])[:, None, None] * torch.arange(number)[:, None, None, None]
    shaken = tilts + drift - drift.mean(dim=0)  # the camera's, not the air's
    assert blur_width.strength_of(shaken, CELL, assumed) == pytest.approx(strength, rel=0.15)


def test_two_frames_tell_it_as_well_as_many() -> None:
    """Their mean takes half of the tilt away, and this is made up for."""
    fields = torch.nn.functional.avg_pool2d(KolmogorovTilt(2.0, 16.0).sample(24, 96, 96, generator(6)), CELL)
    pairs = [pair - pair.mean(dim=0) for pair in fields.split(2)]
    found = [blur_width.strength_of(pair, CELL, KolmogorovTilt(5.0, 16.0)) for pair in pairs]
    assert np.mean(found) == pytest.approx(2.0, rel=0.12)


def test_tilts_tell_how_wide_the_blur_is(blurs: Blurs) -> None:
    assumed = KolmogorovTilt(5.0, 16.0)
    for strength in (1.2, 2.0, 5.0):
        tilts = torch.nn.functional.avg_pool2d(KolmogorovTilt(strength, 16.0).sample(20, 80, 80, generator(1)), CELL)
        belief = blur_width.from_tilts(tilts - tilts.mean(dim=0), CELL, assumed, blurs)
        found = float(blurs.strengths[belief.argmax()])
        assert found == pytest.approx(strength, rel=0.2)
        assert float(belief.max()) > float(belief[0]) + 0.5
    still = blur_width.from_tilts(torch.zeros(5, 2, 20, 20), CELL, assumed, blurs)
    assert int(still.argmax()) == 0
    assert torch.isfinite(still).all()


def test_tilts_choose_the_blur_where_nothing_else_tells(blurs: Blurs) -> None:
    prior = KolmogorovTilt(5.0, 16.0)
    frames = list((0.5 + 0.01 * noise(64, 64 * 6)).split(64, dim=-1))
    for strength in (1.5, 4.0):
        tilts = torch.nn.functional.avg_pool2d(KolmogorovTilt(strength, 16.0).sample(6, 64, 64, generator(3)), CELL)
        tilts = tilts - tilts.mean(dim=0)
        kernel, _ = refinement.estimate(
            lambda x, sigma: torch.full_like(x, 0.5), frames, tilts, torch.full((6,), 1 / 6), blurs, prior, 0.01, 2,
            generator(),
        )  # fmt: skip
        chosen = (blurs.kernels - kernel).abs().sum(dim=(1, 2))
        assert float(blurs.strengths[chosen.argmin()]) == pytest.approx(strength, rel=0.25)


@pytest.mark.parametrize("true", [0, 8, 16, 23])
def test_edges_prefer_the_true_blur_of_the_true_image(blurs: Blurs, true: int) -> None:
    x = torch.from_numpy(sharp(100, 110, 1)).permute(2, 0, 1)[None]
    y = blur(x, blurs.kernels[true]) + 0.003 * noise(70, 80)
    found = evidence(x, Measurement.of(y), blurs)
    assert int(found.argmax()) == true
    lighter = evidence(x, Measurement.of(y - 0.1), blurs)  # edges, not the ground, are compared
    torch.testing.assert_close(lighter, found, rtol=0, atol=0.1)


def test_the_median_lies_where_half_the_belief_does() -> None:
    shares = torch.tensor([0.1, 0.3, 0.2, 0.4])
    assert blur_width.median(shares.log()) == 2
    assert blur_width.median(shares.log() - 700) == 2
    assert blur_width.median(torch.tensor([0.6, 0.4]).log()) == 0
    assert blur_width.median(torch.zeros(1)) == 0
