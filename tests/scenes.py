"""Small blurred pictures whose truth is known."""

import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from safetensors.torch import save_file
from torch import Tensor

from blinddeblur.physics import measurement
from blinddeblur.physics.atmosphere import SIZE, short_exposure_kernel
from blinddeblur.physics.convolution import blur
from blinddeblur.physics.tilt import warp
from blinddeblur.priors.guided_diffusion import GuidedDiffusionUNet
from blinddeblur.priors.kolmogorov import KolmogorovTilt
from blinddeblur.training.random_kernels import exposed, random_kernel
from blinddeblur.training.simulator import SimulatedSequence, kolmogorov_tilts, seen_through


def kernel_of(kind: str, extent: float) -> Tensor:
    """A kernel (31, 31) of a kind, always the same."""
    return torch.from_numpy(random_kernel(np.random.default_rng(3), 31, extent, kind))


def sharp(height: int, width: int, channels: int, seed: int = 0) -> NDArray[np.float32]:
    """Rectangles, discs and letters on a soft ground: (height, width, channels) in [0, 1]."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, channels), 128, np.uint8)  # OpenCV draws on bytes only
    for _ in range(height * width // 250):
        colour = rng.integers(25, 230, channels).tolist()
        row, column = (int(rng.integers(0, extent)) for extent in (height, width))
        reach = int(rng.integers(2, 14))
        kind = rng.integers(3)
        if kind == 0:
            cv2.rectangle(image, (column, row), (column + reach, row + reach // 2 + 2), colour, -1)
        elif kind == 1:
            cv2.circle(image, (column, row), reach // 2 + 1, colour, -1, cv2.LINE_AA)
        else:
            letter = chr(ord("A") + int(rng.integers(26)))
            cv2.putText(image, letter, (column, row), cv2.FONT_HERSHEY_SIMPLEX, reach / 14, colour, 1, cv2.LINE_AA)
    return image.reshape(height, width, channels).astype(np.float32) / 255


def texture(side: int, seed: int = 3) -> torch.Tensor:
    """A picture (1, 1, side, side) with about the spectrum of a photo, and nothing else of one."""
    length = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    length[0, 0] = 1
    white = np.fft.rfft2(np.random.default_rng(seed).standard_normal((side, side)))
    x = np.fft.irfft2(white * length**-1.1 * np.exp(-2 * length), s=(side, side))
    return torch.from_numpy((0.5 + 0.15 * x / x.std()).astype(np.float32))[None, None]


def streak(size: int = 15, length: float = 9.0) -> NDArray[np.float32]:
    """A slanted motion blur: (size, size), sums to 1."""
    t = np.linspace(-0.5, 0.5, 400)
    return exposed(np.stack([0.5 * t, t], axis=1), size, length, 0.4, np.zeros(2))


def blurred(height: int, width: int, channels: int, kernel: NDArray[np.float32], sigma: float = 0.004, seed: int = 0):  # type: ignore[no-untyped-def]
    """The sharp picture and its blurred, noisy measurement of the same frame, both (height, width, channels)."""
    margin = len(kernel) // 2
    x = sharp(height + 2 * margin, width + 2 * margin, channels, seed)
    y = blur(torch.from_numpy(x.transpose(2, 0, 1))[None], torch.from_numpy(kernel))[0].numpy().transpose(1, 2, 0)
    noise = np.random.default_rng(seed).normal(size=y.shape).astype(np.float32)
    return x[margin:-margin, margin:-margin], np.clip(y + sigma * noise, 0, 1)


def lamps(linear: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A dim scene with lamps far brighter than white, and its blurred photo, both clipped at white."""
    kernel, margin = torch.from_numpy(streak()), 7
    x = torch.from_numpy(sharp(124, 134, 3).transpose(2, 0, 1))[None] * 0.6
    for row, column in ((30, 40), (70, 90), (95, 30)):
        x[..., row : row + 4, column : column + 6] = measurement.encoded(torch.tensor(6.0)) if linear else 2.5
    y = measurement.encoded(blur(measurement.decoded(x), kernel)) if linear else blur(x, kernel)
    y = y + 0.004 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    frame = x[..., margin:-margin, margin:-margin]
    return tuple(p.clamp(0, 1)[0].numpy().transpose(1, 2, 0) for p in (frame, y))  # type: ignore[return-value]


def turbulent(
    number: int,
    height: int,
    width: int,
    channels: int = 1,
    strengths: float | list[float] = 2.0,
    shifts: list[tuple[int, int]] | None = None,
    sigma: float = 0.01,
    seed: int = 0,
) -> tuple[SimulatedSequence, NDArray[np.float32]]:
    """Frames seen through turbulence, and the scene as they can tell it: (height, width, channels), under their mean
    tilt.

    Args:
        number: of frames.
        strengths: D / r0 of the blur, of all frames or of each; their mean is that of the tilt.
        shifts: rows and columns by which the camera had moved when it took each frame.
        sigma: standard deviation of the noise; frames have 8 bits.
    """
    rng = np.random.default_rng(seed)
    each = np.broadcast_to(strengths, number)
    kernels = np.stack([short_exposure_kernel(strength) for strength in each])
    tilts = kolmogorov_tilts(rng, KolmogorovTilt(each.mean(), 16.0), number, height + SIZE - 1, width + SIZE - 1)
    tilts += np.reshape(shifts or [(0, 0)] * number, (number, 2, 1, 1)).astype(np.float32)
    margin = SIZE // 2 + int(np.abs(tilts).max()) + 4
    scene = sharp(height + 2 * margin, width + 2 * margin, channels, seed)
    seen = seen_through(rng, scene, tilts, kernels, sigma)
    middle = torch.from_numpy(seen.tilts).mean(dim=0, keepdim=True)
    own = warp(torch.from_numpy(scene.transpose(2, 0, 1))[None], middle)[0]
    return seen, own.numpy().transpose(1, 2, 0)


def psnr(a: NDArray[np.float32], b: NDArray[np.float32], border: int = 12) -> float:
    """In dB, the border left out."""
    inner = slice(border, -border)
    return float(-10 * np.log10(np.mean((a[inner, inner] - b[inner, inner]) ** 2)))


def agreement(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The largest normalised cross-correlation of two kernels: 1 for the same shape."""
    n = 2 * max(a.shape + b.shape)
    product = np.fft.rfft2(a, (n, n)) * np.conj(np.fft.rfft2(b, (n, n)))
    return float(np.fft.irfft2(product, (n, n)).max() / np.linalg.norm(a) / np.linalg.norm(b))


def decoded(gif: bytes) -> tuple[NDArray[np.uint8], list[int]]:
    """Every frame of an endless animation, (frames, height, width, 3), and the milliseconds for which each stands."""
    with Image.open(io.BytesIO(gif)) as film:
        assert film.info["loop"] == 0
        frames = [(np.asarray(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(film)]
    return np.stack([pixels for pixels, _ in frames]), [duration for _, duration in frames]


def guided(folder: Path, kind: str, channels: int) -> str:
    """A small network for images of 64 x 64 pixels that takes nothing for noise."""
    parameters = {"image_size": 64, "channels": channels, "width": 32, "residual_blocks": 1, "head_channels": 32}
    network = GuidedDiffusionUNet(attention=[], **parameters)
    return stored_prior(folder, kind, "guided-diffusion", network, parameters | {"attention": []})


def stored_prior(
    folder: Path, kind: str, architecture: str, network: torch.nn.Module, parameters: dict[str, object]
) -> str:
    """The folder of a prior, as a training writes it."""
    file = folder / f"{kind}.safetensors"
    save_file(network.state_dict(), file)
    values = ", ".join(f"{name} = {value}" for name, value in parameters.items())
    (folder / "weights.toml").write_text(
        f'''[tiny-{kind}]
kind = "{kind}"
architecture = "{architecture}"
parameters = {{ {values} }}
file = "{file.name}"
addresses = []
sha256 = "{hashlib.sha256(file.read_bytes()).hexdigest()}"
licence = "none"
trained_on = "nothing"
bundled = false
'''
    )
    return str(folder)
