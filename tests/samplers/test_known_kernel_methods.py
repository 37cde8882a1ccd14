"""DPS, DDNM and DiffPIR: single steps against dense linear algebra, priors with known answers, and the command."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian import GaussianImage
from scenes import blurred, guided, streak
from torch import Tensor
from typer.testing import CliRunner

import blinddeblur
from blinddeblur.cli import app
from blinddeblur.engine.pipeline import Engine
from blinddeblur.errors import UsageError
from blinddeblur.files import decoding, encoding
from blinddeblur.files.photo import Photo
from blinddeblur.physics.convolution import Blur, blur
from blinddeblur.physics.measurement import Measurement
from blinddeblur.samplers import ddnm, diffpir, dps
from blinddeblur.samplers.deblurring import Deblurring
from blinddeblur.samplers.schedule import levels
from blinddeblur.samplers.white_noise import white_noise
from blinddeblur.settings import Settings

SIDE, RADIUS = 6, 1
WIDE = SIDE + 2 * RADIUS
ALPHA_BAR = torch.tensor([0.9, 0.3], dtype=torch.float64)
KERNEL = torch.tensor([[0.0, 0.1, 0.2], [0.1, 0.3, 0.1], [0.2, 0.0, 0.0]], dtype=torch.float64)
METHODS = ("dps", "ddnm", "diffpir")
in_float64 = pytest.mark.usefixtures("in_float64")


def dense(kernel: Tensor = KERNEL) -> Tensor:
    """The blur as a matrix, (SIDE^2, WIDE^2)."""
    return blur(torch.eye(WIDE**2).reshape(-1, 1, WIDE, WIDE), kernel).reshape(WIDE**2, -1).T


def measurement(channels: int = 1, seed: int = 1) -> Measurement:
    """Of nothing in particular; no pixel counts as clipped."""
    y = 0.2 + 0.6 * torch.rand(1, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return Measurement(y, torch.zeros_like(y, dtype=torch.bool), linear=False)


def noise(index: int, channels: int = 1) -> Tensor:
    return white_noise((7, index), -RADIUS, -RADIUS, (channels, WIDE, WIDE)).double()


def given(
    prior: object, y: Measurement | Tensor, kernel: Tensor, sigma: float, steps: int, **more: object
) -> Deblurring:
    pixels = y if isinstance(y, Measurement) else Measurement.of(y)
    denoise = getattr(prior, "denoise", prior)
    return Deblurring(denoise, pixels, Blur.uniform(kernel), sigma, steps, **({"key": (7,), "prior": prior} | more))  # type: ignore[arg-type]


def inside(x: Tensor) -> Tensor:
    return x[..., RADIUS:-RADIUS, RADIUS:-RADIUS]


@in_float64
@pytest.mark.parametrize("photons", [None, 3.0])
def test_dps_by_hand(photons: float | None) -> None:
    """Two steps of Algorithm 1, the gradient of the squared norm spelled out."""
    y, forward, zeta = measurement().y, dense(), 0.7
    sigma = 0.1 if photons is None else math.sqrt(float(y.mean()) / photons)
    task = given(GaussianImage(0.55, 0.25), y, KERNEL, sigma, 2, poisson=photons is not None)
    found = dps.restore(task, zeta, ALPHA_BAR)
    target = (2 * y - 1).flatten()
    near = torch.tensor([[abs(a - b) <= 2 for b in range(SIDE)] for a in range(SIDE)]).double()
    counted = 3 * (torch.kron(near, near) @ y.flatten()) / torch.kron(near, near).sum(dim=1)  # in 5x5 pixels
    weight = torch.ones(SIDE**2) if photons is None else 1 / (2 * counted.clamp_min(1))
    weight = weight / weight.mean()
    assert photons is None or weight.min() < weight.max()
    x = noise(0).flatten()
    for index, (now, before) in enumerate(((0.3, 0.9), (0.9, 1.0))):
        beta = 1 - now / before
        slope = 0.25 * now**0.5 / (0.25 * now + 1 - now)
        x0 = 0.1 + slope * (x - now**0.5 * 0.1)
        rest = target - forward @ x0
        squared_gradient = -2 * slope * forward.T @ (weight * rest)
        step = zeta * math.sqrt(SIDE**2 / (3 * 256**2)) / float((weight * rest**2).sum().sqrt())
        mean = before**0.5 * beta / (1 - now) * x0 + (1 - beta) ** 0.5 * (1 - before) / (1 - now) * x
        fresh = math.sqrt(beta * (1 - before) / (1 - now)) * noise(index + 1).flatten()
        x = mean + fresh - step * squared_gradient
    torch.testing.assert_close(found, (inside(x.reshape(1, 1, WIDE, WIDE)) + 1) / 2)


@in_float64
def test_photons_from_noise() -> None:
    source = np.random.default_rng(0)
    x = source.uniform(0.1, 0.9, (1, 1, 300, 300))
    y = torch.from_numpy(source.poisson(80 * x) / 80)
    sigma = float((y - torch.from_numpy(x)).square().mean().sqrt())
    assert dps.photons_of(y, sigma) == pytest.approx(80, rel=0.03)
    assert dps.photons_of(0 * y, sigma) == 1  # a pixel without any still weighs something
    assert dps.precision(0 * y, 80)[0].equal(torch.ones_like(y))


@in_float64
def test_weights_even_out_the_noise_of_photons() -> None:
    source = np.random.default_rng(0)
    x = np.repeat(np.linspace(0.1, 0.9, 300), 300).reshape(1, 1, 300, 300)
    rest = torch.from_numpy(source.poisson(80 * x) / 80 - x)
    weight, level = dps.precision(torch.from_numpy(x) + rest, 80)
    assert float(weight.mean()) == pytest.approx(1)
    dark, bright = ((weight * rest**2)[..., rows, :].mean().sqrt() for rows in (slice(100), slice(200, None)))
    assert level == pytest.approx(float(dark), rel=0.03)
    assert level == pytest.approx(float(bright), rel=0.03)


def test_dps_moves_further_where_there_is_less_noise() -> None:
    y, kernel = torch.rand(1, 1, 20, 22), KERNEL.float()

    def drawn(sigma: float, zeta: float | None = None) -> Tensor:
        return dps.restore(given(GaussianImage(0.5, 0.25), y, kernel, sigma, 5), zeta)

    assert drawn(0.02).equal(drawn(0.3, 4.0))
    assert drawn(0.0).equal(drawn(0.3, 16.0))


@in_float64
def test_ddnm_without_noise_takes_the_range_of_the_measurement() -> None:
    """The first step by the pseudo-inverse; the last one leaves an image that explains the measurement."""
    kernel = (KERNEL + 2 * torch.eye(3)[1].outer(torch.eye(3)[1])) / 3
    y, forward = measurement(), dense(kernel)
    seen: list[Tensor] = []
    prior = GaussianImage(0.4, 0.2)
    task = given(prior, y, kernel, 0.0, 2, callback=lambda s: seen.append(s.image))
    ddnm.restore(task, iterations=300, alpha_bar=ALPHA_BAR)
    x0 = prior.denoise((noise(0) / 0.3**0.5 + 1) / 2, (0.7 / 0.3) ** 0.5 / 2).flatten()
    inverse = torch.linalg.pinv(forward)
    expected = x0 - inverse @ (forward @ x0 - y.y.flatten())
    assert float(torch.linalg.svdvals(forward).min()) > 0.2  # so that Tikhonov's weight hardly counts
    torch.testing.assert_close(seen[0].flatten(), expected, rtol=0, atol=0.02)
    torch.testing.assert_close(blur(seen[-1], kernel), y.y, rtol=0, atol=0.02)


@in_float64
@pytest.mark.parametrize("sigma", [0.004, 0.3])
def test_noise_that_ddnm_passes_on_and_fresh_noise_are_white_together(sigma: float) -> None:
    """The condition of DDNM+ on all singular vectors: once with NOISE_FREE_WEIGHT, once with w at its limit."""
    number, level = 1500, levels(2, ALPHA_BAR)[0]
    limit = ddnm.least_weight(level, sigma)
    assert limit is not None
    assert (limit > ddnm.NOISE_FREE_WEIGHT) == (sigma == 0.3)
    y = measurement(number)
    y.y.copy_(0.5 + sigma * torch.randn(y.y.shape, generator=torch.Generator().manual_seed(2)))
    states: list[Tensor] = []

    def sure(x: Tensor, level: float) -> Tensor:
        states.append(2 * x - 1)
        return torch.full_like(x, 0.5)

    ddnm.restore(given(sure, y, KERNEL, sigma, 2), 1e3, 40, ALPHA_BAR)
    from_x_t = (1 - level.beta) ** 0.5 * (1 - level.previous) / (1 - level.alpha_bar)
    state = states[1] * level.previous**0.5 - from_x_t * noise(0, number)
    rows = state.reshape(number, -1) @ torch.linalg.svd(dense()).Vh.T
    variance = rows.square().mean(dim=0) / level.posterior_variance
    assert float(variance.mean()) == pytest.approx(1, abs=0.01)
    assert float((variance - 1).abs().max()) < 5 * math.sqrt(2 / number)


@in_float64
@pytest.mark.parametrize("details", [0.2, 1e3])
def test_ddnm_takes_tikhonovs_inverse(details: float) -> None:
    y, forward, sigma = measurement(), dense(), 0.3
    seen: list[Tensor] = []
    prior = GaussianImage(0.4, 0.2)
    ddnm.restore(given(prior, y, KERNEL, sigma, 2, callback=lambda s: seen.append(s.image)), details, 100, ALPHA_BAR)
    x0 = prior.denoise((noise(0) / 0.3**0.5 + 1) / 2, (0.7 / 0.3) ** 0.5 / 2).flatten()
    beta = 1 - 0.3 / 0.9
    weight = (0.9**0.5 * beta / 0.7 * 2 * sigma / (2 * math.sqrt(beta * 0.1 / 0.7))) ** 2
    weight = max(weight, (sigma / details) ** 2)
    normal = forward.T @ forward + weight * torch.eye(WIDE**2)
    expected = x0 - torch.linalg.solve(normal, forward.T @ (forward @ x0 - y.y.flatten()))
    torch.testing.assert_close(seen[0].flatten(), expected)


@in_float64
def test_diffpir_by_hand() -> None:
    y, forward, sigma, strength, fresh = measurement(), dense(), 0.2, 2.0, 0.3
    prior = GaussianImage(0.4, 0.2)
    found = diffpir.restore(given(prior, y, KERNEL, sigma, 2), strength, fresh, 100, ALPHA_BAR)
    x = noise(0).flatten()
    for index, (now, before) in enumerate(((0.3, 0.9), (0.9, 1.0))):
        ratio = ((1 - now) / now) ** 0.5  # on [-1, 1]
        x0 = prior.denoise((x / now**0.5 + 1) / 2, ratio / 2)
        rho = strength * (2 * sigma) ** 2 / ratio**2
        normal = forward.T @ forward + rho * torch.eye(WIDE**2)
        x_hat = 2 * torch.linalg.solve(normal, forward.T @ y.y.flatten() + rho * x0) - 1
        left = (x - now**0.5 * x_hat) / (1 - now) ** 0.5
        mixed = (1 - fresh) ** 0.5 * left + fresh**0.5 * noise(index + 1).flatten()
        x = before**0.5 * x_hat + (1 - before) ** 0.5 * mixed
    torch.testing.assert_close(found, (inside(x.reshape(1, 1, WIDE, WIDE)) + 1) / 2)


def restorer(method: str, mean: Tensor, deviation: float, kernel: Tensor) -> Callable[..., Tensor]:
    """A method with a Gaussian prior, 100 steps, as (y, mean, place) -> image."""

    def run(y: Measurement, mean: Tensor = mean, place: tuple[int, int] = (0, 0)) -> Tensor:
        task = given(GaussianImage(mean, deviation), y, kernel, 0.01, 100, key=(3,), place=place)
        return {"dps": lambda g: dps.restore(g, 20.0), "ddnm": ddnm.restore, "diffpir": diffpir.restore}[method](task)

    return run


@in_float64
@pytest.mark.parametrize("method", METHODS)
def test_the_measurement_tells_what_the_prior_does_not(method: str) -> None:
    generator = torch.Generator().manual_seed(4)
    kernel = torch.from_numpy(streak(5, 2.5)).double()
    x = 0.5 + 0.1 * torch.randn(1, 1, 44, 44, generator=generator)
    pixels = blur(x, kernel)
    y = Measurement.of(pixels + 0.01 * torch.randn(pixels.shape, generator=generator))
    truth = x[..., 2:-2, 2:-2]
    found = restorer(method, torch.full_like(x, 0.5), 0.1, kernel)(y)
    missed, blurred_error = ((image - truth).square().mean().sqrt() for image in (found, y.y))
    assert float(missed) < 0.9 * float(blurred_error)
    assert float((blur(found, kernel) - y.y[..., 2:-2, 2:-2]).square().mean().sqrt()) < 0.02


@in_float64
@pytest.mark.parametrize("method", METHODS)
def test_tiles_agree_where_they_overlap(method: str) -> None:
    generator = torch.Generator().manual_seed(4)
    kernel = torch.from_numpy(streak(5, 2.5)).double()
    x = 0.5 + 0.1 * torch.randn(1, 1, 44, 64, generator=generator)
    y = Measurement.of(blur(x, kernel))
    run = restorer(method, torch.full_like(x, 0.5), 0.1, kernel)
    left = run(y.map(lambda p: p[..., :40]), x.new_tensor(0.5))
    right = run(y.map(lambda p: p[..., 20:]), x.new_tensor(0.5), place=(0, 20))
    elsewhere = run(y.map(lambda p: p[..., 20:]), x.new_tensor(0.5), place=(0, 21))  # other noise
    middle = slice(28, 32)
    apart, far = ((left[..., middle] - other[..., 8:12]).abs().mean() for other in (right, elsewhere))
    assert float(apart) < 0.3 * float(far)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_of_fixed_size_sees_only_that_size_and_all_its_channels(channels: int) -> None:
    shapes = set()

    class Fixed:
        channels, image_size = 3, 30

        def predict(self, x_t: Tensor, t: int, alpha_bar: float) -> tuple[Tensor, None]:
            shapes.add(tuple(x_t.shape))
            return 0.1 * x_t, None

    found = dps.restore(given(Fixed(), torch.rand(1, channels, 20, 22), KERNEL.float(), 0.01, 2))
    assert shapes == {(1, 3, 30, 30)}
    assert found.shape == (1, channels, 20, 22)


@pytest.mark.parametrize(
    ("method", "channels", "more"),
    [
        ("dps", 3, []),
        ("dps", 1, ["--noise", "poisson"]),
        ("ddnm", 3, []),
        ("ddnm", 1, []),
        ("diffpir", 3, ["--linear"]),
    ],
)
def test_the_command_with_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, channels: int, more: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    kernel = streak(9, 5)
    _, y = blurred(64, 64, channels, kernel)
    encoding.write(Photo(y, None, 8), tmp_path / "photo.png")
    np.save(tmp_path / "blur.npy", kernel)
    command = ["restore", "photo.png", "--kernel", "blur.npy", "--device", "cpu", "--steps", "3", "--method", method]
    done = []
    for name in ("a.png", "b.png"):
        result = CliRunner().invoke(app, [*command, *more, "-o", name, "--quiet"])
        assert result.exit_code == 0, result.output
        done.append((tmp_path / name).read_bytes())
    assert done[0] == done[1]  # the same seed
    restored = decoding.read(tmp_path / "a.png").pixels
    assert restored.shape == decoding.read(tmp_path / "photo.png").pixels.shape
    result = CliRunner().invoke(app, [*command, *more, "-o", "c.png", "--quiet", "--seed", "1"])
    assert result.exit_code == 0
    assert (tmp_path / "c.png").read_bytes() != done[0]


@pytest.mark.parametrize(
    ("size", "more", "words"),
    [
        (15, [], None),
        (17, [], "knows only images of 64x64 pixels. With dps that leaves room for a kernel of at most 15 pixels"),
        (17, ["--overlap", "24"], None),
        (
            21,
            ["--overlap", "24"],
            "at most 19 pixels; this one has 21. Give a smaller one, a smaller --overlap, another",
        ),
    ],
)
def test_a_kernel_too_large_for_a_network_of_fixed_size_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, more: list[str], words: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    _, y = blurred(44, 46, 3, streak(size, 5))
    encoding.write(Photo(y, None, 8), tmp_path / "photo.png")
    np.save(tmp_path / "blur.npy", streak(size, 5))
    prior = guided(tmp_path, "image", 3)
    command = ["restore", "photo.png", "--kernel", "blur.npy", "--device", "cpu", "--steps", "2", "--method", "dps"]
    result = CliRunner().invoke(app, [*command, "--prior", prior, *more])
    assert result.exit_code == (2 if words else 0), result.output
    assert (words or "") in result.stderr
    assert "--tile" not in result.stderr
    assert (tmp_path / "photo.deblurred.png").exists() == (words is None)


@pytest.mark.parametrize("method", ["dps", "ddnm"])
def test_without_a_kernel_it_is_estimated_as_by_fast(method: str) -> None:
    _, y = blurred(64, 64, 1, streak(9, 5))
    stages = []

    def progress(stage: str, done: int, total: int) -> None:
        stages.append((stage, total))

    result = blinddeblur.restore(y, progress, method=method, steps=2, kernel_size=9, device="cpu")
    assert ("kernel", 12) in stages
    assert stages[-1] == ("restoration", 2)
    fast = blinddeblur.restore(y, kernel_size=9, device="cpu")
    assert np.array_equal(result.kernel, fast.kernel)
    assert result.confidence == fast.confidence
    assert (result.method, result.steps) == (method, 2)
    assert not np.array_equal(result.image, fast.image)


def test_poisson_noise_changes_what_dps_draws() -> None:
    kernel = streak(9, 5)
    _, y = blurred(64, 64, 1, kernel)
    options = {"method": "dps", "steps": 3, "kernel": kernel, "device": "cpu", "sigma": 0.1}
    images = [blinddeblur.restore(y, noise=noise, **options).image for noise in ("gaussian", "poisson")]
    assert not np.array_equal(*images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "salt", "method": "dps"}, "There is no noise salt. Choose one of gaussian, poisson"),
        ({"noise": "poisson"}, "choose the method dps"),
        ({"noise": "poisson", "method": "ddnm"}, "ddnm takes no poisson noise"),
        ({"linear": True, "method": "dps"}, "dps blurs encoded values"),
        ({"linear": True, "method": "ddnm"}, "ddnm blurs encoded values"),
        ({"samples": 2, "method": "diffpir"}, "Leave out --samples, or --method diffpir"),
    ],
)
def test_refused_in_words(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Settings(**options)  # type: ignore[arg-type]


def test_default_steps_and_forecast() -> None:
    assert [Settings(method=method).effective_steps for method in METHODS] == [1000, 100, 100]
    kernel = streak(9, 5)
    seconds = [Engine(Settings(method=m, kernel=kernel, device="cpu")).forecast(256, 256) for m in ("dps", "diffpir")]
    assert seconds[0] > 3 * seconds[1] > 0
