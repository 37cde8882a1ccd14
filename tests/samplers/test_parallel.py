"""Parallel diffusions of any unknowns, and turbulence as one case, with priors whose answers are known."""

import math
from typing import NamedTuple

import pytest
import torch
from gaussian import Gaussian
from scenes import sharp
from torch import Tensor

import blinddeblur
from blinddeblur.errors import EstimationError
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import blur
from blinddeblur.physics.tilt import warp
from blinddeblur.priors.ddpm import linear_alpha_bar
from blinddeblur.priors.kolmogorov import KolmogorovTilt
from blinddeblur.progress import Step
from blinddeblur.samplers import blinddps_turbulence
from blinddeblur.samplers.parallel import Estimates, Unknown, clipped, sample
from blinddeblur.samplers.schedule import Diffusion, Level, levels
from blinddeblur.tiles import Tile

pytestmark = pytest.mark.usefixtures("in_float64")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def test_schedule_ends_without_noise_and_follows_the_table() -> None:
    alpha_bar = linear_alpha_bar()
    full = levels(1000)
    assert [level.t for level in full] == list(range(999, -1, -1))
    assert full[0].beta == pytest.approx(0.02)
    assert full[-1].beta == pytest.approx(1e-4)
    assert full[-1].previous == 1
    few = levels(10, alpha_bar)
    assert few[0].t == 999
    assert few[-1].t == 0
    assert math.prod(1 - level.beta for level in few) == pytest.approx(float(alpha_bar[999]))


def test_ancestral_step_by_hand() -> None:
    level = Level(t=5, alpha_bar=0.6, previous=0.8, beta=0.25)  # alpha = 0.75
    x_t, x0, noise = torch.tensor([0.5]), torch.tensor([-0.2]), torch.tensor([1.5])
    mean = math.sqrt(0.8) * 0.25 / 0.4 * -0.2 + math.sqrt(0.75) * 0.2 / 0.4 * 0.5
    small = 0.25 * 0.2 / 0.4
    assert float(level.ancestral(x_t, x0, None, noise)) == pytest.approx(mean + math.sqrt(small) * 1.5)
    for v, variance in ((-1.0, small), (1.0, 0.25), (0.0, math.sqrt(small * 0.25))):
        sampled = level.ancestral(x_t, x0, torch.tensor([v]), noise)
        assert float(sampled) == pytest.approx(mean + math.sqrt(variance) * 1.5)


def test_ancestral_steps_sample_the_prior() -> None:
    prior, source = Gaussian(0.3, 0.2), generator()
    x = torch.randn(20000, generator=source)
    for level in levels(1000):
        x0, v = prior(x, level.t, level.alpha_bar)
        x = level.ancestral(x, x0, v, torch.randn(x.shape, generator=source))
    assert float(x.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(x.std()) == pytest.approx(0.2, abs=0.01)


def test_one_step_by_hand() -> None:
    """Two steps of two unknowns, one with a prior and one without, spelled out."""
    alpha_bar = torch.tensor([0.9, 0.3])
    unknowns = {"a": Unknown((1, 3), Gaussian(0.1, 0.5, v=0.4), 0.2), "b": Unknown((3,), None, 0.4)}

    def objective(estimates: Estimates) -> Tensor:
        return (estimates["a"] * (1 + estimates["b"]) - 1).norm()

    found = sample(unknowns, objective, 2, alpha_bar, generator(1))

    source = generator(1)
    a, b = torch.randn(1, 3, generator=source), torch.zeros(3)
    for now, before, beta in ((0.3, 0.9, 1 - 0.3 / 0.9), (0.9, 1.0, 1 - 0.9)):
        noise = torch.randn(1, 3, generator=source)
        slope = 0.25 * now**0.5 / (0.25 * now + 1 - now)
        a0 = 0.1 + slope * (a - now**0.5 * 0.1)
        residual = a0 * (1 + b) - 1
        direction = residual / residual.norm()
        small = beta * (1 - before) / (1 - now)
        scale = math.exp(0.5 * (0.7 * math.log(beta) + 0.3 * math.log(small))) if small else 0.0
        mean = before**0.5 * beta / (1 - now) * a0 + (1 - beta) ** 0.5 * (1 - before) / (1 - now) * a
        a, b = mean + scale * noise - 0.2 * slope * (1 + b) * direction, (b - 0.4 * (a0 * direction)[0]).clamp(-1, 1)
    torch.testing.assert_close(found, {"a": a, "b": b})


def test_without_a_measurement_it_samples_the_priors() -> None:
    unknowns = {"x": Unknown((20000,), Gaussian(0.3, 0.2)), "k": Unknown((20000,), Gaussian(-0.5, 0.1), 0.7)}

    def indifferent(estimates: Estimates) -> Tensor:
        return 0 * (estimates["x"].sum() + estimates["k"].sum())

    found = sample(unknowns, indifferent, generator=generator())
    for name, mean, deviation in (("x", 0.3, 0.2), ("k", -0.5, 0.1)):
        assert float(found[name].mean()) == pytest.approx(mean, abs=0.01)
        assert float(found[name].std()) == pytest.approx(deviation, abs=0.01)
    assert abs(float(torch.corrcoef(torch.stack([found["x"], found["k"]]))[0, 1])) < 0.03  # each has noise of its own


@pytest.mark.parametrize("diffused", [True, False])
def test_it_recovers_what_the_measurement_tells(diffused: bool) -> None:
    """Roughly known numbers times an unknown one, the factor, with a prior or without."""
    mean, factor = torch.linspace(0.1, 0.9, 400), torch.tensor([0.6])
    truth = mean + 0.1 * torch.randn(400, generator=generator(3))
    values = []

    def objective(estimates: Estimates) -> Tensor:
        value = (factor * truth - estimates["factor"] * estimates["numbers"]).norm()
        values.append(float(value.detach()))
        return value

    unknowns = {
        "numbers": Unknown((400,), Gaussian(mean, 0.1)),
        "factor": Unknown((1,), Gaussian(0.0, 0.3) if diffused else None, 0.002),  # all 400 pull at it
    }
    found = sample(unknowns, objective, generator=generator())
    torch.testing.assert_close(found["factor"], factor, rtol=0, atol=0.05)
    assert error(found["numbers"], truth) < 0.2 * error(mean, truth)
    assert values[-1] < 0.1 * values[0]


def test_an_unknown_without_prior_stays_in_its_range() -> None:
    found = sample({"x": Unknown((4,), None, 0.1)}, lambda e: (e["x"] - 3).norm(), 100, generator=generator())
    assert torch.equal(found["x"], torch.ones(4))


def test_the_callback_is_told_of_every_step() -> None:
    told: list[tuple[int, Estimates]] = []
    unknowns = {"x": Unknown((5,), clipped(Gaussian(0.0, 9.0)))}
    sample(unknowns, lambda e: e["x"].norm(), 7, generator=generator(), callback=lambda *a: told.append(a))
    assert [index for index, _ in told] == list(range(7))
    assert all(float(estimates["x"].abs().max()) <= 1 for _, estimates in told)
    assert not any(estimates["x"].requires_grad for _, estimates in told)


def test_divergence_names_the_unknown() -> None:
    def broken(x_t: Tensor, t: int, alpha_bar: float) -> tuple[Tensor, None]:
        return x_t * float("nan"), None

    unknowns = {"image": Unknown((3,), Gaussian(0.0, 1.0)), "tilt": Unknown((3,), broken)}
    with pytest.raises(EstimationError, match="of the tilt diverged at step 1"):
        sample(unknowns, lambda e: e["image"].norm() + e["tilt"].nan_to_num().norm(), 3)


def test_parts_take_turns_and_what_they_share_moves_after_all() -> None:
    """Two parts of an image and a factor that they share: one step spelled out, and what the callback is told."""
    alpha_bar, told, seen = torch.tensor([0.5]), [], []
    unknowns = {n: Unknown((2,), Gaussian(0.1, 0.5), 0.2) for n in ("left", "right")}
    unknowns["factor"] = Unknown((1,), Gaussian(0.3, 0.4), 0.1)

    def objective(estimates: Estimates) -> Tensor:
        (name,) = estimates.keys() - {"factor"}
        seen.append(name)
        return (estimates[name] * estimates["factor"] - (1 if name == "left" else 2)).square().sum()

    start = {n: torch.randn(u.shape, generator=generator(i)) for i, (n, u) in enumerate(unknowns.items())}
    found = sample(
        unknowns,
        objective,
        1,
        alpha_bar,
        callback=lambda index, estimates: told.append(estimates),
        noise=lambda name, index: start[name].clone(),
        parts=["left", "right"],
    )
    assert seen == ["left", "right"]
    slopes = {n: u.prior.deviation**2 * 0.5**0.5 / (u.prior.deviation**2 * 0.5 + 0.5) for n, u in unknowns.items()}  # type: ignore[union-attr]
    x0 = {n: u.prior.mean + slopes[n] * (start[n] - 0.5**0.5 * u.prior.mean) for n, u in unknowns.items()}  # type: ignore[union-attr]
    rest = {n: x0[n] * x0["factor"] - target for n, target in (("left", 1), ("right", 2))}
    for name, r in rest.items():
        torch.testing.assert_close(found[name], x0[name] - 0.2 * slopes[name] * 2 * r * x0["factor"])
    pull = sum(float((2 * r * x0[name]).sum()) for name, r in rest.items()) / 2
    torch.testing.assert_close(found["factor"], x0["factor"] - 0.1 * slopes["factor"] * pull)
    torch.testing.assert_close(told[0], x0)


TILT = KolmogorovTilt(1.5, 24)
UNIT = TILT.unit  # in pixels
SIZE = 5  # of the kernel


def scene(height: int, width: int) -> Tensor:
    """Soft blobs on [-1, 1], (1, 1, height, width)."""
    coarse = torch.rand(1, 1, height // 5 + 2, width // 5 + 2, generator=generator(5))
    return 1.6 * torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic") - 0.8


def bell() -> Tensor:
    """As a kernel prior sees it, (1, 1, 64, 64) in [-1, 1]."""
    row = torch.arange(SIZE) - SIZE // 2
    return 2 * kernels.to_prior(torch.exp(-(row[:, None] ** 2 + row**2) / 2)) - 1


def field(height: int, width: int) -> Tensor:
    """A magnification by up to a pixel and a half, (1, 2, height, width) in units. (A turn would not be a gradient.)"""
    row, column = torch.linspace(-1.5, 1.5, height)[:, None], torch.linspace(-1.5, 1.5, width)
    return torch.stack([row.expand(-1, width), column.expand(height, -1)])[None] / UNIT


class Found(NamedTuple):
    image: Tensor
    kernel: Tensor
    tilt: Tensor


class Setting:
    """A frame of 24 x 28 pixels behind a known image, kernel and tilt."""

    height, width = 24, 28

    def __init__(self) -> None:
        self.x = scene(*blinddps_turbulence.sides(self.height, self.width, SIZE, UNIT))
        self.kernel = kernels.from_prior((bell() + 1) / 2, SIZE)[0, 0]
        self.tilt = field(self.height + SIZE - 1, self.width + SIZE - 1)
        self.y = (blur(warp(self.x, UNIT * self.tilt), self.kernel) + 1) / 2
        margin = (self.x.shape[-1] - self.width) // 2
        image = Tile(margin, margin, self.height, self.width).of(self.x)
        tilt = UNIT * self.tilt[..., 2:-2, 2:-2]
        self.truth = Found((image + 1) / 2, self.kernel, tilt)

    def sure(self) -> dict[str, Diffusion]:
        """Priors that know the answer."""
        return {"image": Gaussian(self.x, 1e-3), "kernel": Gaussian(bell(), 1e-3), "tilt": Gaussian(self.tilt, 1e-3)}

    def run(self, priors: dict[str, Diffusion], steps: int = 20, seed: int = 0, **options: object) -> Found:
        return Found(*blinddps_turbulence.sample(
            priors["image"], priors["kernel"], priors["tilt"], self.y, SIZE, UNIT, steps,
            generator=generator(seed), **options,  # type: ignore[arg-type]
        ))  # fmt: skip


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_turbulence_with_sure_priors_gives_the_answer_in_the_frame(setting: Setting) -> None:
    assert setting.y.shape == (1, 1, 24, 28)
    found = setting.run(setting.sure(), step_size=1e-3)
    for value, expected in zip(found, setting.truth, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("name", "vague", "within"),
    [
        ("image", Gaussian(0.0, 0.5), 0.8),  # what the blur hides stays as the prior drew it
        ("kernel", Gaussian(-0.5, 0.4), 0.6),
        ("tilt", TILT.predict, 0.1),
    ],
)
def test_the_measurement_finds_each_unknown_where_the_others_are_known(
    setting: Setting, name: str, vague: Diffusion, within: float
) -> None:
    """Against what the prior draws when the measurement is not heard."""
    index = Found._fields.index(name)
    priors = setting.sure() | {name: vague}
    deaf, heard = (setting.run(priors, 100, step_size=size) for size in (0.0, 1.0))
    assert error(heard[index], setting.truth[index]) < within * error(deaf[index], setting.truth[index])


def test_turbulence_explains_the_frame_by_all_three_together(setting: Setting) -> None:
    seen: list[Step] = []
    priors: dict[str, Diffusion] = {
        "image": Gaussian(0.0, 0.5), "kernel": Gaussian(bell(), 0.3), "tilt": TILT.predict,
    }  # fmt: skip
    found = setting.run(priors, 100, step_size=1.0, callback=seen.append)
    assert [tuple(value.shape) for value in found] == [(1, 1, 24, 28), (5, 5), (1, 2, 24, 28)]
    assert all(torch.isfinite(value).all() for value in found)
    assert float(found.kernel.sum()) == pytest.approx(1)
    assert float(found.kernel.min()) >= 0
    assert [(s.index, s.total) for s in seen] == [(i, 100) for i in range(100)]
    assert all(s.image.shape == setting.y.shape for s in seen)

    def residual(found: Found) -> float:
        explained = blur(warp(found.image, found.tilt), found.kernel)  # without what lies beyond the frame
        return error(explained[..., 2:-2, 2:-2], setting.y[..., 4:-4, 4:-4])

    assert residual(found) < 0.3 * residual(setting.run(priors, 100, step_size=0.0))


def test_a_kernel_off_its_middle_moves_image_and_tilt(setting: Setting) -> None:
    """The same frame, explained by a kernel one down and two left, and by an image shifted the other way."""
    shifts = {"image": (-1, 2), "kernel": (1, -2), "tilt": (-1, 2)}
    spot = torch.full((1, 1, 64, 64), -1.1)  # nothing, even with some noise
    spot[..., 32, 32] = 1
    means = {"image": setting.x, "kernel": spot, "tilt": setting.tilt}
    priors: dict[str, Diffusion] = {n: Gaussian(m.roll(shifts[n], (2, 3)), 1e-4) for n, m in means.items()}
    found = setting.run(priors, step_size=0.0)
    torch.testing.assert_close(found.image, setting.truth.image, rtol=0, atol=2e-3)
    torch.testing.assert_close(found.tilt, setting.truth.tilt, rtol=0, atol=2e-3)
    assert int(found.kernel.argmax()) == SIZE**2 // 2


def test_networks_of_fixed_size_see_only_that_size(setting: Setting) -> None:
    shapes = []

    def prior(x_t: Tensor, t: int, alpha_bar: float) -> tuple[Tensor, None]:
        shapes.append(tuple(x_t.shape))
        return 0.1 * x_t, None

    priors: dict[str, Diffusion] = {"image": prior, "kernel": Gaussian(bell(), 0.1), "tilt": prior}
    found = setting.run(priors, 2, image_side=41, tilt_side=34)
    assert set(shapes) == {(1, 1, 41, 41), (1, 2, 34, 34)}
    assert [tuple(value.shape) for value in found] == [(1, 1, 24, 28), (5, 5), (1, 2, 24, 28)]


def shipped(y: Tensor, prior: KolmogorovTilt, steps: int, seed: int) -> Found:
    torch.set_default_dtype(torch.float32)
    photo, kernel = blinddeblur.load_prior("photo"), blinddeblur.load_prior("kernel")
    priors = (photo.predict, kernel.predict, prior.predict)
    return Found(*blinddps_turbulence.sample(*priors, y, 15, prior.unit, steps, generator=generator(seed)))


def hazy(side: int, prior: KolmogorovTilt) -> Tensor:
    """A colour frame behind turbulence and a Gaussian blur of one pixel, (1, 3, side, side)."""
    torch.set_default_dtype(torch.float32)
    row = torch.arange(-7.0, 8)
    kernel = kernels.normalise(torch.exp(-(row[:, None] ** 2 + row**2) / 2))
    x = torch.from_numpy(sharp(side + 30, side + 30, 3).transpose(2, 0, 1))[None]
    y = blur(warp(x, prior.sample(1, side + 14, side + 14, generator())), kernel)
    return y + 0.01 * torch.randn(y.shape, generator=generator(1))


def test_shipped_priors_same_seed_same_bytes() -> None:
    prior = KolmogorovTilt(3, 12)
    y = hazy(20, prior)
    first, second = shipped(y, prior, 4, 7), shipped(y, prior, 4, 7)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.tilt, shipped(y, prior, 4, 8).tilt)
    assert all(torch.isfinite(value).all() for value in first)


@pytest.mark.slow
def test_a_thousand_steps_through_turbulence() -> None:
    prior = KolmogorovTilt(3, 12)
    y = hazy(64, prior)
    found = shipped(y, prior, 1000, 0)
    assert all(torch.isfinite(value).all() for value in found)
    assert float(found.kernel.sum()) == pytest.approx(1, abs=1e-5)
    explained = blur(warp(found.image, found.tilt), found.kernel)
    assert error(explained[..., 5:-5, 5:-5], y[..., 12:-12, 12:-12]) < 0.5 * float(y.std())
