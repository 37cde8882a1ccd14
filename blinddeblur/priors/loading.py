"""Priors by name: the network of an entry of weights.toml with its weights."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from blinddeblur.devices import half_is_faster
from blinddeblur.errors import UsageError, WeightsError
from blinddeblur.priors.compact import CompactUNet
from blinddeblur.priors.conditioned import ConditionedKernelUNet
from blinddeblur.priors.guided_diffusion import GuidedDiffusion, GuidedDiffusionUNet
from blinddeblur.priors.judgement import Judgement
from blinddeblur.priors.photo_spectra import SIZE, PhotoSpectra
from blinddeblur.priors.prior import Network, Prior
from blinddeblur.weights.cache import checksum, load_state
from blinddeblur.weights.manifest import Entry, find

NAMED = 3  # tensors in a message of those that do not fit

NETWORKS: dict[str, Callable[..., Network]] = {  # by the architecture of weights.toml, to be called with its parameters
    "compact": CompactUNet,
    "conditioned": ConditionedKernelUNet,
    "guided-diffusion": lambda **parameters: GuidedDiffusion(GuidedDiffusionUNet(**parameters)),
}


def load_prior(name: str = "photo", device: str | torch.device = "cpu", kind: str | None = None) -> Prior:
    """A prior of weights.toml, or of the folder that a training wrote, ready to use.

    Args:
        name: in weights.toml, or the folder.
        device: to put it on.
        kind: that it has to be of, "image", "kernel" or "tilt"; None for any.

    Raises:
        UsageError: no prior has this name, or it is of another kind.
        WeightsError: its weights are not there (the message names the command that fetches them), or damaged.
    """
    entry = find(name)
    if kind not in (None, entry.kind):
        raise UsageError(f"{name} is a prior of kind {entry.kind}; here one of kind {kind} is needed.")
    network = build(entry)
    load_strictly(network.network if isinstance(network, GuidedDiffusion) else network, load_state(entry), entry.name)
    network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    image_size = None if isinstance(network, CompactUNet) else network.image_size
    half = not isinstance(network, GuidedDiffusion) and half_is_faster(torch.device(device))
    prior = Prior(entry.name, entry.kind, checksum(entry), network, network.channels, image_size, half)
    if entry.grey is None:
        return prior
    return replace(prior, grey=load_prior(entry.grey["prior"], device, "image"), above=entry.grey["above"])


def load_spectra(name: str = "photo-spectra", device: str | torch.device = "cpu") -> PhotoSpectra:
    """A prior over the spectra of sharp photos, by name or folder as in `load_prior`, whose errors it raises."""
    state = _state(name, "spectra")
    spectra = PhotoSpectra(torch.zeros(SIZE), torch.zeros(SIZE, SIZE))
    for tensor, key in ((spectra.mean, "mean"), (spectra.precision, "precision")):
        if key not in state or state[key].shape != tensor.shape:
            raise WeightsError(f"The weights {name} hold no {key} of {list(tensor.shape)} numbers.")
        tensor.copy_(state[key])
    return spectra.to(torch.device(device))


def load_judgement(name: str = "judge") -> Judgement:
    """What is expected of restorations, by name or folder as in `load_prior`, whose errors it raises."""
    state = _state(name, "judge")
    judgement = Judgement(len(state.get("weights", ())))
    load_strictly(judgement, state, name)
    return judgement.eval().requires_grad_(False)


def _state(name: str, kind: str) -> Mapping[str, Tensor]:
    """The tensors of an entry of that kind."""
    entry = find(name)
    if entry.kind != kind:
        raise UsageError(f"{name} is a prior of kind {entry.kind}; here one of kind {kind} is needed.")
    return load_state(entry)


def build(entry: Entry) -> Network:
    """The network of an entry of weights.toml, with weights still to be loaded."""
    try:
        return NETWORKS[entry.architecture](**entry.parameters)
    except (TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"The entry {entry.name} of weights.toml describes no network ({error}).") from error


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Copies the tensors of `state` into `network`; `name` is what a message calls them, such as the file's name.

    Raises WeightsError where a tensor is missing, left over or of another shape; the network is then unchanged.
    """
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    faults = {
        "missing": [key for key in shapes if key not in state],
        "unexpected": [key for key in state if key not in shapes],
        "of another shape": [
            f"{key} {list(state[key].shape)} instead of {list(shape)}"
            for key, shape in shapes.items()
            if key in state and state[key].shape != shape
        ],
    }
    found = [
        f"{len(keys)} {fault} ({', '.join(keys[:NAMED]) + ', ...' * (len(keys) > NAMED)})"
        for fault, keys in faults.items()
        if keys
    ]
    if found:
        raise WeightsError(
            f"The weights {name} do not fit their network; tensors: {'; '.join(found)}. "
            "Check that this is the file listed in weights.toml, and that the settings there are those of its network."
        )
    network.load_state_dict(state, strict=True)
