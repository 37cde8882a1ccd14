"""How well the noise level of a photo is estimated, against synthetic truth.

python -m benchmarks.noise PHOTOS [--number 24] [--side 320]

Each photo is left sharp, or blurred by a random kernel of 7 to 40 px cut from a larger picture, or blurred and darkened
to a fifth, so that noise clips; then noised, and written and read as a file. The truth is the root mean square of the
file's pixels minus the picture that was noised, so that what rounding and JPEG did counts; over pixels three sigma or
more from black and white, for clipping would hide the noise. Right is within 15 % or 0.3 levels of 8 bits.

The photos should be PNG files: the error of their own compression is part of a JPEG photo that is left sharp.
"""

import itertools
import math
import time
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.priors import HELD_OUT, Photos, cropped, read_photos
from blinddeblur import random_kernel
from blinddeblur.estimation.noise import estimate_sigma
from blinddeblur.physics.convolution import blur

SIGMAS = (0, 1, 2.5, 5, 10, 25)  # of 255
RELATIVE, ABSOLUTE = 0.15, 0.3  # what may be wrong; the latter in levels of 8 bits
KERNEL = 63
DARK = 0.2
FILES: dict[str, list[int]] = {  # and what OpenCV is told
    "16 bit": [],
    "8 bit": [],
    **{f"JPEG {quality}": [cv2.IMWRITE_JPEG_QUALITY, quality] for quality in (95, 85, 75)},
}
SEEN = 1000  # values away from black and white; with fewer there is no truth to compare with


@dataclass(frozen=True)
class Case:
    """One estimate; truth and estimate in levels of 8 bits."""

    photo: int
    scene: str
    file: str
    channels: int
    sigma: float
    truth: float
    estimate: float

    @property
    def error(self) -> float:
        """As a multiple of what is allowed, above 0 where too much was found."""
        return (self.estimate - self.truth) / max(RELATIVE * self.truth, ABSOLUTE)


def main(photos: Photos, number: int = 24, side: int = 320, worst: int = 20) -> None:
    """Two tables in Markdown: the share of right answers for each sigma, and the worst answers.

    In brackets the largest error, as a multiple of what is allowed.
    """
    pictures = read_photos(photos)
    rng = np.random.default_rng(HELD_OUT)
    chosen = sorted(rng.permutation(len(pictures))[:number].tolist())
    start = time.monotonic()
    cases = [case for index in chosen for case in _cases(index, pictures[index], side, rng)]
    print("| | channels |", " | ".join(f"{sigma:g}" for sigma in SIGMAS), "|")
    print("| --- " * (2 + len(SIGMAS)) + "|")
    for scene, file, channels in itertools.product(("sharp", "blurred", "dark"), FILES, (1, 3)):
        row = [c for c in cases if (c.scene, c.file, c.channels) == (scene, file, channels)]
        cells = [_cell([c for c in row if c.sigma == sigma]) for sigma in SIGMAS]
        print(f"| {scene}, {file} | {channels} |", " | ".join(cells), "|")
    print(f"\n{len(cases)} estimates in {time.monotonic() - start:.0f} s. The worst:\n")
    print("| photo | | channels | sigma | truth | estimate |")
    print("| --- " * 6 + "|")
    for c in sorted(cases, key=lambda c: -abs(c.error))[:worst]:
        print(f"| {c.photo} | {c.scene}, {c.file} | {c.channels} | {c.sigma:g} | {c.truth:.2f} | {c.estimate:.2f} |")


def _cases(index: int, photo: Tensor, side: int, rng: np.random.Generator) -> list[Case]:
    kernel = torch.from_numpy(random_kernel(rng, KERNEL, math.exp(rng.uniform(math.log(7), math.log(40)))))
    larger = cropped(photo, side + KERNEL - 1)
    scenes = {"sharp": cropped(photo, side), "blurred": blur(larger, kernel).clamp(0, 1)}
    scenes["dark"] = DARK * scenes["blurred"]
    cases = []
    for (scene, colours), channels, sigma in itertools.product(scenes.items(), (1, 3), SIGMAS):
        clean = colours if channels == 3 else colours.mean(dim=1, keepdim=True)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(index))
        noisy = clean + sigma / 255 * noise
        seen = (clean >= 3 * sigma / 255) & (clean <= 1 - 3 * sigma / 255)
        if seen.sum() < SEEN:
            continue
        for file in FILES:
            y = _through_file(noisy, file)
            truth = float((y - clean)[seen].square().mean().sqrt())
            cases.append(Case(index, scene, file, channels, sigma, 255 * truth, 255 * estimate_sigma(y)))
    return cases


def _through_file(y: Tensor, file: str) -> Tensor:
    """(1, C, H, W) -> the same, as it is read from a file of this kind."""
    depth, kind = (65535, np.uint16) if file == "16 bit" else (255, np.uint8)
    pixels = (depth * y[0].clamp(0, 1)).round().permute(1, 2, 0).numpy().astype(kind)
    encoded = cv2.imencode(".jpg" if "JPEG" in file else ".png", pixels[..., ::-1], FILES[file])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED).reshape(pixels.shape)[..., ::-1].astype(np.float32)
    return torch.from_numpy(decoded.transpose(2, 0, 1).copy())[None] / depth


def _cell(cases: list[Case]) -> str:
    """Share of right answers, and the largest error."""
    if not cases:
        return ""
    right = sum(abs(c.error) <= 1 for c in cases) / len(cases)
    return f"{100 * right:.0f} % ({max((c.error for c in cases), key=abs):+.1f})"


if __name__ == "__main__":
    with torch.inference_mode():
        typer.run(main)
