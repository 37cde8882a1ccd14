"""The command line: options -> settings -> engine -> console. Imports torch only when there is work for it."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from blinddeblur import __version__
from blinddeblur.commands import machine
from blinddeblur.commands.console import Console
from blinddeblur.errors import BlindDeblurError, UsageError
from blinddeblur.settings import CHOICES, METHODS, SEQUENCE_METHODS, SequenceSettings, Settings
from blinddeblur.training.options import Options

INTERRUPTED = 130  # exit code after Ctrl-C, by the convention of shells
SOME_FAILED = 1
RESULTS_KEPT = "Results that were complete are kept; nothing half-written is left."
TRAINING_KEPT = "What was learned is kept: the same command goes on from there."

app = typer.Typer(
    help="Blind deblurring of photographs: the blur kernel and the sharp image, estimated together.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

train_app = typer.Typer(help="Train a prior of your own, to restore with.", no_args_is_help=True)
app.add_typer(train_app, name="train")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what failed.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Prior = Annotated[
    str | None,
    typer.Option(
        help="The image prior: a name of download-weights --list, or a folder that train wrote. (default: the method's)"
    ),
]
Sigma = Annotated[str, typer.Option(metavar="auto|VALUE", help="Standard deviation of the noise, where white is 1.")]
SameSeed = Annotated[int, typer.Option(help="Of everything random: the same seed, the same result.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist already.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say what was found out about each photo.")]


def _version(asked: bool) -> None:
    if asked:
        Console().say(f"blinddeblur {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def restore(
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos; - is standard input.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE_OR_DIR",
            help="Where results go; - is standard output. (default: beside each photo)",
        ),
    ] = None,
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(METHODS)}.")] = "fast",
    prior: Prior = None,
    kernel_prior: Annotated[
        str, typer.Option(metavar="|".join(CHOICES["kernel_prior"]), help="What blinddps believes of the kernel.")
    ] = "diffusion",
    sparsity: Annotated[
        str,
        typer.Option(metavar="|".join(CHOICES["sparsity"]), help="Of blinddps: what keeps the kernel to few pixels."),
    ] = "l1",
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Steps of the method. (default: 12; blinddps and dps 1000, ddnm and diffpir 100)"
        ),
    ] = None,
    kernel_size: Annotated[
        str, typer.Option(metavar="auto|ODD", help="Side in pixels of the array the kernel has to fit into.")
    ] = "auto",
    kernel: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A known kernel (.npy or picture) instead of an estimate.")
    ] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Estimate the kernel on this part of the photo, in pixels.")
    ] = None,
    sigma: Sigma = "auto",
    noise: Annotated[
        str, typer.Option(metavar="gaussian|poisson", help="Of dps: which noise it expects.")
    ] = "gaussian",
    linear: Annotated[
        bool | None,
        typer.Option(
            "--linear/--encoded", help="What was blurred: linear light, or the file's values. (default: find)"
        ),
    ] = None,
    device: Device = "auto",
    seed: SameSeed = 0,
    samples: Annotated[
        int, typer.Option(metavar="N", help="Also N other images that explain the photo, and an uncertainty map.")
    ] = 0,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also how far each pixel can be trusted; quicker than with samples.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also NAME.compare.png: before, after and kernel side by side.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="First NAME.preview.jpg, a small result of a few seconds.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE.gif", help="Animate how image and kernel of one photo came about.")
    ] = None,
    kernel_map: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the kernels of one photo where its blur varies.")
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also photos in folders of the folders.")
    ] = False,
    include: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Of folders, only photos whose names match.")
    ] = None,
    overwrite: Overwrite = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first photo that fails.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, and how long it takes.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="A page about all photos, with sliders before and after.")
    ] = None,
    workers: Annotated[
        int, typer.Option(metavar="N", help="Restore N photos at once: a process for each GPU, or sharing the CPU.")
    ] = 0,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Send photos to the workers of this dask scheduler.")
    ] = None,
    tile: Annotated[
        str, typer.Option(metavar="auto|N", help="Side in pixels of the tiles that are restored one by one.")
    ] = "auto",
    overlap: Annotated[
        str, typer.Option(metavar="auto|N", help="Pixels over which tiles fade into each other.")
    ] = "auto",
    max_megapixels: Annotated[
        int | None, typer.Option(metavar="N", help="Refuse larger photos before they take memory. (default: 200)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each photo.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Deblur photos: NAME.deblurred.EXT, NAME.kernel.png and NAME.kernel.npy are written for each.

    Folders given with -o are mirrored there. Photos of a folder that are finished already are
    skipped, so the same command goes on where it was stopped.

    With --samples also NAME.sample-1.EXT and so on. With these, or with --uncertainty alone,
    how far each pixel can be trusted: NAME.uncertainty.npy, a standard deviation on the scale
    where white is 1, and NAME.uncertainty.png, whose white is 0.1 of that and more.

    Exit codes: 0 all restored, 1 some failed, 2 wrong usage, 3 weights missing or not as listed.
    """
    from blinddeblur.commands.plan import Wishes, plan, to_standard_output

    streamed = to_standard_output(photos, output)
    console = Console(quiet, verbose, as_json, out=sys.stderr if streamed else sys.stdout)

    def work() -> int:
        from blinddeblur.commands.restore_photos import Way, forecast, run
        from blinddeblur.files.kernel_files import read_kernel

        settings = Settings(
            method=method,
            prior=prior,
            kernel_prior=kernel_prior,
            sparsity=sparsity,
            steps=steps,
            noise=noise,
            kernel_size=_number("--kernel-size", kernel_size, int),
            kernel=None if kernel is None else read_kernel(kernel),
            sigma=_number("--sigma", sigma, float),
            linear=linear,
            device=device,
            seed=seed,
            samples=samples,
            uncertainty=uncertainty,
            crop=_region(crop),
            tile=_number("--tile", tile, int),
            overlap=_number("--overlap", overlap, int),
        )
        if as_json and streamed:
            raise UsageError("Standard output cannot hold a photo and JSON. Give a file as -o, or leave out --json.")
        if preview and (kernel is not None or not settings.traits.refines):
            raise UsageError("A preview shows what the estimate of the method fast leads to. Leave out --preview.")
        wishes = Wishes(
            samples, uncertainty, compare, preview, record, kernel_map, overwrite, _most_pixels(max_megapixels)
        )
        way = Way(workers, dask, fail_fast, report)
        jobs = plan(photos, output, wishes, recursive, include)
        return forecast(jobs, settings, console) if dry_run else run(jobs, settings, console, way)

    _finish(console, work)


@app.command()
def turbulence(
    inputs: Annotated[
        list[Path],
        typer.Argument(help='A folder of frames, a video, a stack, a pattern such as "a*.png", or pictures.'),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for the results. (default: NAME.deblurred beside the input)"
        ),
    ] = None,
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(SEQUENCE_METHODS)}.")] = "fast",
    prior: Prior = None,
    tilt_prior: Annotated[
        str | None,
        typer.Option(metavar="NAME_OR_DIR", help="Of blinddps. (default: the tilt of Kolmogorov turbulence)"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps of the estimate. (default: 12; blinddps 1000)")
    ] = None,
    kernel: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A known blur (.npy or picture) that all frames share.")
    ] = None,
    sigma: Sigma = "auto",
    frames: Annotated[
        str | None,
        typer.Option(metavar="FIRST:END[:STEP]", help="Only these frames, counted from 0; END is not included."),
    ] = None,
    device: Device = "auto",
    seed: SameSeed = 0,
    stabilised: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also a film (.mp4 or .gif) of the frames without their tilt.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE.gif", help="Animate how image and kernel came about.")
    ] = None,
    overwrite: Overwrite = False,
    max_megapixels: Annotated[
        int | None, typer.Option(metavar="N", help="Refuse larger frames before they take memory. (default: 200)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Restore one scene from frames seen through hot air: restored.png, kernel.png and tilt.png in a folder.

    kernel.npy holds the blur, tilt.npz how far each frame is displaced where, in pixels.
    Up to 200 frames; one that cannot be read is named and left out.
    What is finished already is skipped.

    Exit codes: 0 restored, 1 failed, 2 wrong usage, 3 weights missing or not as listed.
    """
    console = Console(quiet, verbose, as_json)

    def work() -> int:
        from blinddeblur.commands.restore_frames import plan, run
        from blinddeblur.files.kernel_files import read_kernel

        settings = SequenceSettings(
            method=method,
            prior=prior,
            tilt_prior=tilt_prior,
            steps=steps,
            kernel=None if kernel is None else read_kernel(kernel),
            sigma=_number("--sigma", sigma, float),
            device=device,
            seed=seed,
        )
        job = plan(
            inputs,
            output,
            stabilised=stabilised,
            recording=record,
            chosen=_frames(frames),
            overwrite=overwrite,
            most_pixels=_most_pixels(max_megapixels),
        )
        return run(job, settings, console)

    _finish(console, work)


@app.command()
def sample(
    kind: Annotated[str, typer.Argument(metavar="image|kernel|tilt", help="What to draw.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the samples: sample-1.png and so on.")
    ],
    prior: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_DIR",
            help="The prior. (default: photo; kernel; for tilts a closed form, Kolmogorov's turbulence)",
        ),
    ] = None,
    number: Annotated[int, typer.Option(metavar="N", help="How many; more go on where fewer ended.")] = 1,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Steps of the reverse diffusion. (default: 100; none for that closed form)"),
    ] = None,
    size: Annotated[
        int | None, typer.Option(metavar="N", help="Side in pixels. (default: 128, or what the prior knows)")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random: the same seed, the same samples.")] = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace samples that exist already.")] = False,
    quiet: Quiet = False,
) -> None:
    """Draw samples of a prior out of pure noise, without any photo: they show what it knows.

    Kernels come with sample-N.npy, tilts in pixels with sample-N.npz.
    What is finished already is skipped.
    """
    console = Console(quiet)

    def work() -> int:
        from blinddeblur.commands.draw_samples import Sampling, run

        return run(Sampling(kind, output, prior, number, steps, size, seed, device, overwrite), console)

    _finish(console, work)


@app.command("download-weights")
def download_weights(
    names: Annotated[list[str] | None, typer.Argument(help="Entries of weights.toml.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="List every prior and what is on the disk.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare files with their checksums.")] = False,
    from_file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Take this file, downloaded by other means.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Accept a file whose checksum nobody has published; it is pinned then.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Download published checkpoints into the cache folder, or show and check what is there.

    The folder is the platform's cache, or BLINDDEBLUR_CACHE.
    """
    console = Console(quiet)

    def work() -> int:
        from blinddeblur.commands import get_weights

        if listed or verify:
            return get_weights.show(names or [], console, hashed=verify)
        return get_weights.get(names or [], from_file, console, trust=trust)

    _finish(console, work)


Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for all that comes out, or to go on in.")
]
Minutes = Annotated[float, typer.Option(metavar="N", help="For the whole training, earlier runs included.")]
Widths = Annotated[
    str | None, typer.Option(metavar="N,N,...", help="Features of the network at each resolution, finest first.")
]
Share = Annotated[
    list[str] | None,
    typer.Option(metavar="FOLDER=WEIGHT", help="How often a subfolder is drawn from; others are then left out."),
]
Start = Annotated[
    str | None, typer.Option("--from", metavar="NAME_OR_DIR", help="Start from the weights of this prior.")
]
Name = Annotated[str | None, typer.Option(help="What the prior is called. (default: as the folder)")]
Workers = Annotated[
    int | None, typer.Option(metavar="N", help="Processes that make examples. (default: 0; up to 16 with a GPU)")
]
LearningRate = Annotated[float, typer.Option(metavar="X", help="The largest; lower it if the training diverges.")]
SaveEvery = Annotated[float, typer.Option(metavar="SECONDS", help="How much is lost at most when all stops.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Licence = Annotated[str, typer.Option(metavar="TEXT", help="Of the weights, for weights.toml.")]


@train_app.command("image")
def train_image(
    photos: Annotated[Path, typer.Argument(help="A folder of sharp photos, subfolders included.")],
    output: Output,
    minutes: Minutes = Options.minutes,
    widths: Widths = None,
    crop: Annotated[int, typer.Option(metavar="PIXELS", help="Side of the crops that are learned from.")] = 64,
    batch: Annotated[int, typer.Option(metavar="N", help="Examples in a step.")] = 16,
    share: Share = None,
    start: Start = None,
    name: Name = None,
    device: Device = Options.device,
    workers: Workers = None,
    learning_rate: LearningRate = Options.learning_rate,
    save_every: SaveEvery = Options.save_every,
    seed: Seed = Options.seed,
    licence: Licence = Options.licence,
    quiet: Quiet = False,
) -> None:
    """Train an image prior on your photos; then: restore --prior DIR.

    The same command again goes on where an earlier one was stopped, by whatever.
    """
    _train("image", **locals())


@train_app.command("kernel")
def train_kernel(
    output: Output,
    photos: Annotated[
        Path | None, typer.Argument(help="A folder of sharp photos to blur, subfolders included.")
    ] = None,
    minutes: Minutes = Options.minutes,
    widths: Widths = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Examples in a step. (default: 16; 8 with PHOTOS)")
    ] = None,
    share: Share = None,
    start: Start = None,
    name: Name = None,
    device: Device = Options.device,
    workers: Workers = None,
    learning_rate: LearningRate = Options.learning_rate,
    save_every: SaveEvery = Options.save_every,
    seed: Seed = Options.seed,
    licence: Licence = Options.licence,
    quiet: Quiet = False,
) -> None:
    """Train a kernel prior on random blur kernels; with PHOTOS one that looks at the blurred photo.

    The same command again goes on where an earlier one was stopped, by whatever.
    """
    _train("kernel", **locals())


@train_app.command("spectra")
def train_spectra(
    photos: Annotated[Path, typer.Argument(help="A folder of sharp photos, subfolders included.")],
    output: Output,
    share: Share = None,
    name: Name = None,
    seed: Seed = Options.seed,
    licence: Licence = Options.licence,
    quiet: Quiet = False,
) -> None:
    """Learn the spectra of sharp photos, by which the judge tells blur from none: a minute or two."""
    _train("spectra", **locals())


@train_app.command("judge")
def train_judge(
    photos: Annotated[Path, typer.Argument(help="A folder of sharp photos, subfolders included.")],
    output: Output,
    minutes: Minutes = Options.minutes,
    share: Share = None,
    name: Name = None,
    device: Device = Options.device,
    seed: Seed = Options.seed,
    licence: Licence = Options.licence,
    quiet: Quiet = False,
) -> None:
    """Learn what restorations are worth, by blurring photos and looking for their blur.

    The same command with more --minutes goes on where an earlier one ended, by whatever.
    """
    _train("judge", **locals())


def _train(kind: str, quiet: bool, **chosen: Any) -> None:
    """Train with the options of a command, by their names."""
    console = Console(quiet)

    def work() -> int:
        from blinddeblur.commands import train_prior

        return train_prior.run(kind, console, **chosen)

    _finish(console, work, TRAINING_KEPT)


def _number(option: str, text: str, kind: Callable[[str], Any]) -> Any:
    """None for "auto", else the number."""
    if text == "auto":
        return None
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(f"{option} takes auto or a number, not {text!r}.") from error


def _most_pixels(megapixels: int | None) -> int:
    from blinddeblur.files.photo import MAXIMUM_PIXELS

    if megapixels is not None and megapixels < 1:
        raise UsageError(f"--max-megapixels must be 1 or more, not {megapixels}.")
    return MAXIMUM_PIXELS if megapixels is None else megapixels * 1_000_000


def _frames(text: str | None) -> slice:
    """FIRST:END[:STEP], each of which may be missing."""
    if text is None:
        return slice(None)
    numbers = text.split(":")
    if not 2 <= len(numbers) <= 3 or not all(re.fullmatch("[0-9]{0,9}", number) for number in numbers):
        raise UsageError(
            f"--frames takes whole numbers FIRST:END or FIRST:END:STEP, such as 0:50 or ::2, not {text!r}."
        )
    chosen = slice(*(int(number) if number else None for number in numbers))
    if chosen.step == 0:
        raise UsageError("The step of --frames must be 1 or more.")
    return chosen


def _region(text: str | None) -> tuple[int, int, int, int] | None:
    try:
        if text is None:
            return None
        x, y, width, height = (int(number) for number in text.split(","))
    except ValueError as error:
        raise UsageError(f"--crop takes four whole numbers, x,y,width,height, not {text!r}.") from error
    return x, y, width, height


def _finish(console: Console, work: Callable[[], int], interrupted: str = RESULTS_KEPT) -> None:
    """Do the work and leave with its exit code: the one place where errors of this package end."""
    try:
        code = work()
    except BlindDeblurError as error:
        console.error(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        console.error(f"Interrupted. {interrupted}")
        code = INTERRUPTED
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the command `blinddeblur`."""
    machine.prepare()
    try:
        app()
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(SOME_FAILED)
