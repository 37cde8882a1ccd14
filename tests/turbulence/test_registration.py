"""Frames of one scene registered to each other: against the tilts they were made with, and what is made of them."""

import numpy as np
import pytest
import torch
from scenes import psnr, sharp, turbulent
from torch import Tensor

from blinddeblur.physics.atmosphere import short_exposure_kernel
from blinddeblur.physics.convolution import blur, extend
from blinddeblur.physics.tilt import enlarged
from blinddeblur.priors.kolmogorov import KolmogorovTilt
from blinddeblur.training.simulator import SimulatedSequence
from blinddeblur.turbulence.registration import (
    fused,
    lucky_weights,
    misfits,
    noise_between,
    register,
    registered,
    still,
    without_tilt,
)
from blinddeblur.turbulence.tilt_step import CELL

PRIOR = KolmogorovTilt(5.0, 16.0)  # that of the engine: wider than what is seen
SIGMA = 0.01
MOVED = [(0, 0), (20, 0), (-20, 4), (3, -20), (0, 1)]  # pixels, of a camera from frame to frame


def planes(frames: np.ndarray) -> list[Tensor]:
    """(N, H, W, 1) as frames (1, 1, H, W)."""
    return list(torch.from_numpy(frames).permute(0, 3, 1, 2).split(1))


def picture(image: Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


def free(seen: SimulatedSequence) -> Tensor:
    """The true tilts (N, 2, H, W) as frames can tell them: less their mean."""
    tilts = torch.from_numpy(seen.tilts)
    return tilts - tilts.mean(dim=0)


def error(tilts: Tensor, truth: Tensor) -> float:
    """The mean distance between the ends of two displacements, in pixels, without a rim."""
    difference = (enlarged(tilts, *truth.shape[-2:], CELL) - truth)[..., 8:-8, 8:-8]
    return float(difference.square().sum(dim=1).sqrt().mean())


@pytest.mark.parametrize(
    ("number", "height", "width", "strength"), [(6, 80, 80, 2.0), (6, 80, 80, 4.0), (2, 70, 90, 2.0), (9, 61, 75, 1.0)]
)
def test_tilts_are_found(number: int, height: int, width: int, strength: float) -> None:
    seen, own = turbulent(number, height, width, strengths=strength)
    frames = planes(seen.frames)
    told: list[tuple[int, int]] = []
    tilts = register(frames, PRIOR, SIGMA, lambda done, total: told.append((done, total)))
    assert tilts.shape == (number, 2, -(-height // CELL), -(-width // CELL))
    assert error(tilts, free(seen)) < 0.45 * error(0 * tilts, free(seen))
    assert float(tilts.mean(dim=0).abs().max()) < 1e-5
    assert told == sorted(told)
    assert told[-1] == (3 * number, 3 * number)
    image = still(frames, tilts, torch.full((number,), 1 / number), SIGMA)
    assert psnr(picture(image), own) > psnr(seen.frames.mean(axis=0), own) + 0.5


def test_a_better_reference_tells_more_than_where_it_starts() -> None:
    seen, own = turbulent(4, 80, 84)
    truth, frames = free(seen), planes(seen.frames)
    reference = blur(extend(torch.from_numpy(own).permute(2, 0, 1)[None], 15), torch.from_numpy(seen.kernels[0]))
    wrong = KolmogorovTilt(1.0, 16.0).sample(4, 80, 84, torch.Generator().manual_seed(1))
    start = torch.nn.functional.avg_pool2d(truth + wrong, CELL)
    told: list[int] = []
    tilts = registered(frames, reference, start, PRIOR, SIGMA, (1.0, 0.0), told.append)
    assert error(start, truth) > 0.5
    assert error(tilts, truth) < 0.5 * error(start, truth)
    assert told[-1] == 4


def test_one_frame_has_no_tilt() -> None:
    seen, _ = turbulent(1, 45, 50)
    frames = planes(seen.frames)
    tilts = register(frames, PRIOR, SIGMA)
    assert torch.equal(tilts, torch.zeros(1, 2, 12, 13))
    assert lucky_weights(frames, tilts, SIGMA).tolist() == [1]
    torch.testing.assert_close(still(frames, tilts, torch.ones(1), SIGMA), frames[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 4])
def test_a_camera_that_moved(seed: int) -> None:
    seen, own = turbulent(len(MOVED), 96, 96, shifts=MOVED, seed=seed)
    frames, truth = planes(seen.frames), free(seen)
    tilts = register(frames, PRIOR, SIGMA)
    shift = tilts.mean(dim=(2, 3))
    torch.testing.assert_close(shift, truth.mean(dim=(2, 3)), rtol=0, atol=1.0)
    assert error(tilts, truth) < 0.8
    assert error(tilts, truth) < 0.8 * error(shift[:, :, None, None].expand_as(tilts), truth)
    image = picture(still(frames, tilts, torch.full((len(MOVED),), 1 / len(MOVED)), SIGMA))
    assert psnr(image, own, border=4) > psnr(seen.frames[0], own, border=4) + 4


def test_what_one_frame_did_not_see_comes_from_those_that_did() -> None:
    scene = torch.from_numpy(sharp(60, 84, 1)).permute(2, 0, 1)[None]
    frames = [scene[..., :64], scene[..., 20:]]
    tilts = torch.zeros(2, 2, 15, 16)
    tilts[:, 1] = torch.tensor([-10.0, 10.0])[:, None, None]
    expected = scene[..., 10:74]
    image = fused(frames, tilts, torch.tensor([0.5, 0.5]), expected, SIGMA)
    torch.testing.assert_close(image, expected, rtol=0, atol=5e-3)
    torch.testing.assert_close(misfits(frames, tilts, expected), torch.zeros(2), rtol=0, atol=5e-3)


def test_what_moved_by_itself_counts_less() -> None:
    seen, _ = turbulent(6, 80, 80)
    frames, truth = planes(seen.frames), free(seen)
    passing = np.s_[..., 30:46, 34:50]
    frames[2][passing] = 1 - frames[2][passing].round()
    tilts = register(frames, PRIOR, SIGMA)
    assert error(tilts, truth) < 0.6
    image = still(frames, tilts, torch.full((6,), 1 / 6), SIGMA)
    plain = torch.cat([without_tilt(frame, tilt[None]) for frame, tilt in zip(frames, tilts, strict=True)])
    expected = still([*frames[:2], *frames[3:]], tilts[[0, 1, 3, 4, 5]], torch.full((5,), 0.2), SIGMA)

    def off(x: Tensor) -> float:
        return float((x - expected)[passing].square().mean().sqrt())

    assert off(image) < 0.3 * off(plain.mean(dim=0, keepdim=True))


@pytest.mark.parametrize(("width", "seed", "other"), [(80, 0, 9), (96, 27, 126)])  # parts of the last look alike
def test_another_scene_among_the_frames_does_not_spoil_the_rest(width: int, seed: int, other: int) -> None:
    seen, _ = turbulent(6, 64, width, seed=seed)
    frames, others = planes(seen.frames), [0, 1, 2, 4, 5]
    frames[3] = torch.from_numpy(sharp(64, width, 1, seed=other)).permute(2, 0, 1)[None]
    tilts = register(frames, PRIOR, SIGMA)
    image = still(frames, tilts, torch.full((6,), 1 / 6), SIGMA)
    found = misfits(frames, tilts, image)
    assert int(found.argmax()) == 3
    assert float(found[3]) > 2 * float(found[others].max())
    weights = lucky_weights(frames, tilts, SIGMA)
    assert (weights == 0).nonzero().flatten().tolist() == [3]  # though it is the sharpest
    tilts, truth = (x[others] - x[others].mean(dim=0) for x in (tilts, free(seen)))
    assert error(tilts, truth) < 0.5


def test_chunks_change_nothing() -> None:
    seen, _ = turbulent(5, 64, 70)
    frames, weights = planes(seen.frames), torch.full((5,), 0.2)
    start, reference = torch.zeros(5, 2, 16, 18), frames[2]

    def results(**chunks: int) -> tuple[Tensor, Tensor]:
        tilts = registered(frames, reference, start, PRIOR, SIGMA, (1.0, 0.0), **chunks)
        return tilts, fused(frames, tilts, weights, reference, SIGMA, **chunks)

    together = results()
    for pixels in (1, 2 * 64 * 70):  # one frame after the other; two, two and one
        # Conjugate gradients that stop early make more of rounding than it is; the tilts are known to 0.3 pixels.
        for one, other, rounding in zip(results(chunk_pixels=pixels), together, (0.03, 1e-3), strict=True):
            assert float((one - other).square().mean().sqrt()) < rounding


@pytest.mark.parametrize("sigma", [0.002, 0.02])
def test_sharp_frames_count_more(sigma: float) -> None:
    strengths = [1.0, 3.0, 1.5, 2.0, 2.0]
    seen, _ = turbulent(5, 80, 80, strengths=strengths, sigma=sigma)
    frames = planes(seen.frames)
    tilts = register(frames, PRIOR, sigma)
    weights = lucky_weights(frames, tilts, sigma)
    assert float(weights.sum()) == pytest.approx(1)
    assert weights.argsort(descending=True).tolist()[:2] == [0, 2]
    assert int(weights.argmin()) == 1
    assert float(weights[0]) > 2 * float(weights[1])


def test_a_sharp_frame_among_very_soft_ones_is_not_taken_for_another_scene() -> None:
    seen, _ = turbulent(6, 80, 80, strengths=[0.5, *[6.0] * 5])
    frames = planes(seen.frames)
    assert float(lucky_weights(frames, register(frames, PRIOR, SIGMA), SIGMA)[0]) > 0.5


def test_noise_is_no_sharpness() -> None:
    """A frame that is soft counts as much less than a sharp one as it does without noise."""
    x = torch.from_numpy(sharp(130, 130, 1)).permute(2, 0, 1)[None]
    frames = [blur(x, torch.from_numpy(short_exposure_kernel(strength))) for strength in (1.5, 3.0)]
    noise = torch.randn(2, 100, 100, generator=torch.Generator().manual_seed(0))
    still = torch.zeros(2, 2, 25, 25)
    without, with_noise = (
        lucky_weights([frame + sigma * n for frame, n in zip(frames, noise, strict=True)], still, sigma)
        for sigma in (0.0, 0.05)
    )
    assert float(without[0] / without[1]) > 2
    assert float(with_noise[0] / with_noise[1]) == pytest.approx(float(without[0] / without[1]), rel=0.15)
    nothing = lucky_weights([0.5 + 0.02 * n[None, None] for n in noise], still, 0.03)
    assert torch.equal(nothing, torch.full((2,), 0.5))


def test_misfits_are_what_is_left() -> None:
    frames = [torch.full((1, 1, 40, 44), 0.5 + offset) for offset in (0.0, 0.1, -0.2)]
    found = misfits(frames, torch.zeros(3, 2, 10, 11), torch.full((1, 1, 40, 44), 0.5))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.1, 0.2]))


@pytest.mark.parametrize("sigma", [0.01, 0.03])
def test_noise_shows_in_how_frames_differ_even_where_a_codec_made_it_smooth(sigma: float) -> None:
    generator = torch.Generator().manual_seed(7)
    ramp = torch.linspace(0.2, 0.8, 96).expand(1, 1, 96, 96)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(6, 1, 98, 98, generator=generator), 3, stride=1)
    frames = [ramp + sigma * 3 * noise[None] for noise in smooth]
    weights = torch.full((6,), 1 / 6)
    found = noise_between(frames, torch.zeros(6, 2, 24, 24), weights, sigma / 10)
    assert found == pytest.approx(sigma, rel=0.2)
