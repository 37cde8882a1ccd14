"""What `train` does: read its options, train, and show how good the prior is."""

import re
from pathlib import Path
from typing import Any

from blinddeblur.commands.console import Console
from blinddeblur.errors import UsageError
from blinddeblur.training.options import Options

TITLES = {
    "sigma": "noise",
    "noisy_psnr": "noisy, PSNR in dB",
    "psnr": "denoised, PSNR in dB",
    "correlation": "agreement of shape",
}


def run(
    kind: str,
    console: Console,
    photos: Path | None,
    share: list[str] | None,
    widths: str | None = None,
    **chosen: Any,
) -> int:
    """Train a prior of a kind, of widths N,N,... and with each share FOLDER=WEIGHT; returns the exit code.

    Args:
        kind: "image", "kernel", "spectra" or "judge".
        chosen: further fields of Options.

    For the errors see `recipes.train_prior`, `spectra.train_spectra` and `judge.train_judge`.
    """
    options = Options(widths=_widths(widths), shares=_shares(share or []), **chosen)
    if kind in ("spectra", "judge") and photos is not None:
        return _told(kind, console, photos, options)
    from blinddeblur.training.recipes import train_prior

    with console.work(str(options.output)) as work:
        trained = train_prior(kind, photos, options, work.stage, console.warning)
    if console.quiet:
        return 0
    levels = trained.figures["levels"]
    console.table([TITLES[key] for key in levels[0]], [[f"{level[key]:.3f}" for key in level] for level in levels])
    for path in trained.paths:
        console.say(str(path))
    if not trained.news:
        spent = f"{trained.status.minutes:.3g} of {options.minutes:g} minutes were spent already"
        console.warning(f"There was nothing left to do: {spent}. Give a larger --minutes to go on.")
    return 0


def _told(kind: str, console: Console, photos: Path, options: Options) -> int:
    """What needs no network of its own: a table of how good it is, and the files."""
    from blinddeblur.training.judge import train_judge
    from blinddeblur.training.spectra import train_spectra

    train = {"spectra": train_spectra, "judge": train_judge}[kind]
    with console.work(str(options.output)) as work:
        figures, paths = train(photos, options, work.stage, console.warning)
    if not console.quiet:
        numbers = {name: value for name, value in figures.items() if not isinstance(value, list)}
        console.table(["", ""], [[name.replace("_", " "), f"{value:.3g}"] for name, value in numbers.items()])
        for path in paths:
            console.say(str(path))
    return 0


def _widths(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(width) for width in text.split(","))
    except ValueError as error:
        raise UsageError(f"--widths takes whole numbers, such as 32,64,128,192, not {text!r}.") from error


def _shares(texts: list[str]) -> dict[str, float]:
    """The weight of each folder of FOLDER=WEIGHT."""
    shares = {}
    for text in texts:
        folder, _, weight = text.rpartition("=")
        if not folder or not re.fullmatch(r"\d+\.?\d*|\.\d+", weight):
            raise UsageError(f"--share takes FOLDER=WEIGHT, such as faces=0.2, not {text!r}.")
        shares[folder] = float(weight)
    return shares
