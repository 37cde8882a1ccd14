"""What a restoration costs, stage by stage: work as counts, which are exact, and seconds, which are not.

python -m benchmarks.speed [grey|colour|1mp|12mp ...] [--device cuda] [--peers] [-o speed.json]

The photos are made of pictures of this repository. Each is restored twice: once counted, once timed. Waits are those
that a GPU would have to be waited for, wherever it runs: numbers that Python asks for, and whatever is as long as the
numbers say. Launches are operations of torch, of which most are one kernel on a GPU.
"""

import json
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import contenders
from benchmarks.results import Results, Row
from benchmarks.running import Bench
from benchmarks.sets import Case
from blinddeblur.commands.console import Console
from blinddeblur.engine.pipeline import Engine
from blinddeblur.estimation.candidates import Verdict
from blinddeblur.files import decoding, encoding
from blinddeblur.files.photo import Photo
from blinddeblur.physics.convolution import blur
from blinddeblur.priors.compact import CompactUNet
from blinddeblur.progress import Progress, unheard
from blinddeblur.settings import Settings
from blinddeblur.training.random_kernels import random_kernel

SCENE = Path(__file__).parent.parent / "docs" / "priors.jpg"  # four photographs of Kodak in a row, the first row sharp
SIDE = 256  # pixels of each
CASES = {"grey": (255, 255, 1), "colour": (256, 256, 3), "1mp": (1024, 1024, 3), "12mp": (3000, 4000, 3)}
EXTENT, NOISE = 17, 0.01  # pixels of the blur, and noise where white is 1
BEFORE = "before"  # the stage until another one begins
PEERS = ("wiener", "richardson-lucy", "l0", "l0-ispa")

ATEN = torch.ops.aten
TRANSFORMS = {ATEN._fft_r2c.default, ATEN._fft_c2r.default, ATEN._fft_c2c.default}
CONVOLUTIONS = {ATEN.convolution.default}
WAITS = {ATEN._local_scalar_dense.default, ATEN.nonzero.default, ATEN.masked_select.default}


@dataclass
class Work:
    """What one stage took.

    Attributes:
        evaluations, pixels: of a network that denoises photos, and how many pixels it saw.
        products: multiplications of convolutions.
        transforms, points: Fourier transforms of images, and how many real numbers they were of.
        launches, waits: see the head of this module.
        allocated: bytes of results, however soon they were free again.
        seconds: that it took when nothing was counted.
    """

    evaluations: int = 0
    pixels: int = 0
    products: int = 0
    transforms: int = 0
    points: int = 0
    launches: int = 0
    waits: int = 0
    allocated: int = 0
    seconds: float = 0.0


class Counter(TorchDispatchMode):
    """Counts what torch is asked for, in the stage that the work says it is at."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: defaultdict[str, Work] = defaultdict(Work)
        self.stage = BEFORE

    def progress(self, stage: str, done: int, total: int) -> None:
        """Hear of a stage."""
        self.stage = stage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, work = func(*args, **(kwargs or {})), self.stages[self.stage]
        work.launches += not func.is_view
        if func in TRANSFORMS:
            image = result if func is ATEN._fft_c2r.default else args[0]
            work.transforms += image.shape[:-2].numel()
            work.points += image.numel()
        if func in CONVOLUTIONS:
            work.products += result.numel() * args[1][0].numel()
        if func in WAITS or (
            func is ATEN.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        ):
            work.waits += 1
        if isinstance(result, Tensor) and not func.is_view:
            work.allocated += result.numel() * result.element_size()
        return result

    def evaluated(self, module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        """Hear of an evaluation of a module, before it."""
        if isinstance(module, CompactUNet) and arguments[0].shape[-1] > arguments[0].shape[1]:
            self.stages[self.stage].evaluations += 1
            self.stages[self.stage].pixels += arguments[0][:, 0].numel()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is done meanwhile."""

        def waited(name: str) -> Any:
            original = getattr(Tensor, name)

            def method(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
                self.stages[self.stage].waits += 1
                return original(tensor, *arguments, **options)

            return patch.object(Tensor, name, method)

        hook = torch.nn.modules.module.register_module_forward_pre_hook(self.evaluated)
        try:
            # In inference mode torch hands over whole compositions instead of what they are made of.
            with (
                waited("cpu"),
                waited("tolist"),
                patch("torch.inference_mode", lambda on=True: torch.set_grad_enabled(not on)),
                self,
            ):
                yield
        finally:
            hook.remove()


class Clock:
    """Measures the seconds of every stage."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stage, self.since = device, BEFORE, time.perf_counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Hear of a stage."""
        if stage != self.stage:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            now = time.perf_counter()
            self.seconds[self.stage] += now - self.since
            self.stage, self.since = stage, now


def photo(name: str) -> NDArray[np.uint8]:
    """A blurred photo of CASES, (H, W) or (H, W, 3)."""
    height, width, channels = CASES[name]
    rng = np.random.default_rng(1)
    kernel = torch.from_numpy(random_kernel(rng, 31, EXTENT, "shake"))
    scene = decoding.read(SCENE).pixels[:SIDE, :SIDE]
    margin = kernel.shape[-1] - 1
    rows, columns = (-(-(side + margin) // SIDE) for side in (height, width))
    # Larger photos go on as in a mirror, so that each of their parts tells as much.
    whole = np.pad(scene, ((0, (rows - 1) * SIDE), (0, (columns - 1) * SIDE), (0, 0)), mode="symmetric")
    sharp = torch.from_numpy(np.ascontiguousarray(whole[: height + margin, : width + margin].transpose(2, 0, 1)))[None]
    if channels == 1:
        sharp = sharp.mean(dim=1, keepdim=True)
    y = blur(sharp.float(), kernel.float())[0].permute(1, 2, 0).numpy()
    noisy = y + NOISE * rng.standard_normal(y.shape, dtype=np.float32)
    pixels = np.rint(255 * noisy.clip(0, 1)).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def restored(engine: Engine, pixels: NDArray[np.uint8], progress: Progress = unheard) -> None:
    """Restore a photo all the way, whatever the judge expects of it."""
    with patch.object(Verdict, "better", True):
        engine.restore(pixels, progress)


def counted(pixels: NDArray[np.uint8], device: str = "cpu") -> dict[str, Work]:
    """What each stage of a restoration takes, but for its seconds."""
    engine, counter = Engine(Settings(device=device)), Counter()
    with counter.counting():
        restored(engine, pixels, counter.progress)
    return dict(counter.stages)


def total(stages: dict[str, Work]) -> Work:
    """The sum of all stages."""
    parts = [asdict(work) for work in stages.values()]
    return Work(**{key: sum(part[key] for part in parts) for key in parts[0]})


def measured(name: str, device: str) -> tuple[dict[str, Work], float]:
    """Each stage, and the peak of memory in MB: of the GPU, or so far of this process."""
    pixels = photo(name)
    stages = counted(pixels, device)
    engine = Engine(Settings(device=device))
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(engine.device)
        restored(engine, photo("grey"))  # the first one finds memory, and plans
    clock = Clock(engine.device)
    restored(engine, pixels, clock.progress)
    clock.progress("", 1, 1)
    for stage, seconds in clock.seconds.items():
        stages.setdefault(stage, Work()).seconds = seconds
    if engine.device.type == "cuda":
        return stages, torch.cuda.max_memory_allocated(engine.device) / 1e6
    return stages, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def of_commands(name: str) -> list[Row]:
    """What the whole command takes, and programs of others, those that are installed."""
    known = contenders.load()
    installed = [key for key in PEERS if not known.peers[key].missing()]
    chosen = known.chosen([contenders.FIRST], installed)
    with tempfile.TemporaryDirectory() as folder:
        home, pixels = Path(folder), photo(name)
        encoding.write(Photo(pixels.reshape(*pixels.shape[:2], -1)), home / "blurred.png")
        results = Results(Row, home / "out", {"set": name}, {one.key: list(one.command) for one in chosen})
        rows: list[Row] = []
        Bench([Case(name, home / "blurred.png")], results, home / "out", [0], 1, rows.append).run(chosen)
    return [row for row in rows if row.contender != contenders.BLURRED]


def main(
    cases: Annotated[list[str] | None, typer.Argument(metavar="[grey|colour|1mp|12mp]...")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "cpu",
    peers: Annotated[
        bool, typer.Option("--peers", help="The whole command as well, and programs of others that are installed.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE.json", help="All figures.")] = None,
) -> None:
    """What a restoration costs, stage by stage."""
    console, kept = Console(), {}
    for name in cases or list(CASES):
        if name not in CASES:
            raise typer.BadParameter(f"there is no case {name}; choose from {', '.join(CASES)}.")
        stages, memory = measured(name, device)
        kept[name] = {stage: asdict(work) for stage, work in stages.items()} | {"memory": memory}
        rows = [_row(stage, work) for stage, work in [*stages.items(), (f"{name}, {memory:.0f} MB", total(stages))]]
        console.table(
            ["stage", "networks", "Mpx", "GMAC", "transforms", "Mpoints", "launches", "waits", "GB", "s"], rows
        )
        if peers:
            for row in of_commands(name):
                console.say(f"{row.contender}: {row.failure or f'{row.seconds:.1f} s, {row.peak:.0f} MB'}")
    if output is not None:
        output.write_text(json.dumps(kept, indent=2), encoding="utf-8")


def _row(stage: str, work: Work) -> list[str]:
    return [
        stage,
        str(work.evaluations),
        f"{work.pixels / 1e6:.2f}",
        f"{work.products / 1e9:.1f}",
        str(work.transforms),
        f"{work.points / 1e6:.1f}",
        str(work.launches),
        str(work.waits),
        f"{work.allocated / 1e9:.2f}",
        f"{work.seconds:.2f}",
    ]


if __name__ == "__main__":
    typer.run(main)
