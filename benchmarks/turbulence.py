"""Sequences through simulated turbulence, restored: one frame and many, beside what a few lines of OpenCV do.

python -m benchmarks.turbulence PHOTOS [--number 20] [--frames 1 --frames 8 --frames 32] [--strengths 2 --strengths 4]
python -m benchmarks turbulence --data PHOTOS -o OUT goes on where it was stopped, and makes a contact sheet.

Each photo gives one sequence for each strength D / r0, with 1 % noise and 8 bits; of it the first 1, 8 and 32 frames
are taken. The frame is the crop of the photo with most texture; light from beyond falls into it.

N frames tell the scene up to their mean tilt, and one frame up to its own: nothing tells that tilt from the scene's
shape. So figures are given against the truth as it is, and, which are those to go by, against the truth seen through
the true mean tilt of the N frames (`own`); this holds for the first frame, the input, as well. RIM pixels on each side
are left out: there the tilt fetches what no frame shows. The tilt error is the mean distance between estimated and true
displacement, both counted from the mean tilt and less their mean over the frames.

The blur is drawn from the family that ours looks for it in: what another blur costs is not told here.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks import metrics
from benchmarks.sets import sharp_photos
from blinddeblur.engine.crops import informative_crop
from blinddeblur.engine.pixels import Pixels
from blinddeblur.engine.scene import TurbulenceEngine
from blinddeblur.errors import UsageError
from blinddeblur.files import decoding, encoding
from blinddeblur.files.photo import Photo
from blinddeblur.files.together import check_free, write_bytes
from blinddeblur.physics import kernels
from blinddeblur.physics.tilt import enlarged, inverse, warp
from blinddeblur.settings import SEQUENCE_METHODS, SequenceSettings
from blinddeblur.tiles import Tile
from blinddeblur.training.simulator import Sequence, simulate_turbulence

FRAMES = [1, 8, 32]
STRENGTHS = [2.0, 4.0]
DRAWN = 32  # frames at least of every sequence, so that its first ones are the same whatever is asked for
MARGIN = 36  # pixels of the photo around the frame: half a kernel, and the largest tilt up to D / r0 = 6
RIM = 8  # pixels left out
CORRELATION_LENGTH = 16.0  # pixels, of the tilt
FRAME_CORRELATION = 0.3
VARIATION = 0.3
NOISE = 0.01
ITERATIONS = 10  # for the tilt counted from the mean tilt

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Answer:
    """What a method makes of N frames: a picture (H, W, C) and, where it finds them, tilts (N, 2, H, W) in pixels, of
    the frames against the picture, and a kernel (K, K)."""

    image: Picture
    tilts: Array | None = None
    kernel: Array | None = None


@dataclass(frozen=True)
class Row:
    """Of one method and sequence: PSNR in dB and SSIM against the truth, and against it under the mean tilt (own_).

    tilt_error: in pixels. mnc: agreement of the kernel with the mean of the true ones. None where there is none.
    """

    photo: str
    strength: float
    frames: int
    method: str
    psnr: float
    ssim: float
    own_psnr: float
    own_ssim: float
    tilt_error: float | None
    mnc: float | None
    seconds: float

    @property
    def key(self) -> tuple[str, float, int, str]:
        """What there is one row of."""
        return self.photo, self.strength, self.frames, self.method


def first(frames: list[Picture]) -> Answer:
    return Answer(frames[0])


def mean(frames: list[Picture]) -> Answer:
    return Answer(np.rint(np.mean(frames, axis=0)).astype(np.uint8))


def median(frames: list[Picture]) -> Answer:
    return Answer(np.rint(np.median(frames, axis=0)).astype(np.uint8))


def registered_mean(frames: list[Picture]) -> Answer:
    moved, tilts = registered(frames, mean(frames).image)
    return Answer(mean(moved).image, tilts)


def registered_median(frames: list[Picture]) -> Answer:
    moved, tilts = registered(frames, median(frames).image)
    return Answer(median(moved).image, tilts)


def registered_twice(frames: list[Picture]) -> Answer:
    """Onto their median, and onto what comes of that."""
    moved, tilts = registered(frames, registered_median(frames).image)
    return Answer(median(moved).image, tilts)


def registered(frames: list[Picture], reference: Picture) -> tuple[list[Picture], Array]:
    """The frames moved onto a reference by OpenCV's dense inverse search, and the tilt of each against it."""
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    places = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in reference.shape[1::-1])), axis=-1)
    flows = [search.calc(_grey(reference), _grey(frame), None) for frame in frames]  # (H, W, 2), columns first
    moved = [
        cv2.remap(frame, places + flow, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).reshape(frame.shape)
        for frame, flow in zip(frames, flows, strict=True)
    ]
    onto = torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).flip(1)
    return moved, inverse(onto).numpy()


def ours(method: str, frames: list[Picture], seed: int) -> Answer:
    found = TurbulenceEngine(SequenceSettings(method=method, seed=seed)).restore(frames)
    height, width = frames[0].shape[:2]
    tilts = enlarged(torch.from_numpy(found.tilts), height, width, found.spacing)
    return Answer(found.image, tilts.numpy(), found.kernel)


BASELINES: dict[str, Callable[[list[Picture]], Answer]] = {
    "input": first,
    "mean": mean,
    "median": median,
    "registered-mean": registered_mean,
    "registered-median": registered_median,
    "registered-twice": registered_twice,
}
ONE_FRAME, MANY_FRAMES = ("input", *SEQUENCE_METHODS), (*BASELINES, "fast")  # of one, all baselines are the input
METHODS = [*BASELINES, *SEQUENCE_METHODS]
BEST = "best of these"  # of the baselines, chosen for each sequence by looking at the truth
DEFAULT = [*BASELINES, "fast"]


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of sharp photos that nothing was calibrated on.")],
    number: int = 20,
    frames: Annotated[list[int], typer.Option(help="Taken of each sequence.")] = FRAMES,
    strengths: Annotated[list[float], typer.Option(help="D / r0.")] = STRENGTHS,
    methods: Annotated[list[str], typer.Option(help=f"Of {', '.join(METHODS)}.")] = DEFAULT,
    side: int = 256,
    seed: int = 0,
    keep: Annotated[Path | None, typer.Option(help="Folder for pictures: frame, best baseline, ours, truth.")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures of every sequence.")] = None,
) -> None:
    """A table in Markdown: means over the photos, and the least gain over the first frame, under the mean tilt.

    Options that take several values are given several times. The figures of each sequence go to standard error.
    """
    check_methods(methods)
    if output is not None:
        check_free(output, overwrite=False)
    rows: list[Row] = []
    for found, pictures in measured(sharp_photos(photos), number, frames, strengths, methods, side, seed):
        rows += found
        if keep is not None:
            strip = Photo(np.concatenate(list(pictures.values()), axis=1))
            encoding.write(strip, keep / f"{found[0].photo}-{found[0].strength:g}-{found[0].frames}.png")
        if output is not None:  # at once: what took an hour is not lost with what comes next
            figures = [dataclasses.asdict(row) for row in rows]
            write_bytes(json.dumps(figures, indent=1).encode(), output, overwrite=True)
    print(table(rows))


def check_methods(methods: Iterable[str]) -> None:
    """Raise UsageError for one that there is not."""
    if unknown := set(methods) - set(METHODS):
        raise UsageError(f"There is no method {min(unknown)}. Choose of {', '.join(METHODS)}.")


def measured(
    photos: list[Path],
    number: int,
    frames: list[int],
    strengths: list[float],
    methods: list[str],
    side: int,
    seed: int,
    done: Container[tuple[str, float, int]] = (),
) -> Iterator[tuple[list[Row], dict[str, Picture]]]:
    """The rows and pictures of each sequence: see compared. Photo, strength and frames of those left out are `done`."""
    for index, path in enumerate(photos[:: max(1, len(photos) // number)][:number]):
        scene: Array | None = None
        for strength in strengths:
            counts = [count for count in frames if (path.stem, strength, count) not in done]
            if not counts:
                continue
            if scene is None:
                scene = textured(decoding.read(path).pixels, side + 2 * MARGIN)
            sequence = drawn(np.random.default_rng([seed, index]), scene, side, strength, max(frames))
            for count in counts:
                found, pictures = compared(Case.of(path.stem, strength, scene, sequence, count), methods, seed)
                for row in found:
                    line = f"{row.photo} {strength:g} {count} {row.method}: {row.own_psnr:.2f} dB, {row.seconds:.1f} s"
                    print(line, file=sys.stderr, flush=True)
                yield found, pictures


def textured(pixels: Array, side: int) -> Array:
    """The crop that tells most, of a photo (H, W, C)."""
    place = informative_crop(Pixels(pixels, torch.device("cpu")), side, Tile(0, 0, *pixels.shape[:2]))
    return pixels[place.top : place.top + place.height, place.left : place.left + place.width]


def drawn(rng: np.random.Generator, scene: Array, side: int, strength: float, frames: int) -> Sequence:
    return simulate_turbulence(
        rng,
        scene,
        max(frames, DRAWN),
        side,
        side,
        d_over_r0=strength,
        correlation_length=CORRELATION_LENGTH,
        frame_correlation=FRAME_CORRELATION,
        variation=VARIATION,
        sigma=NOISE,
    )


@dataclass(frozen=True)
class Case:
    """The first frames of a sequence, and the truth about them.

    Attributes:
        photo: name of the photo.
        strength: D / r0.
        frames: N pictures (H, W, C).
        truth: (H, W, C).
        own: the same under the mean tilt of the frames.
        tilts: (N, 2, H, W), of the frames against `own`.
        kernel: (K, K), mean over the frames.
    """

    photo: str
    strength: float
    frames: list[Picture]
    truth: Array
    own: Array
    tilts: Array
    kernel: Array

    @classmethod
    def of(cls, name: str, strength: float, scene: Array, sequence: Sequence, count: int) -> "Case":
        frames = [np.rint(255 * frame).astype(np.uint8) for frame in sequence.frames[:count]]
        tilts = torch.from_numpy(sequence.tilts[:count])
        middle = tilts.mean(dim=0, keepdim=True)
        own = warp(torch.from_numpy(scene).permute(2, 0, 1)[None], middle)[0].permute(1, 2, 0).numpy()
        against = tilts - middle
        for _ in range(ITERATIONS):  # against(p) + middle(p + against(p)) = tilt(p)
            against = tilts - warp(middle, against)
        kernel = sequence.kernels[:count].mean(axis=0)
        return cls(name, strength, frames, sequence.truth, own, against.numpy(), kernel)

    def row(self, method: str, answer: Answer, seconds: float) -> Row:
        plain, own = (likeness(answer.image, truth) for truth in (self.truth, self.own))
        tilt_error = mnc = None
        if answer.tilts is not None and len(self.frames) > 1:
            error = answer.tilts - self.tilts
            error = (error - error.mean(axis=0))[..., RIM:-RIM, RIM:-RIM]
            tilt_error = float(np.hypot(error[:, 0], error[:, 1]).mean())
        if answer.kernel is not None:
            size = max(len(answer.kernel), len(self.kernel))
            both = (kernels.fitted(torch.from_numpy(k), size) for k in (answer.kernel, self.kernel))
            mnc = float(kernels.agreement(*both))
        return Row(self.photo, self.strength, len(self.frames), method, *plain, *own, tilt_error, mnc, seconds)


def compared(case: Case, methods: Iterable[str], seed: int) -> tuple[list[Row], dict[str, Picture]]:
    """The figures of all methods, and pictures (H, W, C): first frame, best baseline, ours, truth under mean tilt."""
    rows: dict[str, Row] = {}
    images: dict[str, Picture] = {}
    for method in dict.fromkeys(["input", *methods]):
        if method not in (ONE_FRAME if len(case.frames) == 1 else MANY_FRAMES):
            continue
        start = time.monotonic()
        answer = BASELINES[method](case.frames) if method in BASELINES else ours(method, case.frames, seed)
        rows[method] = case.row(method, answer, time.monotonic() - start)
        images[method] = answer.image
    best = max(rows.keys() & BASELINES.keys(), key=lambda method: rows[method].own_psnr)
    rows[BEST] = dataclasses.replace(rows[best], method=BEST)
    shown = {"input": images["input"], BEST: images[best]}
    shown |= {method: image for method, image in images.items() if method in SEQUENCE_METHODS}
    return list(rows.values()), {**shown, "truth": np.rint(255 * case.own.clip(0, 1)).astype(np.uint8)}


def likeness(image: Picture, truth: Array) -> tuple[float, float]:
    """PSNR in dB and SSIM without the rim."""
    inner = (slice(RIM, -RIM), slice(RIM, -RIM))
    x = image / np.float32(255)
    return metrics.psnr(float(np.mean((x - truth)[inner] ** 2))), metrics.ssim(x, truth, RIM)


def table(rows: list[Row]) -> str:
    """In Markdown."""
    inputs = {(r.photo, r.strength, r.frames): r.own_psnr for r in rows if r.method == "input"}
    lines = [
        "| D / r0 | frames | | PSNR | SSIM | own PSNR | own SSIM | gain | least gain | tilt error | MNC | seconds |"
    ]
    lines.append("| --- " * 12 + "|")
    for strength, frames, method in dict.fromkeys((r.strength, r.frames, r.method) for r in rows):
        group = [r for r in rows if (r.strength, r.frames, r.method) == (strength, frames, method)]
        gains = [r.own_psnr - inputs[r.photo, strength, frames] for r in group]
        cells = [
            f"{strength:g}",
            str(frames),
            method,
            _mean("{:.2f}", [r.psnr for r in group]),
            _mean("{:.3f}", [r.ssim for r in group]),
            _mean("{:.2f}", [r.own_psnr for r in group]),
            _mean("{:.3f}", [r.own_ssim for r in group]),
            _mean("{:+.2f}", gains),
            f"{min(gains):+.2f}",
            _mean("{:.2f}", [r.tilt_error for r in group]),
            _mean("{:.3f}", [r.mnc for r in group]),
            _mean("{:.1f}", [r.seconds for r in group]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(form: str, values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return form.format(np.mean(known)) if known else ""


def _grey(picture: Picture) -> Picture:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if picture.shape[2] == 3 else picture[..., 0]


if __name__ == "__main__":
    typer.run(main)
