"""The whole way of an array through the engine: it sharpens, keeps types, and refuses what it cannot do."""

import dataclasses

import numpy as np
import pytest
import torch
from scenes import agreement, blurred, psnr, streak, texture

import blinddeblur
from blinddeblur.engine import blending
from blinddeblur.engine.blur_finder import BlurFinder
from blinddeblur.engine.crops import informative_crop
from blinddeblur.engine.pipeline import Engine
from blinddeblur.engine.pixels import Pixels
from blinddeblur.engine.tiled import TiledRestoration
from blinddeblur.errors import EstimationError, KernelError, PhotoError, UsageError
from blinddeblur.estimation.candidates import Candidate, Verdict
from blinddeblur.estimation.first_kernel import classical_guess, first_kernel
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import blur
from blinddeblur.progress import Step
from blinddeblur.samplers.restoration import STEPS
from blinddeblur.settings import CHOICES, Settings
from blinddeblur.tiles import Tile


@pytest.mark.whole_search
def test_blind_restoration_finds_kernel_and_image() -> None:
    kernel = streak()
    x, y = blurred(160, 170, 1, kernel)
    result = blinddeblur.restore(y, steps=10, device="cpu")
    assert agreement(result.kernel, kernel) > 0.85
    assert psnr(result.image, x) > psnr(y, x) + 3
    assert result.kernel.sum() == pytest.approx(1, abs=1e-5)
    assert result.kernel.dtype == np.float32
    assert result.residual < 0.02
    assert (result.method, result.prior, result.seed, result.steps) == ("fast", "photo-fine", 0, 10)


def test_colour_with_a_known_kernel() -> None:
    kernel = streak()
    x, y = blurred(96, 100, 3, kernel)
    seen = []
    result = blinddeblur.restore(y, progress=lambda *stage: seen.append(stage), kernel=kernel, device="cpu")
    assert psnr(result.image, x) > psnr(y, x) + 4
    np.testing.assert_allclose(result.kernel, kernel, atol=1e-7)
    assert seen[-1] == ("restoration", STEPS, STEPS)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(48, 56), (48, 56, 1), (48, 56, 3)])
def test_comes_back_in_its_own_shape_and_type(dtype: type, shape: tuple[int, ...]) -> None:
    _, y = blurred(48, 56, shape[2] if len(shape) == 3 else 1, streak(9, 5))
    scale = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    image = (y.reshape(shape) * scale).astype(dtype)
    result = blinddeblur.restore(image, kernel=streak(9, 5), device="cpu")
    assert result.image.shape == shape
    assert result.image.dtype == dtype
    assert abs(result.image.mean() / scale - image.mean() / scale) < 0.01


def test_same_seed_same_bytes_other_seed_other_bytes() -> None:
    _, y = blurred(64, 64, 1, streak(9, 5))
    first, second, other = (
        blinddeblur.restore(y, steps=3, seed=seed, kernel_size=9, device="cpu") for seed in (1, 1, 2)
    )
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.kernel, second.kernel)
    assert not np.array_equal(first.kernel, other.kernel)


def test_tiles_leave_no_seams() -> None:
    _, y = blurred(150, 200, 1, streak())
    whole = blinddeblur.restore(y, kernel=streak(), device="cpu")
    tiled = blinddeblur.restore(y, kernel=streak(), tile=100, device="cpu")
    assert psnr(tiled.image, whole.image, border=1) > 40


def test_a_network_of_fixed_size_sees_only_that_size() -> None:
    engine = Engine(Settings(kernel=streak(), device="cpu"))
    reference, shapes = engine.search_prior, set()

    class Fixed(type(reference)):  # type: ignore[misc]
        def _network(self, x, sigma):  # type: ignore[no-untyped-def]
            shapes.add(tuple(x.shape[-2:]))
            return super()._network(x, sigma)

    engine.prior = Fixed(**{**vars(reference), "image_size": 96})
    x, y = blurred(80, 150, 1, streak())
    result = engine.restore(y)
    assert shapes == {(96, 96)}
    assert psnr(result.image, x) > psnr(y, x) + 3


def test_blinddps_runs_and_reports() -> None:
    _, y = blurred(32, 40, 3, streak(9, 5))
    seen = []
    result = blinddeblur.restore(
        y, progress=lambda *s: seen.append(s), method="blinddps", steps=3, kernel_size=9, device="cpu"
    )
    assert seen == [("blinddps", i, 3) for i in (1, 2, 3)]
    assert result.kernel.shape == (9, 9)
    assert np.isfinite(result.image).all()
    assert result.image.shape == y.shape


def test_blinddps_takes_other_kernel_priors() -> None:
    """The paper's ablation: a kernel of which nothing is known moves down the gradient, and starts flat."""
    _, y = blurred(64, 70, 1, streak(9, 5))
    found, first = {}, {}
    for name in CHOICES["kernel_prior"]:
        seen: list[Step] = []
        engine = Engine(Settings(method="blinddps", kernel_prior=name, steps=10, kernel_size=9, device="cpu"))
        found[name] = engine.restore(y, callback=seen.append)
        first[name] = seen[1].kernel
        assert found[name].kernel_prior == name
    assert float(first["uniform"].max()) == pytest.approx(1 / 81)
    assert float(first["diffusion"].max()) > 1.5 / 81
    flat = agreement(np.ones((9, 9)), streak(9, 5))
    assert agreement(found["uniform"].kernel, streak(9, 5)) > flat + 1e-3
    assert agreement(found["conditioned"].kernel, streak(9, 5)) > flat + 0.1
    assert not np.allclose(found["conditioned"].kernel, found["diffusion"].kernel, atol=1e-3)


def test_a_conditioned_kernel_prior_needs_enough_of_the_photo() -> None:
    _, y = blurred(40, 48, 1, streak(9, 5))
    with pytest.raises(UsageError, match="at least 64 pixels"):
        blinddeblur.restore(y, method="blinddps", kernel_prior="conditioned", steps=2, device="cpu")


def test_blinddps_chooses_a_kernel_that_fits_the_photo() -> None:
    _, y = blurred(40, 48, 1, streak(9, 5))
    result = blinddeblur.restore(y, method="blinddps", steps=2, device="cpu")
    assert result.kernel.shape == (21, 21)
    assert np.isfinite(result.residual)


def test_kernel_size_grows_until_the_blur_fits() -> None:
    kernel = streak(51, 40)
    _, y = blurred(150, 160, 1, kernel)
    assert len(classical_guess(torch.from_numpy(y.transpose(2, 0, 1))[None], None)) > 47


def test_first_kernel_of_noise_alone_is_still_a_kernel() -> None:
    y = 0.5 + 0.01 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    kernel = first_kernel(y, 15)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)


def test_the_crop_goes_where_the_texture_is() -> None:
    image = torch.full((1, 3, 400, 600), 0.5)
    image[..., 250:, 350:] = torch.rand(1, 1, 150, 250)
    image[..., :150, :250] = torch.rand(1, 1, 150, 250).round()  # more contrast, but all clipped
    photo = Pixels(image[0].permute(1, 2, 0).numpy(), torch.device("cpu"))
    crop = informative_crop(photo, 200, Tile(0, 0, 400, 600))
    assert crop.top + crop.height > 350
    assert crop.left + crop.width > 500


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "magic"}, UsageError, "no method magic"),
        ({"steps": 0}, UsageError, "between 2 and 1000"),
        ({"kernel_size": 8}, KernelError, "odd number"),
        ({"kernel_size": 301}, KernelError, "odd number"),
        ({"sigma": -1.0}, UsageError, "from 0 to 0.5"),
        ({"seed": -1}, UsageError, "seed"),
        ({"device": "cuda:7"}, UsageError, "cannot be used here"),
        ({"device": "toaster"}, UsageError, "cannot be used here"),
        ({"prior": "nothing"}, UsageError, "no weights named nothing"),
        ({"prior": "kernel"}, UsageError, "of kind kernel"),
        ({"method": "blinddps", "kernel": streak()}, UsageError, "estimates the kernel"),
        ({"method": "blinddps", "kernel_prior": "flat"}, UsageError, "Choose one of diffusion, uniform, conditioned"),
        ({"kernel_prior": "uniform"}, UsageError, "choose the method blinddps"),
        ({"method": "blinddps", "sigma": 0.01}, UsageError, "no noise level"),
        ({"method": "blinddps", "linear": True}, UsageError, "encoded values"),
        ({"kernel_size": 9, "kernel": streak()}, UsageError, "own size"),
        ({"kernel": np.zeros((5, 5))}, KernelError, "something positive"),
        ({"kernel": streak(41, 20)}, KernelError, "at most 25 fit"),
        ({"kernel_size": 41}, KernelError, "at most 25 fit"),
        ({"method": "blinddps", "kernel_size": 41}, KernelError, "at most 25 fit"),
        ({"method": "blinddps", "kernel_size": 65}, UsageError, "up to 63"),
    ],
)
def test_options_that_make_no_sense(options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        blinddeblur.restore(np.full((50, 50), 0.5, np.float32), **{"device": "cpu", **options})


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((31, 64)), "64x31 pixels"),
        (np.zeros((64, 64, 4)), "transparency"),
        (np.zeros((64, 64), np.int32), "uint8, uint16"),
        (np.zeros((2, 64, 64, 3)), "uint8, uint16"),
        (np.full((64, 64), np.nan), "not numbers"),
    ],
)
def test_arrays_that_are_no_photos(image: np.ndarray, words: str) -> None:
    with pytest.raises(PhotoError, match=words):
        blinddeblur.restore(image, device="cpu")


def test_a_photo_without_anything_in_it_is_left_alone() -> None:
    flat = np.full((64, 64), 0.5, np.float32)
    result = blinddeblur.restore(flat, device="cpu")
    assert result.unchanged
    assert result.confidence is None
    assert result.expected_gain is None
    assert "left as it is" in result.warnings[0]
    assert np.array_equal(result.image, flat)


def test_the_judge_only_reports_on_a_kernel_that_is_given() -> None:
    kernel = streak(9, 5)
    _, y = blurred(80, 80, 1, kernel)
    right = blinddeblur.restore(y, kernel=kernel, device="cpu")
    wrong = blinddeblur.restore(y, kernel=streak(21, 18).T, device="cpu")
    assert right.confidence is not None
    assert wrong.confidence is not None
    assert right.expected_gain > wrong.expected_gain
    assert not wrong.unchanged
    assert not np.array_equal(wrong.image, y)


@pytest.mark.parametrize(("long", "sharp"), [(False, True), (True, False)])
def test_crisp_edges_along_a_long_motion_are_no_sharpness(
    monkeypatch: pytest.MonkeyPatch, long: bool, sharp: bool
) -> None:
    """Whatever the edges say, a spectrum that a motion of 65 pixels has passed is that of a blurred photo."""
    monkeypatch.setattr("blinddeblur.engine.blur_finder.is_sharp", lambda y, sigma: True)
    x = texture(320)
    y = x[..., 100:300] if not long else blur(x, kernels.line(65, 0, torch.device("cpu")))
    noise = 0.005 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    photo = Pixels((y + noise)[0, 0].clamp(0, 1).numpy(), torch.device("cpu"))
    assert Engine(Settings(device="cpu")).finder(photo).looks_sharp(0.005) == sharp
    assert not Engine(Settings(device="cpu", kernel_size=9)).finder(photo).looks_sharp(0.005)


def verdict(gain: float, probability: float, blurred_by: float) -> Verdict:
    kernel = torch.from_numpy(streak(9, 5))
    way = Candidate(kernel, 1, False, 0.0, 0.1, torch.zeros(1, 1, 8, 8), 0.01, -2.0, gain, probability)
    return Verdict((way, dataclasses.replace(way, kernel=kernel.T.contiguous(), gain=gain - 0.5)), blurred_by)


@pytest.mark.parametrize(
    ("gain", "probability", "blurred_by", "sharp", "hopeless", "words"),
    [
        (2.0, 0.95, 0.02, False, False, None),
        (2.0, 0.6, 0.02, False, False, "probability of 0.60"),
        (-1.0, 0.3, 0.02, False, True, "how cannot be made out"),
        (-1.0, 0.3, 0.0, True, False, "sharp already"),
    ],
)
def test_a_photo_comes_back_unchanged_for_the_reason_that_is_true(
    monkeypatch: pytest.MonkeyPatch,
    gain: float,
    probability: float,
    blurred_by: float,
    sharp: bool,
    hopeless: bool,
    words: str | None,
) -> None:
    _, y = blurred(64, 64, 1, streak(9, 5))
    monkeypatch.setattr(BlurFinder, "find", lambda *arguments: verdict(gain, probability, blurred_by))
    result = blinddeblur.restore(y, device="cpu")
    assert (result.sharp, result.hopeless) == (sharp, hopeless)
    assert np.array_equal(result.image, y) == result.unchanged
    assert (result.confidence is None) == result.unchanged
    assert any(words in sentence for sentence in result.warnings) if words else result.expected_gain == gain
    asked = blinddeblur.restore(y, kernel_size=9, device="cpu")
    assert not asked.unchanged  # somebody says that there is blur


def test_where_two_ways_are_probable_the_photo_is_blended_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    _, y = blurred(64, 64, 1, streak(9, 5))
    monkeypatch.setattr(BlurFinder, "find", lambda *arguments: verdict(2.0, 0.9, 0.02))
    both = blinddeblur.restore(y, device="cpu", uncertainty=True)
    monkeypatch.setattr(blending, "LEAST_SHARE", 1.0)
    alone = blinddeblur.restore(y, device="cpu", uncertainty=True)
    assert not np.array_equal(both.image, alone.image)
    assert both.uncertainty is not None
    assert both.uncertainty.shape == y.shape
    assert both.uncertainty.mean() > alone.uncertainty.mean()
    assert both.samples is None


def test_samples_have_kernels_as_they_are_probable(monkeypatch: pytest.MonkeyPatch) -> None:
    _, y = blurred(64, 64, 1, streak(9, 5))
    monkeypatch.setattr(BlurFinder, "find", lambda *arguments: verdict(2.0, 0.9, 0.02))
    used: list[torch.Tensor] = []
    sample = TiledRestoration.sample

    def watched(self, photo, kernel_map, *others):  # type: ignore[no-untyped-def]
        used.append(kernel_map.kernels[0, 0])
        return sample(self, photo, kernel_map, *others)

    monkeypatch.setattr(TiledRestoration, "sample", watched)
    result = Engine(Settings(samples=4, device="cpu"), sample_steps=2).restore(y)
    assert len(result.samples) == 4
    upright = [float(kernel.sum(dim=0).max() / kernel.sum(dim=1).max()) > 1 for kernel in used]
    assert upright == [False, False, True, True]  # shares of .54 and .46


def test_not_a_number_is_never_a_result() -> None:
    engine = Engine(Settings(kernel=streak(), device="cpu"))

    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return x * float("nan")

    engine.prior = dataclasses.replace(engine.prior, network=Broken(), grey=None)
    with pytest.raises(EstimationError, match="not numbers"):
        engine.restore(np.full((64, 64), 0.5, np.float32))


def test_exported_names_are_there() -> None:
    for name in blinddeblur.__all__:
        assert getattr(blinddeblur, name).__name__ == name
    with pytest.raises(AttributeError):
        blinddeblur.nothing  # noqa: B018
