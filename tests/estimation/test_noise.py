"""The noise level against synthetic truth: within 15 % or 0.3 levels of 8 bits, what JPEG did included."""

import cv2
import numpy as np
import pytest
import torch

from blinddeblur.estimation.noise import QUANTISATION, estimate_sigma
from blinddeblur.physics.convolution import blur
from blinddeblur.training.random_kernels import gaussian


def scene(height: int = 200, width: int = 240, soft: float = 1.5) -> torch.Tensor:
    """A smooth scene with edges, softened as by a lens: (1, 3, height, width)."""
    rng = np.random.default_rng(0)
    image = np.full((height + 30, width + 30, 3), 0.4, np.float32)
    for _ in range(60):
        top, left = rng.integers(0, height), rng.integers(0, width)
        image[top : top + rng.integers(5, 60), left : left + rng.integers(5, 60)] = rng.uniform(0.15, 0.85, 3)
    x = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    return blur(x, torch.from_numpy(gaussian(31, soft)))[..., :height, :width]


def noise(like: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def eight_bits(y: torch.Tensor) -> torch.Tensor:
    return (255 * y.clamp(0, 1)).round() / 255


def jpeg(y: torch.Tensor, quality: int, chroma: int) -> torch.Tensor:
    """Through a file: (1, C, H, W) -> (1, C, H, W)."""
    pixels = (255 * y[0].clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, chroma]
    flag = cv2.IMREAD_COLOR_RGB if pixels.shape[2] == 3 else cv2.IMREAD_GRAYSCALE
    decoded = cv2.imdecode(cv2.imencode(".jpg", pixels[..., ::-1], settings)[1], flag)
    return torch.from_numpy(decoded.reshape(pixels.shape)).permute(2, 0, 1)[None] / 255


def rms(difference: torch.Tensor) -> float:
    return float(difference.square().mean().sqrt())


def demosaicked(y: torch.Tensor) -> torch.Tensor:
    """(1, 3, H, W) -> the same, from the one colour that Bayer's mosaic passes at each pixel."""
    pixels = (65535 * y[0].clamp(0, 1)).round().numpy().astype(np.uint16)
    mosaic = pixels[1].copy()
    mosaic[::2, ::2], mosaic[1::2, 1::2] = pixels[0, ::2, ::2], pixels[2, 1::2, 1::2]
    return torch.from_numpy(cv2.cvtColor(mosaic, cv2.COLOR_BayerRGGB2RGB) / 65535).permute(2, 0, 1)[None].float()


def near(y: torch.Tensor, clean: torch.Tensor) -> bool:
    """Whether the noise of y is found to lie between 5 % below the truth and 20 % above."""
    return 0.95 <= estimate_sigma(y) / rms(y - clean) <= 1.2


@pytest.mark.parametrize("sigma", [1 / 255, 2 / 255, 5 / 255, 10 / 255, 25 / 255])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("soft", [0.4, 1.5, 4.0], ids=["sharp", "soft", "blurred"])
def test_gaussian_noise(sigma: float, channels: int, soft: float) -> None:
    clean = scene(soft=soft)[:, :channels]
    y = clean + sigma * noise(clean)
    assert estimate_sigma(y) == pytest.approx(sigma, rel=0.15, abs=0.3 / 255)
    assert estimate_sigma(eight_bits(y)) == pytest.approx(sigma, rel=0.15, abs=0.3 / 255)


def test_never_below_the_rounding_of_the_file() -> None:
    assert estimate_sigma(scene()) == QUANTISATION
    assert estimate_sigma(eight_bits(scene())) == pytest.approx(QUANTISATION, abs=0.3 / 255)


def test_texture_is_no_noise() -> None:
    clean = scene(soft=0.4)
    foliage = blur(noise(torch.empty(1, 3, 230, 270), seed=2), torch.from_numpy(gaussian(31, 0.7)))
    clean[..., 60:] += 0.1 * foliage[..., 60:]
    y = eight_bits(clean + 0.01 * noise(clean))
    assert estimate_sigma(y) == pytest.approx(0.01, rel=0.15)


def test_noise_that_depends_on_brightness_is_averaged() -> None:
    clean = scene()
    spread = 0.04 * clean.sqrt()
    assert estimate_sigma(clean + spread * noise(clean)) == pytest.approx(rms(spread), rel=0.15)


def test_noise_that_grows_with_light_counts_where_texture_hides_it() -> None:
    clean = torch.linspace(0.1, 0.8, 240).expand(1, 1, 200, 240).clone()
    foliage = blur(noise(torch.empty(1, 1, 230, 270), seed=2), torch.from_numpy(gaussian(31, 1)))
    clean[..., 120:] += 0.1 * foliage[..., 120:240]  # all blocks of these brightnesses
    spread = 0.02 * clean.clamp_min(0).sqrt()
    y = clean + spread * noise(clean)
    assert 0.85 <= estimate_sigma(y) / rms(y - clean) <= 1.2  # 0.77 from the dark half alone


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [1 / 255, 2.5 / 255, 10 / 255])
@pytest.mark.parametrize("soft", [1.5, 4.0], ids=["soft", "blurred"])
def test_what_demosaicking_smoothed_and_missed_counts(soft: float, sigma: float, channels: int) -> None:
    clean = scene(soft=soft)
    clean = 0.25 * clean + 0.75 * clean.mean(dim=1, keepdim=True)
    y = demosaicked(clean + sigma * noise(clean))
    if channels == 1:
        y, clean = y.mean(dim=1, keepdim=True), clean.mean(dim=1, keepdim=True)
    assert near(eight_bits(y), clean)
    assert near(eight_bits(y)[..., 1:, :], clean[..., 1:, :])


def test_jpeg_of_highest_quality_halves_chroma_all_the_same() -> None:
    clean = scene(soft=1.5)
    y = jpeg(clean + noise(clean) / 255, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
    assert rms(y - clean) > 1.5 / 255  # mostly of colours
    assert near(y, clean)


@pytest.mark.parametrize("quality", [70, 90])
def test_colours_that_jpeg_dropped_count(quality: int) -> None:
    clean = scene(soft=1.5)
    y = jpeg(clean + noise(clean) / 255, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
    assert estimate_sigma(y) == pytest.approx(rms(y - clean), rel=0.25)


@pytest.mark.parametrize(
    "chroma",
    [
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ],
    ids=["444", "422", "420"],
)
@pytest.mark.parametrize("quality", [75, 85, 95])
@pytest.mark.parametrize("sigma", [0, 1 / 255, 2.5 / 255, 5 / 255, 10 / 255, 25 / 255])
def test_what_jpeg_hid_and_added_counts(chroma: int, quality: int, sigma: float) -> None:
    clean = scene(soft=3)
    clean = 0.25 * clean + 0.75 * clean.mean(dim=1, keepdim=True)  # colours as muted as a photo's
    y = jpeg(clean + sigma * noise(clean), quality, chroma)
    assert estimate_sigma(y) == pytest.approx(rms(y - clean), rel=0.15, abs=0.3 / 255)


def test_jpeg_of_saturated_colours() -> None:
    clean = (2 * scene(soft=3) - 0.5).clamp(0, 1)  # in a quarter of the pixels a channel is clipped
    y = jpeg(clean + 0.01 * noise(clean), 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
    seen = (clean > 0.03) & (clean < 0.97)
    assert 0.95 <= estimate_sigma(y) / rms((y - clean)[seen]) <= 1.2


@pytest.mark.parametrize(("row", "column"), [(8, 0), (3, 14), (5, 8)])
def test_colour_jpeg_cropped_off_its_blocks(row: int, column: int) -> None:
    clean = scene(soft=3)
    y = jpeg(clean + 0.01 * noise(clean), 75, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
    assert estimate_sigma(y[..., row:, column:]) == pytest.approx(estimate_sigma(y), rel=0.05)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [2.5 / 255, 10 / 255])
def test_jpeg_of_a_dark_photo(sigma: float, channels: int) -> None:
    clean = 0.2 * scene(soft=3)[:, :channels]
    y = jpeg(clean + sigma * noise(clean), 85, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
    seen = clean > 3 * sigma
    assert estimate_sigma(y) == pytest.approx(rms((y - clean)[seen]), rel=0.15, abs=0.3 / 255)


def test_jpeg_of_a_single_hue() -> None:
    clean = 0.5 * scene(soft=3).mean(dim=1, keepdim=True) + torch.tensor([0.3, 0.1, 0.0]).reshape(1, 3, 1, 1)
    y = jpeg(clean, 75, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
    assert estimate_sigma(y) == pytest.approx(rms(y - clean), rel=0.15, abs=0.3 / 255)


def test_jpeg_in_grey_and_cropped_off_its_blocks() -> None:
    clean = scene(soft=3)[:, :1]
    y = jpeg(clean + 0.01 * noise(clean), 75, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    assert estimate_sigma(y) == pytest.approx(rms(y - clean), rel=0.25)
    assert estimate_sigma(y[..., 3:, 6:]) == pytest.approx(estimate_sigma(y), rel=0.05)


def test_coarse_noise_is_seen() -> None:
    clean = scene()
    y = clean + 0.02 * noise(clean)
    enlarged = torch.nn.functional.interpolate(y, scale_factor=2, mode="bicubic")
    kept = rms(torch.nn.functional.interpolate(y - clean, scale_factor=2, mode="bicubic"))
    assert estimate_sigma(eight_bits(enlarged)) == pytest.approx(kept, rel=0.25)


def test_clipped_pixels_do_not_count() -> None:
    clean = scene() * 3 - 1  # most of it below black or above white
    assert estimate_sigma((clean + 0.02 * noise(clean)).clamp(0, 1)) == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("side", [16, 64])
def test_a_flat_picture_has_no_noise(level: float, side: int) -> None:
    assert estimate_sigma(torch.full((1, 3, side, side), level)) == QUANTISATION


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (1, 3, 16, 40), (1, 3, 33, 17)])
def test_tiny_photos(shape: tuple[int, ...]) -> None:
    assert estimate_sigma(0.5 + 0.02 * noise(torch.empty(shape))) == pytest.approx(0.02, rel=0.3)
