"""The kernel of a photo: the guesses, the evidence that chooses among them, and the estimate."""

import math

import numpy as np
import pytest
import torch
from scenes import agreement, sharp, streak
from torch import Tensor

from blinddeblur import load_prior, random_kernel
from blinddeblur.errors import EstimationError
from blinddeblur.estimation import search
from blinddeblur.estimation.first_kernel import classical_guess
from blinddeblur.estimation.judging import Estimate, judge
from blinddeblur.estimation.search import MARGIN, estimate, learned_guesses
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import Blur, blur
from blinddeblur.physics.measurement import Measurement
from blinddeblur.priors.prior import Prior
from blinddeblur.progress import Step
from blinddeblur.samplers.deblurring import residual
from blinddeblur.samplers.schedule import Denoiser

SIGMA = 0.005


def priors() -> tuple[Denoiser, Prior]:
    return load_prior("photo").denoise, load_prior("photo-kernel")


def measured(kernel: Tensor, side: int = 150) -> Measurement:
    margin = kernel.shape[-1] - 1
    scene = torch.from_numpy(sharp(side + margin, side + margin, 1, seed=2).transpose(2, 0, 1).copy())[None]
    y = blur(scene, kernel)
    return Measurement.of(y + SIGMA * torch.randn(y.shape, generator=torch.Generator().manual_seed(0)))


def kernel_of(kind: str, extent: float) -> Tensor:
    return torch.from_numpy(random_kernel(np.random.default_rng(3), 31, extent, kind))


def agree(a: Tensor, b: Tensor) -> float:
    return agreement(a.numpy(), b.numpy())


@pytest.mark.parametrize("kind", ["line", "defocus", "shake"])
def test_the_evidence_is_for_the_true_kernel(kind: str) -> None:
    true, y = kernel_of(kind, 13), measured(kernel_of(kind, 13))
    denoise = load_prior("photo").denoise
    with torch.inference_mode():
        best = judge(denoise, y, true, SIGMA)
        for other in (torch.rot90(true), kernel_of("line", 25), kernel_of("shake", 22), kernel_of(kind, 27)):
            if agree(other, true) < 0.8:
                assert judge(denoise, y, other, SIGMA).evidence < best.evidence


def test_the_evidence_is_the_density_it_claims_to_be() -> None:
    """With a prior that leaves the image as it is, and no blur: residual and gradients are known."""
    scene = measured(torch.ones(1, 1)).y
    y = Measurement.of(scene)
    found = judge(lambda x, level: x, y, torch.ones(1, 1), SIGMA)
    rows = scene[..., 1:, :-1] - scene[..., :-1, :-1]
    columns = scene[..., :-1, 1:] - scene[..., :-1, :-1]
    roots = torch.cat([rows, columns]).abs().sqrt().mean()
    assert found.evidence == pytest.approx(-4 * math.log(float(roots)), abs=1e-4)
    assert residual(scene, y, Blur.uniform(torch.ones(1, 1))) == pytest.approx(0, abs=1e-6)
    assert residual(scene + 0.1, y, Blur.uniform(torch.ones(1, 1))) == pytest.approx(0.1, abs=1e-4)


def test_doubt_counts_as_noise() -> None:
    kernel = torch.ones(1, 1)
    assert Estimate(kernel, 0.0, 0.9).error == 0
    assert Estimate(kernel, 0.0, 0.6).error == pytest.approx(0.03)
    assert Estimate(kernel, 0.0, 0.1).error == Estimate(kernel, 0.0, 0.3).error == pytest.approx(0.1)


@pytest.mark.parametrize(("kind", "extent", "least"), [("line", 13, 0.9), ("defocus", 11, 0.9), ("shake", 15, 0.6)])
def test_the_kernel_is_found(kind: str, extent: float, least: float) -> None:
    true = kernel_of(kind, extent)
    told: list[Step] = []
    with torch.inference_mode():
        found = estimate(
            *priors(),
            measured(true),
            SIGMA,
            steps=6,
            generator=torch.Generator().manual_seed(0),
            callback=told.append,
        )
    assert agree(found.kernel, true) > least
    assert found.kernel.sum() == pytest.approx(1, abs=1e-4)
    assert found.kernel.min() >= 0
    assert told[0].index == -1
    assert [step.index for step in told[1:7]] == list(range(6))
    assert len(told) % 6 == 1  # whole rounds


def test_guesses_keep_to_the_size_that_is_given() -> None:
    y, (denoise, prior) = measured(kernel_of("line", 13)), priors()
    with torch.inference_mode():
        assert classical_guess(y.y, 21).shape == (21, 21)
        assert [guess.shape for guess in learned_guesses(prior, y.y, SIGMA, 21)] == [(21, 21)]
        assert estimate(denoise, prior, y, SIGMA, size=21, steps=2).kernel.shape == (21, 21)


def test_a_blur_beyond_the_learned_kernels_is_seen_at_half_the_size() -> None:
    class Bars:
        """A prior that answers with a bar as long as two fifths of the photo, as far as that fits."""

        def given(self, y: Tensor, sigma: float) -> "Bars":
            reach = min(31, y.shape[-1] // 5)
            self.bar = torch.zeros(1, 1, 64, 64)
            self.bar[..., 32, 32 - reach : 33 + reach] = 1
            return self

        def denoise(self, x: Tensor, level: float) -> Tensor:
            return self.bar

    seen = Bars()
    large, small = torch.zeros(1, 1, 220, 220), torch.zeros(1, 1, 100, 100)
    whole, half = learned_guesses(seen, large, SIGMA, None)
    assert whole.shape == (63, 63)
    assert half.shape == (109, 109)  # as large as this photo permits
    assert kernels.trimmed(half, 0).shape[-1] == pytest.approx(90, abs=4)  # twice the 45 seen at half the size
    assert len(list(learned_guesses(seen, small, SIGMA, None))) == 1  # half of this photo is too small to be looked at
    assert [guess.shape for guess in learned_guesses(seen, large, SIGMA, 95)] == [(95, 95), (95, 95)]


def test_no_texture_no_confidence() -> None:
    flat = Measurement.of(torch.full((1, 1, 100, 100), 0.5))
    with torch.inference_mode():
        assert estimate(*priors(), flat, SIGMA, size=15, steps=2).confidence < 0.2


def test_one_kind_of_guess_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*arguments: object) -> torch.Tensor:
        raise EstimationError("nothing left")

    true = kernel_of("shake", 15)
    y = measured(true)
    monkeypatch.setattr(search, "classical_guess", empty)
    with torch.inference_mode():
        assert agreement(estimate(*priors(), y, SIGMA, steps=2).kernel, true) > 0.5
    monkeypatch.setattr(search, "learned_kernel", empty)
    with torch.inference_mode(), pytest.raises(EstimationError, match="Nothing in the photo tells"):
        estimate(*priors(), y, SIGMA, steps=2)


def test_trimmed_kernels_lose_nothing() -> None:
    kernel = torch.nn.functional.pad(torch.from_numpy(streak(9, 5)), (11, 11, 11, 11))
    small = kernels.trimmed(kernel, MARGIN)
    assert small.shape[-1] < kernel.shape[-1]
    assert torch.allclose(kernels.fitted(small, 31), kernel)
    assert torch.allclose(kernels.trimmed(small, 100), small)
    assert kernels.largest((100, 80)) == 41


def test_confidence_falls_with_the_agreement() -> None:
    """A kernel mixed with more and more of a wrong one."""
    true, wrong = kernel_of("shake", 15), kernel_of("line", 25)
    y, denoise = measured(true), load_prior("photo").denoise
    with torch.inference_mode():
        confidences = [judge(denoise, y, (1 - t) * true + t * wrong, SIGMA).confidence for t in (0, 0.3, 0.6, 1)]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences[0] - confidences[-1] > 0.15
