"""What can be seen of a restoration without the truth."""

import math

import pytest
import torch
from scenes import kernel_of, sharp

from blinddeblur import load_prior
from blinddeblur.estimation.candidates import Candidate, Spectra, features
from blinddeblur.estimation.judging import short_restoration
from blinddeblur.physics.convolution import blur
from blinddeblur.physics.measurement import Measurement
from blinddeblur.priors.judgement import FEATURES, Judgement, covariance

SIGMA = 0.005


@pytest.fixture(scope="module")
def restored() -> tuple[Measurement, Spectra, list[Candidate]]:
    """A photo, and what becomes of it with the true kernel and with a wrong one."""
    true, wrong = kernel_of("shake", 13), kernel_of("line", 25)
    scene = torch.from_numpy(sharp(130, 130, 1, seed=2).transpose(2, 0, 1).copy())[None]
    y = blur(0.2 + 0.6 * scene, true)
    y = Measurement.of(y + SIGMA * torch.randn(y.shape, generator=torch.Generator().manual_seed(0)))
    spectra = Spectra(
        [torch.ones(1, 1), true, wrong], torch.tensor([0.0, 0.02, 0.01]), torch.ones(3), y.y[0, 0].numel()
    )
    with torch.inference_mode():
        tried = [
            Candidate(kernel, 1, False, float(value), 0.1, image, float(rest), float(roughness))
            for kernel, value in zip(spectra.kernels[1:], spectra.values[1:], strict=True)
            for image, rest, roughness in [short_restoration(load_prior("photo-grey").denoise, y, kernel, SIGMA)]
        ]
    return y, spectra, tried


def test_a_wrong_kernel_makes_light_that_the_photo_has_nowhere(
    restored: tuple[Measurement, Spectra, list[Candidate]],
) -> None:
    right, wrong = features(*restored, SIGMA)
    assert features(*restored, SIGMA).shape == (2, FEATURES)
    near, mean, square = 7, 8, 9
    for column in (near, mean, square):
        assert wrong[column] > right[column] + 0.2


def test_no_change_has_features_too(restored: tuple[Measurement, Spectra, list[Candidate]]) -> None:
    y, spectra, (found, _) = restored
    same = Candidate(found.kernel, 1, False, found.spectral, 0.1, y.y, 0.0, found.roughness)
    assert torch.isfinite(features(y, spectra, [same], SIGMA)).all()


def test_a_judgement_expects_of_what_it_has_seen_what_came_of_it() -> None:
    generator = torch.Generator().manual_seed(0)
    seen, gains = torch.randn(30, FEATURES, generator=generator), 3 * torch.randn(30, generator=generator)
    judgement = Judgement(30)
    judgement.seen, judgement.weights = seen, torch.linalg.solve(covariance(seen, seen) + 1e-3 * torch.eye(30), gains)
    expected, probable = judgement(seen)
    assert torch.allclose(expected, gains, atol=0.1)
    assert torch.allclose(probable, torch.sigmoid(expected))
    assert judgement(seen + 0.1)[0].sub(gains).abs().max() < 3
    assert math.isclose(float(covariance(seen[:1], seen[:1])), 4 + 0.02 * float(seen[0] @ seen[0]) + 12, rel_tol=1e-4)
