"""How an image prior and a kernel prior are made: which data, which network, and what is written where.

Prints nothing; the command line and Python share it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from blinddeblur.devices import find_device, half_is_faster
from blinddeblur.errors import UsageError
from blinddeblur.priors.compact import CompactUNet
from blinddeblur.priors.loading import NETWORKS, load_strictly
from blinddeblur.training.data import NAMED, Data, Warn, image_data, kernel_data, pair_data
from blinddeblur.training.loop import Loss, TrainingStatus, read_checkpoint, train
from blinddeblur.training.losses import DenoisingLoss, conditioned_loss
from blinddeblur.training.options import Options
from blinddeblur.training.prior_folder import PriorFolder, record
from blinddeblur.training.validation import validate
from blinddeblur.weights.cache import load_state
from blinddeblur.weights.manifest import find


@dataclass(frozen=True)
class Recipe:
    """What makes one kind of prior.

    Attributes:
        title: what it makes, for people.
        kind, architecture: as in weights.toml.
        parameters: of the network.
        levels: noise levels of the validation.
        loss: makes the loss of one training.
        data: makes what is learned from, of photos, options and a seed.
    """

    title: str
    kind: str
    architecture: str
    parameters: Mapping[str, Any]
    levels: Sequence[float]
    loss: Callable[[], Loss]
    data: Callable[[Any, Options, Sequence[int], Warn], Data]


KERNEL_STATISTICS = {"mean": 0.02, "sigma_data": 0.1}  # of kernels divided by their maximum; measured over thousands
KERNEL_LEVELS = (0.05, 0.2, 0.5)

IMAGE = Recipe(
    title="an image prior",
    kind="image",
    architecture="compact",
    # Takes three times as long as the one in the package, and is better.
    parameters={"channels": 3, "widths": [96, 128, 192, 256], "blocks": 2},
    levels=tuple(level / 255 for level in (5, 15, 25, 50, 75, 100, 150)),
    loss=DenoisingLoss,
    data=image_data,
)
KERNEL = Recipe(
    title="a kernel prior without photos",
    kind="kernel",
    architecture="compact",
    parameters={"channels": 1, "widths": [32, 64, 128, 192], "blocks": 2, **KERNEL_STATISTICS},
    levels=KERNEL_LEVELS,
    loss=DenoisingLoss,
    data=lambda photos, options, seed, warn: kernel_data(options, seed),
)
CONDITIONED_KERNEL = Recipe(
    title="a kernel prior conditioned on photos",
    kind="kernel",
    architecture="conditioned",
    parameters={"edge_widths": [32, 64, 96, 128], "widths": [32, 64, 96, 128], "blocks": 2, **KERNEL_STATISTICS},
    levels=(*KERNEL_LEVELS, 2.0),  # at the last the noisy kernel says nothing, and everything comes from the photo
    loss=lambda: conditioned_loss,
    data=pair_data,
)


@dataclass(frozen=True)
class Trained:
    """What came out of a training.

    Attributes:
        figures: as in validation.json.
        paths: every file that was written.
        status: how far the training is.
        news: whether there was time left to train, or an earlier run had finished.
    """

    figures: dict[str, Any]
    paths: list[Path]
    status: TrainingStatus
    news: bool


def train_prior(
    kind: str,
    photos: Path | None,
    options: Options,
    progress: Callable[[str, float, float, str], None] = lambda stage, done, total, note: None,
    warn: Warn = lambda sentence: None,
) -> Trained:
    """Train a prior of photographs, or one of blur kernels, on random ones.

    A kernel prior that gets photos is one that is conditioned on the blurred photo (priors/conditioned.py).

    Args:
        kind: "image" or "kernel".
        photos: folder of sharp photographs; one in twenty is held out for validation. None only for kernels.
        options: all else; see Options.
        progress: told the name of the stage, how much of it is done and in all, and how it goes.
        warn: told in sentences what was left out or does not work.

    Raises:
        UsageError: options that do not fit each other, or what the folder holds.
        PhotoError: there is no photo to learn from.
        WeightsError: a checkpoint or the weights to start from are damaged.
        OutputError: the folder cannot be written, or holds other things.
        EstimationError: the training diverged.
    """
    if photos is None and options.shares:
        raise UsageError("A --share is one of PHOTOS, and there are none. Give their folder, or leave out --share.")
    recipe = {"image": IMAGE, "kernel": KERNEL if photos is None else CONDITIONED_KERNEL}[kind]
    device = find_device(options.device)
    folder = PriorFolder(options.output)
    with folder.opened() as log:
        fresh = not folder.begun()
        if fresh:
            about, step, seconds = _begin(recipe, options), 0, 0.0
        else:
            about, step, seconds = _go_on(recipe, options, read_checkpoint(folder.checkpoint))
        network = _network(about, options, fresh)
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        data = recipe.data(photos, options, (options.seed, step), warn)
        batches = data.batches(options.workers, device, warn)
        if about["parameters"].get("channels") == 1 < data.clean.shape[1]:
            data.clean = data.clean.mean(dim=1, keepdim=True)
            batches = (crops.mean(dim=1, keepdim=True) for crops in batches)
        unfinished = seconds < 60 * options.minutes
        precision = torch.bfloat16 if unfinished and half_is_faster(device) else torch.float32
        trained: list[Trained] = []

        def report(status: TrainingStatus) -> None:
            note = f"step {status.step}, loss {status.loss:.4f}"
            progress("minutes", round(status.minutes, 1), options.minutes, note)
            record(log, status)

        def publish(average: nn.Module, status: TrainingStatus) -> None:
            facts = {"validated_on": data.validated, "steps": status.step, "minutes": round(status.minutes, 2)}
            result = validate(average, data.clean, recipe.levels, precision, data.photos, **facts)
            weights = {key: value.half() for key, value in average.state_dict().items()}
            entry = _entry(about, data, options, status)
            paths = folder.publish(weights, entry, about["name"], result.figures, result.samples)
            trained[:] = [Trained(result.figures, paths, status, unfinished)]

        train(
            network,
            batches,
            recipe.loss(),
            folder.checkpoint,
            minutes=options.minutes,
            learning_rate=options.learning_rate,
            precision=precision,
            compiled=device.type == "cuda",
            save_every=options.save_every,
            seed=options.seed,
            about=about,
            report=report,
            saved=publish,
            warn=warn,
        )
    if len(data.left_out) > NAMED:
        warn(f"In all, {len(data.left_out)} files could not be read as photos and were left out.")
    return trained[-1]


def _entry(about: Mapping[str, Any], data: Data, options: Options, status: TrainingStatus) -> dict[str, Any]:
    """What weights.toml says of the prior, but for its file."""
    trained_on = f"{data.described(status.examples)}; {status.step:,} steps, {status.minutes:.3g} minutes"
    return {
        "kind": about["kind"],
        "architecture": about["architecture"],
        "parameters": about["parameters"],
        "licence": options.licence,
        "trained_on": trained_on + (f"; started from {about['start']}" if about["start"] else ""),
    }


def _begin(recipe: Recipe, options: Options) -> dict[str, Any]:
    """What a checkpoint says of its training, for a new one."""
    parameters = dict(recipe.parameters)
    if options.start is not None:
        entry = find(options.start)
        if (entry.kind, entry.architecture) != (recipe.kind, recipe.architecture):
            raise UsageError(
                f"{options.start} is a prior of kind {entry.kind} and architecture {entry.architecture}. Start "
                f"{recipe.title} from one of kind {recipe.kind} and architecture {recipe.architecture}."
            )
        parameters = entry.parameters
        _require_widths(options, parameters, options.start)
    elif options.widths is not None:
        parameters |= {key: list(options.widths) for key in parameters.keys() & {"widths", "edge_widths"}}
    return {
        "title": recipe.title,
        "kind": recipe.kind,
        "architecture": recipe.architecture,
        "parameters": parameters,
        "name": options.effective_name,
        "start": options.start,
    }


def _go_on(recipe: Recipe, options: Options, checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any], int, float]:
    """What the checkpoint says of its training, if that is the one that is asked for, and its steps and seconds."""
    about: dict[str, Any] = checkpoint["about"]
    if (about.get("kind"), about.get("architecture")) != (recipe.kind, recipe.architecture):
        raise UsageError(
            f"{options.output} holds the training of {about.get('title', 'another network')}, not of {recipe.title}. "
            "Choose another folder with -o."
        )
    _require_widths(options, about["parameters"], f"the training in {options.output}")
    if options.start not in (None, about["start"]):
        raise UsageError(
            f"The training in {options.output} started from {about['start'] or 'nothing'}, not from {options.start}. "
            "Leave out --from to go on with it, or choose another folder with -o."
        )
    return about | {"name": options.name or about["name"]}, checkpoint["step"], checkpoint["seconds"]


def _require_widths(options: Options, parameters: Mapping[str, Any], owner: str) -> None:
    if options.widths is not None and list(options.widths) != list(parameters["widths"]):
        widths = ",".join(str(width) for width in parameters["widths"])
        raise UsageError(f"The network of {owner} has --widths {widths}. Give these, or leave them out.")


def _network(about: Mapping[str, Any], options: Options, fresh: bool) -> nn.Module:
    """The network, with random weights or those to start from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = NETWORKS[about["architecture"]](**about["parameters"])
    if isinstance(network, CompactUNet) and options.crop % network.multiple:
        raise UsageError(f"The --crop must be a multiple of {network.multiple} for these --widths.")
    if fresh and about["start"] is not None:
        load_strictly(network, load_state(find(about["start"])), about["start"])
    return network
