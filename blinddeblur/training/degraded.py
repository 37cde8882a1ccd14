"""What becomes of a sharp picture on its way to a blurred photo: what the judge of kernels learns from.

Blur of every kind and none, in linear light or of encoded values, alike all over or not; noise that grows with the
light; the camera's interpolation of colours, its sharpening, its JPEG; captions and borders that came after the blur.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blinddeblur.physics.atmosphere import short_exposure_kernel
from blinddeblur.physics.convolution import blur
from blinddeblur.physics.measurement import decoded, encoded
from blinddeblur.training.photo_crops import RGB8, random_crop
from blinddeblur.training.random_kernels import random_kernel

SIDES = {128: 0.1, 192: 0.3, 256: 0.6}  # pixels of photos, and their shares
SCALES = (0.5, 1.0)  # of the sharp picture: enlarged, it would be blurred before it is
# How far each kind of blur reaches in pixels, the side of its array, and its share.
KINDS: dict[str, tuple[tuple[float, float], int, float]] = {
    "sharp": ((0, 0), 7, 0.2),
    "mild": ((0.8, 6), 15, 0.24),
    "middle": ((6, 32), 41, 0.28),
    "heavy": ((32, 60), 71, 0.09),
    "varying": ((6, 32), 41, 0.09),
    "air": ((0, 0), 31, 0.04),
    "captioned": ((6, 32), 41, 0.06),
}
STRENGTHS = (1, 4)  # D / r0 of the air
TURN, GROWTH = 40, (0.6, 1.3)  # degrees and times by which blur differs from one side of a photo to the other
LINEAR = 0.5  # share of photos whose linear light was blurred
DARK, DARKER = 0.25, (0.5, 1)  # share of photos that are darker, and how much
NOISE = (7e-4, 0.02)  # standard deviation at middle grey
GROWING = 0.5  # share of photos whose noise grows with the light, its variance from a fifth to nine fifths
MOSAIC = 0.25  # share of photos with one colour a pixel, the others interpolated
SHARPENED, SHARPENING = 0.12, (0.2, 0.8)  # share of photos that a camera sharpened, and how much
JPEG, QUALITIES = 0.6, (70, 101)  # share of photos that were compressed, and how
GREY = 0.15  # share of photos without colour

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Degraded:
    """A photo and the truth.

    Attributes:
        photo: (H, W, 3) uint8.
        truth: (H, W) float32 in [0, 1], the mean over the channels of the sharp picture.
        kind: a key of KINDS.
    """

    photo: RGB8
    truth: Array
    kind: str


def degraded(sharp: RGB8, rng: np.random.Generator) -> Degraded | None:
    """A photo of a part of a sharp picture (H, W, 3); None where that is too small for what was drawn."""
    side = int(rng.choice(list(SIDES), p=list(SIDES.values())))
    kind = str(rng.choice(list(KINDS), p=[share for _, _, share in KINDS.values()]))
    size = KINDS[kind][1]
    wide = side + size - 1
    if min(sharp.shape[:2]) < wide / SCALES[1]:
        return None
    crop = max((random_crop(sharp, wide, SCALES, rng) for _ in range(2)), key=_texture)
    linear, gain = rng.random() < LINEAR, float(rng.uniform(*DARKER)) if rng.random() < DARK else 1.0
    light = _planes(crop)
    light = gain * (decoded(light) if linear else light)
    y = _blurred(light, kind, size, side, rng)
    y, truth = (encoded(part) if linear else part for part in (y, _inner(light, size // 2)))
    y = _noisy(y, rng)
    y = _sharpened(demosaicked(y) if rng.random() < MOSAIC else y, rng)
    photo, picture = _bytes(y), _bytes(truth)
    if kind == "captioned":
        _caption(photo, picture, rng)
    if rng.random() < GREY:
        photo, picture = _grey(photo), _grey(picture)
    if rng.random() < JPEG:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*QUALITIES))]
        photo = np.array(cv2.imdecode(cv2.imencode(".jpg", photo, quality)[1], cv2.IMREAD_COLOR), np.uint8)
    return Degraded(photo, picture.mean(axis=2, dtype=np.float32) / 255, kind)


def _blurred(light: Tensor, kind: str, size: int, side: int, rng: np.random.Generator) -> Tensor:
    """The light (1, 3, side + size - 1, ...) blurred: (1, 3, side, side)."""
    (shortest, longest), *_ = KINDS[kind]
    if kind == "sharp":
        return _inner(light, size // 2)
    if kind == "air":
        kernel = short_exposure_kernel(_log_uniform(rng, *STRENGTHS), size)
    else:
        kernel = random_kernel(rng, size, _log_uniform(rng, shortest, longest))
    y = blur(light, torch.from_numpy(kernel))
    if kind != "varying":
        return y
    turn = cv2.getRotationMatrix2D((size // 2, size // 2), float(rng.uniform(-TURN, TURN)), float(rng.uniform(*GROWTH)))
    other = np.maximum(cv2.warpAffine(kernel, turn, (size, size)), 0)
    ramp = torch.linspace(0, 1, side)
    share = ramp[None] if rng.random() < 0.5 else ramp[:, None]
    return (1 - share) * y + share * blur(light, torch.from_numpy((other / other.sum()).astype(np.float32)))


def _noisy(y: Tensor, rng: np.random.Generator) -> Tensor:
    level = _log_uniform(rng, *NOISE)
    growth = (0.2 + 1.6 * y.clamp(0, 1)).sqrt() if rng.random() < GROWING else torch.ones_like(y)
    return y + level * growth * torch.from_numpy(rng.standard_normal(y.shape, dtype=np.float32))


def demosaicked(y: Tensor) -> Tensor:
    """(1, 3, H, W) in [0, 1] -> the same, of which each pixel kept one colour, red, green, green, blue, in 16 bits."""
    colours = np.rint(65535 * y[0].clamp(0, 1).permute(1, 2, 0).numpy()).astype(np.uint16)
    mosaic = colours[..., 1].copy()
    mosaic[::2, ::2], mosaic[1::2, 1::2] = colours[::2, ::2, 0], colours[1::2, 1::2, 2]
    return _planes(cv2.cvtColor(mosaic, cv2.COLOR_BayerRGGB2RGB), 65535)


def _sharpened(y: Tensor, rng: np.random.Generator) -> Tensor:
    if rng.random() >= SHARPENED:
        return y
    pixels: Any = y[0].permute(1, 2, 0).numpy()
    soft = cv2.GaussianBlur(pixels, (0, 0), 1.0)
    return _planes(pixels + float(rng.uniform(*SHARPENING)) * (pixels - soft), 1)


def _caption(photo: RGB8, picture: RGB8, rng: np.random.Generator) -> None:
    """Words or a border, the same on both."""
    side = len(photo)
    if rng.random() < 0.5:
        border, level = int(rng.integers(4, 16)), int(rng.choice([0, 255]))
        for pixels in (photo, picture):
            pixels[:border] = pixels[-border:] = level
        return
    place, scale = (int(rng.integers(2, side // 3)), int(rng.integers(20, side - 4))), float(rng.uniform(0.4, 0.9))
    for pixels in (photo, picture):
        cv2.putText(pixels, "Photo 2026", place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)


def _grey(photo: RGB8) -> RGB8:
    """Three equal channels."""
    mean: RGB8 = np.rint(photo.mean(axis=2, keepdims=True)).astype(np.uint8)
    return np.repeat(mean, 3, axis=2)


def _texture(crop: RGB8) -> float:
    return float(np.abs(np.diff(crop.astype(np.float32), axis=0)).mean())


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _inner(planes: Tensor, margin: int) -> Tensor:
    return planes[..., margin : planes.shape[-2] - margin, margin : planes.shape[-1] - margin]


def _planes(pixels: NDArray[Any], white: float = 255) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / np.float32(white))[None]


def _bytes(planes: Tensor) -> RGB8:
    levels: RGB8 = np.rint(255 * planes[0].clamp(0, 1).permute(1, 2, 0).numpy()).astype(np.uint8)
    return np.ascontiguousarray(levels)
