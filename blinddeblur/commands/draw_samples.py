"""Samples of a prior, without any measurement: what it knows. Files in a folder, one after the other."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blinddeblur.commands.console import Console
from blinddeblur.commands.outcome import attempt, exit_code
from blinddeblur.commands.plan import STREAM
from blinddeblur.errors import UsageError
from blinddeblur.files import encoding, kernel_files
from blinddeblur.files.photo import EXTENSIONS, Photo
from blinddeblur.files.together import Together, all_there, check_free, recover
from blinddeblur.pictures.tilts import tilt_picture
from blinddeblur.progress import Progress

if TYPE_CHECKING:
    from torch import Generator, Tensor

ENDINGS = {"image": (), "kernel": (".npy",), "tilt": (".npz",)}  # of each kind, besides the picture
PRIORS = {"image": "photo", "kernel": "kernel", "tilt": None}  # None: the closed form
SIDE = 128  # pixels of images and tilts, where the prior takes any size
SIDES = (16, 1024)  # pixels, the least and the most that can be asked for
STEPS, MOST_STEPS = 100, 1000  # of the diffusion: by default, and at most
MOST = 10_000  # samples of one command
LEVELS = (80.0, 0.003)  # noise that hides all of an image, and noise that nobody sees
KERNEL_LEVELS = (10.0, 0.01)  # the same for kernels, whose mean is small

Draw = Callable[["Generator", Progress], "Tensor"]


@dataclass(frozen=True)
class Sampling:
    """What is sampled, and where it goes. Raises UsageError where a value makes no sense.

    Attributes:
        kind: "image", "kernel" or "tilt".
        folder: for the samples, whose names are always the same.
        prior: a name of weights.toml or the folder of one that was trained; None for what ships.
        number: of samples. One does not depend on how many there are.
        steps: of the reverse diffusion; None for 100. The closed form is drawn at once, without steps.
        size: side in pixels of images and tilts; None for 128, or the only one that the prior knows.
        seed: of everything random.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        overwrite: whether samples that exist already are replaced.
    """

    kind: str
    folder: Path
    prior: str | None = None
    number: int = 1
    steps: int | None = None
    size: int | None = None
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False

    @property
    def effective_steps(self) -> int:
        """Steps of the diffusion: as asked, or as usual."""
        return STEPS if self.steps is None else self.steps

    def __post_init__(self) -> None:
        if self.kind not in ENDINGS:
            raise UsageError(f"There is no kind of sample named {self.kind}. Choose one of {', '.join(ENDINGS)}.")
        if self.folder == STREAM or (self.folder.suffix.lower() in EXTENSIONS and not self.folder.is_dir()):
            raise UsageError(f"{self.folder}: Samples are files with names of their own. Give a folder as -o.")
        if self.kind == "tilt" and self.prior is None and self.steps is not None:
            raise UsageError("This tilt is drawn in closed form, without steps. Leave out --steps, or give a --prior.")
        for name, value, least, most in (
            ("number of samples", self.number, 1, MOST),
            ("number of steps", self.effective_steps, 2, MOST_STEPS),
            ("size", SIDE if self.size is None else self.size, *SIDES),
            ("seed", self.seed, 0, 2**63 - 1),
        ):
            if not least <= value <= most:
                raise UsageError(f"The {name} must lie between {least} and {most}, not {value}.")

    def files(self, number: int) -> list[Path]:
        """The files of a sample, which is counted from 1; the picture is the last."""
        return [self.folder / f"sample-{number}{ending}" for ending in (*ENDINGS[self.kind], ".png")]


def run(sampling: Sampling, console: Console) -> int:
    """Draw all samples that are not there yet. Returns the exit code.

    Raises BlindDeblurError for what concerns all samples alike, such as weights that are missing.
    """
    numbers = range(1, sampling.number + 1)
    recover(sampling.folder, [sampling.files(number) for number in numbers])
    waiting = []
    for number in numbers:
        if not sampling.overwrite and all_there(sampling.files(number)):
            console.skipped(Path(f"sample-{number}"), sampling.files(number)[-1])
        else:
            waiting.append(number)
    for number in waiting:  # before minutes are spent
        check_free(*sampling.files(number), overwrite=sampling.overwrite)
    if not waiting:
        return 0
    draw = _drawer(sampling)
    for number in waiting:
        start, picture = time.monotonic(), sampling.files(number)[-1]
        with console.work(picture.stem) as work:
            outcome = attempt(_make, sampling, draw, number, work.stage)
        if isinstance(outcome, Exception):
            console.failure(picture, outcome)
            return exit_code(outcome)
        console.say(f"{picture} ({time.monotonic() - start:.1f} s)")
    return 0


def _drawer(sampling: Sampling) -> Draw:
    """What draws a sample: (1, C, H, W); images and kernels in [0, 1], tilts in pixels.

    Raises BlindDeblurError where there is no such prior, or it cannot be sampled like this.
    """
    import torch

    from blinddeblur.devices import find_device
    from blinddeblur.physics.kernels import PRIOR_SIZE
    from blinddeblur.priors.conditioned import ConditionedKernelUNet
    from blinddeblur.priors.kolmogorov import CORRELATION_LENGTH, NETWORK_UNIT, TYPICAL_STRENGTH, KolmogorovTilt
    from blinddeblur.priors.loading import load_prior
    from blinddeblur.samplers import unconditional
    from blinddeblur.samplers.schedule import curved

    device = find_device(sampling.device)
    kind, name, steps = sampling.kind, sampling.prior or PRIORS[sampling.kind], sampling.effective_steps
    if name is None:
        tilt, extent = KolmogorovTilt(TYPICAL_STRENGTH, CORRELATION_LENGTH), sampling.size or SIDE
        return lambda generator, progress: tilt.sample(1, extent, extent, generator)
    prior = load_prior(name, device, kind)
    if isinstance(prior.network, ConditionedKernelUNet):
        raise UsageError(f"The prior {name} knows kernels only of a photo that it is shown. Choose another --prior.")
    only = PRIOR_SIZE if kind == "kernel" else prior.image_size
    if only is not None and sampling.size not in (None, only):
        raise UsageError(f"The prior {name} knows only arrays of {only} pixels. Leave out --size.")
    side = only or sampling.size or SIDE
    sigmas = curved(*(KERNEL_LEVELS if kind == "kernel" else LEVELS), steps)

    def draw(generator: "Generator", progress: Progress) -> "Tensor":
        x = sigmas[0] * torch.randn(1, prior.channels, side, side, generator=generator).to(device)
        with torch.inference_mode():
            x = unconditional.sample(
                prior.denoise, x, sigmas, generator, callback=lambda index, x0: progress("step", index + 1, steps)
            ).cpu()
        return NETWORK_UNIT * (2 * x - 1) if kind == "tilt" else x

    return draw


def _make(sampling: Sampling, draw: Draw, number: int, progress: Progress) -> None:
    """Draw one sample and write its files together."""
    import torch

    from blinddeblur.samplers.white_noise import seed

    x = draw(torch.Generator().manual_seed(seed(sampling.seed, number)), progress)
    with Together(overwrite=sampling.overwrite) as files:
        for path, data in zip(sampling.files(number), _contents(sampling.kind, x), strict=True):
            files.add(data, path)


def _contents(kind: str, x: "Tensor") -> list[bytes]:
    """The bytes of the files of a sample (1, C, H, W), in their order."""
    from blinddeblur.physics import kernels

    if kind == "kernel":
        kernel = kernels.from_prior(x, kernels.PRIOR_SIZE - 1)[0, 0].numpy()
        picture, array = kernel_files.kernel_files(kernel, Path("sample")).values()
        return [array, picture]
    if kind == "tilt":
        tilts = x.numpy().astype(np.float32)
        return [
            kernel_files.npz(tilts=tilts, spacing=1),
            encoding.encode(Photo(tilt_picture(tilts, 1, *tilts.shape[2:])), ".png"),
        ]
    pixels = x[0].permute(1, 2, 0).clamp(0, 1).numpy()
    return [encoding.encode(Photo(pixels), ".png")]
