"""Where kernels come from, how they are judged together, and what the search makes of that."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from scenes import agreement, kernel_of, sharp, streak
from torch import Tensor

from blinddeblur import load_prior
from blinddeblur.errors import EstimationError
from blinddeblur.estimation import hypotheses as ways
from blinddeblur.estimation.candidates import (
    LEAST_GAIN,
    TEMPERATURE,
    Candidate,
    Spectra,
    Verdict,
    image_term,
    weights,
)
from blinddeblur.estimation.first_kernel import classical_guess, first_kernel
from blinddeblur.estimation.hypotheses import MARGIN, from_coarse_to_fine, guessed, hypotheses, learned_guesses, simple
from blinddeblur.estimation.judging import CAUTIOUS, Judge, short_restoration
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import blur
from blinddeblur.physics.measurement import Measurement
from blinddeblur.priors.judgement import FEATURES, LARGEST_GAIN, Judgement
from blinddeblur.priors.loading import load_judgement, load_spectra
from blinddeblur.samplers.fast import refined

SIGMA = 0.005

pytestmark = pytest.mark.whole_search


def judge_of(judgement: Judgement | None = None) -> Judge:
    return Judge(load_prior("photo-grey").denoise, load_spectra(), judgement or load_judgement())


def measured(kernel: Tensor, side: int = 150) -> Measurement:
    margin = kernel.shape[-1] - 1
    scene = torch.from_numpy(sharp(side + margin, side + margin, 1, seed=2).transpose(2, 0, 1).copy())[None]
    y = blur(scene, kernel)
    return Measurement.of(y + SIGMA * torch.randn(y.shape, generator=torch.Generator().manual_seed(0)))


def agree(a: Tensor, b: Tensor) -> float:
    side = max(a.shape[-1], b.shape[-1])
    return agreement(kernels.fitted(a, side).numpy(), kernels.fitted(b, side).numpy())


def equally(kernels: Sequence[Tensor]) -> Tensor:
    """Every kernel is as likely as the next."""
    return torch.zeros(len(kernels))


# Where kernels come from


def test_guesses_keep_to_the_size_that_is_given() -> None:
    y, prior = measured(kernel_of("line", 13)), load_prior("photo-kernel")
    with torch.inference_mode():
        assert classical_guess(y.y, 21).shape == (21, 21)
        assert [guess.shape for guess in learned_guesses(prior, y.y, SIGMA, 21)] == [(21, 21)]
        found = hypotheses(lambda x, level: x, y, guessed(prior, y.y, SIGMA, 21), SIGMA, 21, 2, 0, equally)
        assert all(kernel.shape[-1] <= 21 for kernel in found)


def test_no_guess_and_no_refinement_depends_on_the_others() -> None:
    photos = [measured(kernel_of("line", extent), 96).y for extent in (5, 13)]
    photos.append(torch.full_like(photos[0], 0.5))
    guesses = first_kernel(torch.cat(photos), 15)
    assert kernels.remains(guesses).tolist() == [True, True, False]
    assert agree(guesses[0], kernel_of("line", 5)) > 0.8
    denoise, y, alone = (
        load_prior("photo-grey").denoise,
        measured(kernel_of("line", 13), 96),
        first_kernel(photos[1], 15),
    )
    torch.testing.assert_close(guesses[1:2], alone, atol=1e-3, rtol=0)

    def found(start: Tensor) -> Tensor:
        image = y.y.expand(len(start), -1, -1, -1)
        image = torch.nn.functional.pad(image, (7, 7, 7, 7), mode="replicate")
        return refined(denoise, y, start, image, SIGMA, 3, torch.Generator().manual_seed(0))[0]

    with torch.inference_mode():
        both = found(guesses)
        assert kernels.remains(both).tolist() == [True, True, False]
        torch.testing.assert_close(both[1], found(guesses[1:2])[0], atol=1e-3, rtol=0)
        assert (both[1] - guesses[1]).abs().max() > 0.01


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


def test_trimmed_kernels_lose_nothing() -> None:
    kernel = torch.nn.functional.pad(torch.from_numpy(streak(9, 5)), (11, 11, 11, 11))
    small = kernels.trimmed(kernel, MARGIN)
    assert small.shape[-1] < kernel.shape[-1]
    assert torch.allclose(kernels.fitted(small, 31), kernel)
    assert torch.allclose(kernels.trimmed(small, 100), small)
    assert kernels.largest((100, 80)) == 41


@pytest.mark.parametrize(("length", "angle"), [(9.0, 0.0), (12.0, math.pi / 4), (33.0, 2.0)])
def test_lines_are_as_long_as_they_say_and_point_where_they_say(length: float, angle: float) -> None:
    line = kernels.line(length, angle, torch.device("cpu"))
    places = torch.arange(len(line), dtype=torch.float32) - len(line) // 2
    along = places[None] * math.cos(angle) + places[:, None] * math.sin(angle)
    across = places[:, None] * math.cos(angle) - places[None] * math.sin(angle)
    assert line.sum() == pytest.approx(1)
    assert float((line * along.square()).sum()) == pytest.approx(length**2 / 12, rel=0.2)
    assert float((line * across.square()).sum()) < 0.3


def test_no_blur_comes_first_and_gaussians_are_as_wide_as_they_say() -> None:
    none, *others = simple(torch.device("cpu"))
    assert none.shape == (1, 1)
    for width, kernel in zip(ways.SOFT, others, strict=False):
        places = torch.arange(len(kernel), dtype=torch.float32) - len(kernel) // 2
        assert float((kernel.sum(dim=0) * places.square()).sum()) == pytest.approx(width**2, rel=0.15)


def test_one_kind_of_guess_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*arguments: object) -> torch.Tensor:
        raise EstimationError("nothing left")

    y, prior = measured(kernel_of("shake", 15), 100), load_prior("photo-kernel")
    known = len(simple(torch.device("cpu")))

    def number() -> int:
        with torch.inference_mode():
            guesses = guessed(prior, y.y, SIGMA, None)
            return len(hypotheses(lambda x, level: x, y, guesses, SIGMA, None, 2, 0, equally)) - known

    assert number() == 4  # two guesses, and two of three that went up the pyramid
    monkeypatch.setattr(ways, "classical_guess", empty)
    assert number() == 3
    monkeypatch.setattr(ways, "learned_kernel", empty)
    assert number() == 1


def test_the_pyramid_finds_a_long_blur_from_nothing() -> None:
    true = kernel_of("line", 25)
    with torch.inference_mode():
        (found,) = from_coarse_to_fine(load_prior("photo-grey").denoise, measured(true, 110), [None], SIGMA, equally)
    assert agree(found, true) > 0.7
    assert found.sum() == pytest.approx(1, abs=1e-4)
    assert found.min() >= 0


# The judge


def test_only_the_likeliest_go_on_from_half_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    guesses = [kernel_of("line", extent) for extent in (9, 17, 25)]
    sizes: list[int] = []

    def narrowest(kernels: Sequence[Tensor]) -> Tensor:
        sizes.extend(len(kernel) for kernel in kernels)
        return torch.tensor([-float(len(kernel)) for kernel in kernels])

    def unchanged(
        denoise: object, y: Measurement, kernel: Tensor, image: Tensor, *others: object
    ) -> tuple[Tensor, Tensor]:
        return kernel, image

    monkeypatch.setattr("blinddeblur.samplers.fast.refined", unchanged)
    y = measured(kernel_of("line", 17), 170)
    with torch.inference_mode():
        found = from_coarse_to_fine(lambda x, level: x, y, guesses, SIGMA, narrowest)
    assert len(sizes) == len(guesses)
    assert len(found) == ways.KEPT
    extents = [len(kernels.trimmed(kernel, 0)) for kernel in found]
    assert max(extents) < len(kernels.trimmed(guesses[-1], 0))


def test_kernels_that_are_alike_are_restored_with_once() -> None:
    true = kernel_of("shake", 15)
    same, other = kernels.fitted(true, 41), kernel_of("line", 25)
    y, judge = measured(true, 80), judge_of()
    found = Spectra([torch.ones(1, 1), same, true, other], torch.tensor([0.0, 0.02, 0.03, 0.025]), torch.ones(4), 6400)
    with torch.inference_mode():
        tried = [candidate.kernel for candidate in judge.tried(y, found, SIGMA)]
    assert {id(kernel) for kernel in tried} == {id(true), id(other)}


def test_the_image_term_is_the_density_it_claims_to_be() -> None:
    """With a prior that leaves the image as it is, and no blur: residual and gradients are known."""
    scene = measured(torch.ones(1, 1)).y
    image, rest, roughness = short_restoration(lambda x, level: x, Measurement.of(scene), torch.ones(1, 1), SIGMA)
    rows = scene[..., 1:, :-1] - scene[..., :-1, :-1]
    columns = scene[..., :-1, 1:] - scene[..., :-1, :-1]
    roots = torch.cat([rows, columns]).abs().sqrt().mean()
    assert torch.allclose(image, scene, atol=1e-5)
    assert float(rest) == pytest.approx(0, abs=1e-5)
    assert image_term(float(rest), float(roughness), SIGMA) == pytest.approx(-4 * math.log(float(roots)), abs=1e-4)
    assert image_term(0.02, float(roughness), SIGMA) < image_term(0.01, float(roughness), SIGMA)


@pytest.mark.parametrize("kind", ["line", "defocus", "shake"])
def test_the_true_kernel_is_the_likeliest(kind: str) -> None:
    true = kernel_of(kind, 13)
    y, judge = measured(true, 110), judge_of()
    others = [torch.rot90(true), kernel_of("line", 25), kernel_of("shake", 22), kernel_of(kind, 27)]
    wrong = [other for other in others if agree(other, true) < 0.8]
    with torch.inference_mode():
        spectra = judge.look(y, [torch.ones(1, 1), *wrong, true], SIGMA)
        tried = judge.tried(y, spectra, SIGMA)
    assert spectra.blurred > 0.003
    plain = [candidate for candidate in tried if candidate.caution == 1 and not candidate.linear]
    assert max(plain, key=lambda candidate: candidate.likelihood(SIGMA)).kernel is true


def test_the_best_are_tried_with_more_caution_and_in_linear_light() -> None:
    true = kernel_of("line", 13)
    y, judge = measured(true, 80), judge_of()
    with torch.inference_mode():
        first = judge.judge(y, [torch.ones(1, 1), true], SIGMA).ranked
        given = replace(judge, linear=False).judge(y, [torch.ones(1, 1), true], SIGMA).ranked
    assert {(c.caution, c.linear) for c in first} == {(1, False), (CAUTIOUS, False), (1, True)}
    assert {(c.caution, c.linear) for c in given} == {(1, False), (CAUTIOUS, False)}
    assert [c.gain for c in first] == sorted((c.gain for c in first), reverse=True)


def test_a_hopeless_kernel_promises_less_than_the_true_one() -> None:
    true, wrong = kernel_of("shake", 15), kernel_of("line", 25)
    y, judge = measured(true), judge_of()
    with torch.inference_mode():
        best, worst = (judge.assess(y, kernel, SIGMA) for kernel in (true, wrong))
    assert best.gain > worst.gain + 1
    assert 0 <= worst.probability < best.probability <= 1


def test_weights_follow_the_likelihood() -> None:
    one = Candidate(torch.ones(1, 1), 1, False, 0.0, 0.1, torch.zeros(1, 1, 8, 8), 0.01, -2.0)
    share = weights([one, replace(one, spectral=0.003), replace(one, spectral=-1.0)], SIGMA)
    assert share.sum() == pytest.approx(1)
    assert float(share[1] / share[0]) == pytest.approx(math.e, rel=1e-3)
    assert share[2] < 1e-6


def test_a_judgement_stays_within_what_can_be_told() -> None:
    judgement = load_judgement()
    gains, probabilities = judgement(1e6 * torch.randn(20, FEATURES, generator=torch.Generator().manual_seed(0)))
    assert gains.abs().max() <= LARGEST_GAIN
    assert probabilities.min() >= 0
    assert probabilities.max() <= 1


# The verdict


def candidate(kernel: Tensor, gain: float, probability: float = 0.9) -> Candidate:
    return Candidate(kernel, 1, False, 0.0, 0.1, torch.zeros(1, 1, 8, 8), 0.01, -2.0, gain, probability)


def test_what_is_probable_differs_and_lies_where_the_best_lies() -> None:
    best, other = torch.from_numpy(streak()), torch.from_numpy(streak(15, 4))
    moved = torch.roll(other, (2, 0), (0, 1))
    found = Verdict((candidate(best, 2.0), candidate(best, 1.9), candidate(moved, 1.0), candidate(other, 0.5)), 0.01)
    (first, share), (second, less) = found.probable
    assert first is found.best
    assert agree(second.kernel, other) > 0.97
    assert abs(float(kernels.centre_of_mass(second.kernel)[0])) < 1
    assert share + less == pytest.approx(1)
    assert share / less == pytest.approx(math.exp(1 / TEMPERATURE))


def test_only_what_is_expected_to_be_better_is() -> None:
    kernel = torch.ones(3, 3) / 9
    assert Verdict((candidate(kernel, LEAST_GAIN + 0.1),), 0.01).better
    assert not Verdict((candidate(kernel, LEAST_GAIN - 0.1),), 0.01).better  # not worth the risk


def test_pixels_of_a_kernel_count_as_free_parameters() -> None:
    """Of two kernels under which a spectrum is equally likely the one with fewer pixels is preferred, by a nat each."""
    none, small, large = torch.ones(1, 1), torch.ones(3, 3) / 9, torch.ones(9, 9) / 81
    seen = Spectra([none, small, large], torch.tensor([0.0, 0.02, 0.02]), torch.zeros(3), 10_000)
    assert float(seen.values[1] - seen.values[2]) == pytest.approx((81 - 9) / 10_000, abs=1e-6)
    assert seen.narrowest == pytest.approx(0.02 - 9 / 10_000)  # next to none: it is that of a lens
    assert seen.blurred == pytest.approx(-72 / 10_000, abs=1e-6)
