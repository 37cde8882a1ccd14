"""The whole way of frames through the engine for turbulence: sharper, of their own type, or refused in words."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from scenes import agreement, blurred, guided, psnr, sharp, stored_prior, streak, turbulent

from blinddeblur.engine.pipeline import Engine
from blinddeblur.engine.result import SequenceResult
from blinddeblur.engine.scene import TurbulenceEngine, stabilised
from blinddeblur.errors import EstimationError, KernelError, PhotoError, UsageError, WeightsError
from blinddeblur.physics.tilt import enlarged, warp
from blinddeblur.priors.compact import CompactUNet
from blinddeblur.priors.kolmogorov import KolmogorovTilt
from blinddeblur.progress import Step
from blinddeblur.samplers.restoration import STEPS
from blinddeblur.settings import SequenceSettings, Settings
from blinddeblur.weights.manifest import find, manifest

KNOWN = streak(5, 3)


@pytest.fixture(scope="module")
def engine() -> TurbulenceEngine:
    return TurbulenceEngine(SequenceSettings(steps=3, device="cpu"))


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small prior that has learned nothing but the contrast of photos, for what does not depend on more."""
    parameters = {"channels": 3, "widths": [8, 16]}
    network = CompactUNet(**parameters)  # type: ignore[arg-type]
    return stored_prior(tmp_path_factory.mktemp("light"), "image", "compact", network, parameters)


@pytest.fixture(scope="module")
def knowing(light: str) -> TurbulenceEngine:
    """What it does besides looking for the kernel, quickly."""
    return engine_with(kernel=KNOWN, prior=light)


def engine_with(**options: object) -> TurbulenceEngine:
    return TurbulenceEngine(SequenceSettings(**{"device": "cpu", "steps": 2, **options}))  # type: ignore[arg-type]


def stored(frames: NDArray[np.float32], dtype: type = np.uint8) -> list[NDArray[np.uint8]]:
    scale = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    return [(np.rint(scale * frame) if scale > 1 else frame).astype(dtype) for frame in frames]


@pytest.mark.parametrize(
    ("number", "channels", "height", "width", "strength"),
    [(6, 1, 64, 72, 3.0), (1, 1, 61, 64, 2.0), (3, 3, 64, 56, 1.5)],
)
def test_the_scene_becomes_sharper_than_the_frames(
    engine: TurbulenceEngine, number: int, channels: int, height: int, width: int, strength: float
) -> None:
    seen, own = turbulent(number, height, width, channels, strength)
    result = engine.restore(stored(seen.frames))
    image = result.image / np.float32(255)
    assert psnr(image, own) > psnr(seen.frames[0], own) + 2
    assert psnr(image, own) > psnr(seen.frames.mean(axis=0), own) + 2
    assert agreement(result.kernel, seen.kernels[0]) > 0.9
    assert (result.kernel.dtype, result.tilts.dtype, result.weights.dtype) == (np.float32,) * 3
    assert result.kernel.min() >= 0
    assert result.kernel.sum() == pytest.approx(1, abs=1e-5)
    assert result.tilts.shape == (number, 2, -(-height // result.spacing), -(-width // result.spacing))
    assert result.weights.shape == (number,)
    assert result.weights.min() > 0
    assert result.weights.sum() == pytest.approx(1, abs=1e-5)
    assert result.sigma == pytest.approx(0.01, rel=0.5)
    assert 0 < result.residual < 0.02
    assert result.warnings == ()
    assert not result.sharp
    if number > 1:
        found = enlarged(torch.from_numpy(result.tilts), height, width, result.spacing).numpy()
        error, nothing = (tilts - (seen.tilts - seen.tilts.mean(axis=0)) for tilts in (found, 0 * found))
        lengths = [np.hypot(e[:, 0], e[:, 1])[:, 8:-8, 8:-8].mean() for e in (error, nothing)]
        assert lengths[0] < 0.5 * lengths[1]
        assert np.abs(result.tilts.mean(axis=0)).max() < 1e-4
    facts = (result.method, result.prior, result.checksum, result.seed, result.steps)
    assert facts == ("fast", "photo", find("photo").sha256, 0, 3)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((48, 52), np.uint8),
        ((48, 52, 1), np.uint8),
        ((48, 52, 3), np.uint8),
        ((48, 52), np.uint16),
        ((48, 52, 3), np.uint16),
        ((48, 52, 1), np.float32),
        ((48, 52), np.float64),
    ],
)
def test_comes_back_in_its_own_shape_and_type(knowing: TurbulenceEngine, shape: tuple[int, ...], dtype: type) -> None:
    frames = stored(np.stack([frame.reshape(shape) for frame in moving(shape[2] if len(shape) == 3 else 1)]), dtype)
    before = [frame.copy() for frame in frames]
    result = knowing.restore(frames)
    assert (result.image.shape, result.image.dtype) == (shape, dtype)
    scale = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    assert result.image.mean() / scale == pytest.approx(np.mean(frames) / scale, abs=0.01)
    assert all(map(np.array_equal, frames, before))


def test_grey_in_three_channels_stays_grey(knowing: TurbulenceEngine) -> None:
    single = stored(moving())
    result = knowing.restore([frame.repeat(3, axis=2) for frame in single])
    assert np.array_equal(result.image, knowing.restore(single).image.repeat(3, axis=2))


def test_same_seed_same_bytes_other_seed_other_steps(light: str) -> None:
    frames = stored(turbulent(2, 48, 50)[0].frames)

    def run(seed: int) -> tuple[SequenceResult, list[Step]]:
        steps: list[Step] = []
        return engine_with(seed=seed, prior=light).restore(frames, callback=steps.append), steps

    (first, seen), (second, _), (other, unlike) = run(1), run(1), run(2)
    for name in ("image", "kernel", "tilts", "weights"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert (first.sigma, first.residual) == (second.sigma, second.residual)
    assert (first.seed, other.seed) == (1, 2)
    assert not torch.equal(seen[1].image, unlike[1].image)


def test_a_kernel_that_is_known(knowing: TurbulenceEngine, light: str) -> None:
    frames = stored(moving())
    told: list[tuple[str, int, int]] = []
    result = knowing.restore(frames, lambda *stage: told.append(stage))
    np.testing.assert_allclose(result.kernel, KNOWN, atol=1e-6)
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["registration", "tilt and blur", "restoration"]
    for stage, last in (("registration", 3 * len(frames)), ("tilt and blur", 2), ("restoration", STEPS)):
        assert [t for t in told if t[0] == stage][-1] == (stage, last, last)
    even = engine_with(kernel=np.ones((2, 4)), prior=light).restore(frames)
    assert even.kernel.shape == (5, 5)
    told.clear()
    for kernel, words in ((streak(41, 20), "at most 25 fit"), (np.zeros((5, 5)), "something positive")):
        with pytest.raises(KernelError, match=words):
            engine_with(kernel=kernel, prior=light).restore(frames, lambda *stage: told.append(stage))
    assert told == []


def test_the_callback_sees_the_way_from_the_first_frame_to_the_result(light: str) -> None:
    frames = stored(turbulent(3, 48, 60, 3)[0].frames)
    seen: list[Step] = []
    result = engine_with(steps=3, prior=light).restore(frames, callback=seen.append)
    assert [(step.index, step.total) for step in seen] == [(index, 3) for index in (-1, 0, 1, 2, 3)]
    start, *between, end = seen
    np.testing.assert_allclose(picture(start.image), frames[0] / 255, atol=1e-6)
    assert start.kernel.shape == result.kernel.shape
    assert not start.kernel.any()
    for step in between:
        beyond = step.kernel.shape[-1] - 1
        assert step.image.shape == (1, 1, 48 + beyond, 60 + beyond)
        assert float(step.kernel.sum()) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(picture(end.image), result.image / 255, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(end.kernel, result.kernel)


def test_the_blur_of_large_frames_is_found_on_the_part_that_tells_most(engine: TurbulenceEngine) -> None:
    engine = dataclasses.replace(engine, estimation_side=64)
    seen, own = turbulent(4, 71, 150, seed=1)
    frames = [np.where(np.arange(150)[None, :, None] < 60, np.float32(0.5), frame) for frame in seen.frames]
    steps: list[Step] = []
    result = engine.restore(stored(np.stack(frames)), callback=steps.append)
    assert result.image.shape == (71, 150, 1)
    assert result.tilts.shape == (4, 2, 18, 38)
    assert agreement(result.kernel, seen.kernels[0]) > 0.9
    gain = psnr(result.image[:, 75:] / np.float32(255), own[:, 75:]) - psnr(seen.frames[0, :, 75:], own[:, 75:])
    assert gain > 3
    # From start to end it shows one part, and not of what is plain.
    start, end = (picture(step.image) for step in (steps[0], steps[-1]))
    assert start.shape == end.shape == (64, 64, 1)
    places = [np.s_[row : row + 64, column : column + 64] for row in (0, 4) for column in range(0, 87, 4)]
    (place,) = [place for place in places if np.abs(start - frames[0][place]).max() < 0.01]
    assert place[1].start > 40
    np.testing.assert_allclose(end, result.image[place] / 255, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize(
    ("dtype", "kernel"),
    [(np.uint8, None), (np.uint16, np.ones((1, 1))), (np.float64, np.ones((1, 1)))],
)
def test_one_sharp_frame_comes_back_unchanged(dtype: type, kernel: NDArray[np.float64] | None) -> None:
    frame = stored(sharp(64, 64, 3)[None], dtype)[0]
    result = engine_with(kernel=kernel).restore([frame])
    assert result.sharp
    assert result.image.tobytes() == frame.tobytes()
    assert result.image is not frame
    assert (result.kernel.max(), result.residual) == (1, 0)
    assert not result.tilts.any()


def test_one_photo_that_is_sharp_already_is_left_alone() -> None:
    frame = skimage.data.astronaut()[200:328, 200:328]
    result = TurbulenceEngine(SequenceSettings(steps=2)).restore([frame])
    assert result.sharp
    assert np.array_equal(result.image, frame)
    assert "sharp already" in result.warnings[0]


def test_frames_without_blur_lose_their_tilts(light: str) -> None:
    scene = torch.from_numpy(sharp(100, 100, 1)).permute(2, 0, 1)[None]
    tilts = KolmogorovTilt(2.0, 16.0).sample(5, 72, 72, torch.Generator().manual_seed(2))
    frames = [picture(warp(scene, tilt[None])) for tilt in tilts]
    own = picture(warp(scene, tilts.mean(dim=0, keepdim=True)))
    result = engine_with(kernel=np.ones((1, 1)), sigma=0.0, prior=light).restore(frames)
    assert result.sharp
    assert psnr(result.image, own) > psnr(np.mean(frames, axis=0), own) + 2


def test_a_frame_unlike_the_others_is_named(knowing: TurbulenceEngine) -> None:
    frames = stored(turbulent(6, 64, 64)[0].frames)
    assert knowing.restore(frames).warnings == ()
    frames[4] = stored(sharp(64, 64, 1, seed=9)[None])[0]
    result = knowing.restore(frames)
    (warning,) = result.warnings
    assert result.weights[4] == 0
    assert "Frame 4 is hardly like" in warning
    assert "leave them out" in warning
    frames[1] = 255 - frames[1]
    (warning,) = knowing.restore(frames).warnings
    assert "Frames 1, 4 are hardly like" in warning


@pytest.mark.parametrize(("number", "level"), [(1, 128), (3, 255)])
def test_frames_without_anything_in_them_are_left_nearly_alone(
    engine: TurbulenceEngine, number: int, level: int
) -> None:
    frames = [np.full((48, 48, 3), level, np.uint8)] * number
    result = engine.restore(frames)
    np.testing.assert_allclose(result.image, frames[0], atol=3)
    assert np.isfinite(result.tilts).all()
    np.testing.assert_allclose(result.weights, np.full(number, 1 / number), rtol=1e-5)


@pytest.mark.parametrize(
    ("frames", "error", "words"),
    [
        ([], UsageError, "There are no frames"),
        ([np.zeros((48, 48)), np.zeros((48, 49))], PhotoError, r"frame 1 is \(48, 49\)"),
        ([np.zeros((48, 48)), np.zeros((48, 48, 1))], PhotoError, "one size and type"),
        ([np.zeros((48, 48)), np.zeros((48, 48), np.uint8)], PhotoError, "of uint8, the first .* of float64"),
        ([np.zeros((64, 31))], PhotoError, "31x64 pixels"),
        ([np.zeros((64, 64, 4))], PhotoError, "transparency"),
        ([np.full((64, 64), np.nan)], PhotoError, "not numbers"),
        ([np.zeros((64, 64)), np.full((64, 64), 255.0)], PhotoError, "Divide it by its white"),
    ],
)
def test_frames_that_are_none(
    knowing: TurbulenceEngine, frames: list[NDArray[np.float64]], error: type[Exception], words: str
) -> None:
    told: list[str] = []
    with pytest.raises(error, match=words):
        knowing.restore(frames, lambda stage, done, total: told.append(stage))
    assert told == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "magic"}, "no method magic. Choose one of fast, blinddps"),
        ({"steps": 1}, "between 2 and 1000"),
        ({"steps": 1001}, "between 2 and 1000"),
        ({"sigma": -0.1}, "from 0 to 0.5"),
        ({"sigma": 0.6}, "from 0 to 0.5"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"method": "blinddps", "kernel": KNOWN}, "estimates the kernel"),
        ({"method": "blinddps", "sigma": 0.01}, "no noise level"),
        ({"tilt_prior": "blinddps-tilt"}, "Leave out --tilt-prior"),
        ({"device": "toaster"}, "cannot be used here"),
        ({"prior": "nothing"}, "no weights named nothing"),
        ({"prior": "kernel"}, "of kind kernel"),
        ({"method": "blinddps", "tilt_prior": "photo"}, "of kind image"),
        ({"method": "blinddps", "tilt_prior": "nothing"}, "no weights named nothing"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        engine_with(**options)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"prior": "ffhq-256"}, "ffhq-256"),
        ({"method": "blinddps", "tilt_prior": "blinddps-tilt"}, "blinddps-tilt"),
    ],
)
def test_weights_that_are_missing_are_named_before_there_are_frames(options: dict[str, object], name: str) -> None:
    with pytest.raises(WeightsError, match=f"download-weights {name}"):
        engine_with(**options)


def test_only_the_image_prior_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo-kernel.safetensors").write_bytes(b"damaged")
    monkeypatch.setitem(manifest(), "photo-kernel", dataclasses.replace(find("photo-kernel"), home=tmp_path))
    engine_with()
    Engine(Settings(kernel=KNOWN, device="cpu"))
    with pytest.raises(WeightsError, match="damaged"):
        Engine(Settings(device="cpu"))


def test_steps_of_each_method() -> None:
    assert SequenceSettings().effective_steps == 12
    assert SequenceSettings(method="blinddps").effective_steps == 1000
    assert SequenceSettings(steps=5).effective_steps == 5


def test_blinddps_restores_one_frame() -> None:
    engine = engine_with(method="blinddps")
    frame = stored(turbulent(1, 64, 64)[0].frames)[0]
    told: list[tuple[str, int, int]] = []
    seen: list[Step] = []
    result = engine.restore([frame], lambda *stage: told.append(stage), seen.append)
    assert told == [("blinddps", 1, 2), ("blinddps", 2, 2)]
    assert [step.index for step in seen] == [-1, 0, 1, 2]
    assert all(step.image.shape[-2:] == (64, 64) for step in seen)
    assert (result.image.shape, result.image.dtype) == (frame.shape, frame.dtype)
    assert result.tilts.shape == (1, 2, 64, 64)
    assert (result.spacing, result.method, result.steps, result.weights.tolist()) == (1, "blinddps", 2, [1])
    assert result.kernel.sum() == pytest.approx(1, abs=1e-5)
    assert np.isfinite(result.residual)
    assert not result.sharp
    assert np.array_equal(engine.restore([frame]).image, result.image)


def test_what_blinddps_cannot_take_is_refused_in_words() -> None:
    engine = engine_with(method="blinddps")
    told: list[str] = []
    frame = np.zeros((40, 48), np.uint8)
    with pytest.raises(UsageError, match=r"blinddps restores one frame, not 2\. Give one, or choose the method fast"):
        engine.restore([frame, frame], lambda stage, done, total: told.append(stage))
    with pytest.raises(UsageError, match="has 600x64") as caught:
        engine.restore([np.zeros((64, 600), np.uint8)], lambda stage, done, total: told.append(stage))
    largest = int(str(caught.value).split("up to ")[1].split()[0])
    assert 400 < largest < 512
    with pytest.raises(UsageError, match=f"up to {largest} pixels"):
        engine.restore([np.zeros((largest + 1, 64), np.uint8)], lambda stage, done, total: told.append(stage))
    assert told == []


def test_networks_of_fixed_size_see_only_that_size(tmp_path: Path) -> None:
    shapes: set[tuple[int, ...]] = set()

    def watched(engine: TurbulenceEngine) -> TurbulenceEngine:
        for prior in (engine.prior, getattr(engine, "tilt_prior", engine.prior)):
            prior.network.network.register_forward_pre_hook(lambda module, x: shapes.add(tuple(x[0].shape[1:])))
        return engine

    for kind in ("image", "tilt"):
        (tmp_path / kind).mkdir()
    image, tilt = guided(tmp_path / "image", "image", 3), guided(tmp_path / "tilt", "tilt", 2)
    frames = stored(turbulent(2, 40, 70)[0].frames)
    result = watched(engine_with(prior=image, kernel=KNOWN)).restore(frames)
    assert shapes == {(3, 64, 64)}
    assert result.image.shape == (40, 70, 1)
    assert result.prior == "tiny-image"
    shapes.clear()
    engine = watched(engine_with(method="blinddps", prior=image, tilt_prior=tilt))
    found = engine.restore([frames[0][:36, :40]])
    assert shapes == {(3, 64, 64), (2, 64, 64)}
    assert found.tilts.shape == (1, 2, 36, 40)
    with pytest.raises(UsageError, match=r"up to \d+ pixels on a side with these priors; this one has 70x40"):
        engine.restore(frames[:1])


def test_not_a_number_is_never_a_result() -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return x * float("nan")

    engine = engine_with()
    engine.prior = dataclasses.replace(engine.prior, network=Broken())
    with pytest.raises(EstimationError, match="not numbers"):
        engine.restore(stored(moving()))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(70, 78), (70, 78, 3)])
def test_a_stabilised_frame_has_lost_its_tilt(dtype: type, shape: tuple[int, ...]) -> None:
    scene = torch.from_numpy(sharp(90, 98, shape[2] if len(shape) == 3 else 1)).permute(2, 0, 1)[None]
    scene = torch.nn.functional.avg_pool2d(scene, 3, 1)
    cells = KolmogorovTilt(2.0, 4.0).sample(1, 18, 20, torch.Generator().manual_seed(0))
    tilt = enlarged(cells, 70, 78, 4)
    truth = picture(warp(scene, 0 * tilt)).reshape(shape)
    frame = stored(picture(warp(scene, tilt)).reshape(1, *shape), dtype)[0]
    scale = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    for field, spacing in ((cells, 4), (tilt, 1)):
        still = stabilised(frame, field[0].numpy(), spacing)
        assert (still.shape, still.dtype) == (frame.shape, frame.dtype)
        assert psnr(still / scale, truth) > psnr(frame / scale, truth) + 10
    unmoved = stabilised(frame, np.zeros((2, 18, 20), np.float32), 4)
    np.testing.assert_allclose(unmoved / scale, frame / scale, atol=1e-4)


def moving(channels: int = 1) -> NDArray[np.float32]:
    """Two frames of 48 x 52 pixels of a scene that moves by two."""
    _, y = blurred(48, 54, channels, KNOWN)
    return np.stack([y[:, :52], y[:, 2:]])


def picture(image: torch.Tensor) -> NDArray[np.float32]:
    return image[0].permute(1, 2, 0).numpy()
