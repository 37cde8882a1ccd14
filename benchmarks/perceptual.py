"""ST-LPIPS: how different two pictures look, learned from people's judgements; shifts of a pixel hardly count.

LPIPS (Zhang et al., CVPR 2018, arXiv 1801.03924) with the features of an AlexNet that is blurred before it is
subsampled (Ghildyal and Liu, ECCV 2022, arXiv 2207.13686). The weights are those of the authors, in their package
stlpips_pytorch; none of its code is run.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.tiles import grid

NAME = "ST-LPIPS"

PACKAGE, WEIGHTS = "stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth"
# Their names of the convolutions, how far each is padded, and of the blurs before them; the first comes afterwards.
CONVOLUTIONS = (("slice1.0", 2), ("slice2.5", 2), ("slice3.9", 1), ("slice4.11", 1), ("slice5.13", 1))
BLURS = ("slice1.1", "slice2.4", "slice3.8", None, None)
TILE = 1024  # pixels of a side; larger pictures are measured in parts, since the features take 64 floats a pixel

Weights = dict[str, Tensor]


def distance(restored: NDArray[np.floating], truth: NDArray[np.floating]) -> float | None:
    """From 0, the same, to about 1; None where the package with the weights is not installed.

    Args:
        restored, truth: (H, W, C) of one size in [0, 1], with one channel or three, either.
    """
    weights = _weights()
    if weights is None:
        return None
    pair = torch.cat([_prepared(picture, weights) for picture in (restored, truth)])
    height, width = pair.shape[-2:]
    with torch.inference_mode():
        parts = [_distance(tile.of(pair), weights) for tile in grid(height, width, TILE, overlap=0)]
    return float(np.mean(parts))


@functools.cache
def _weights() -> Weights | None:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    loaded: Weights = torch.load(Path(found.origin).parent / WEIGHTS, map_location="cpu", weights_only=True)
    return loaded


def _prepared(picture: NDArray[np.floating], weights: Weights) -> Tensor:
    """(H, W, C) in [0, 1] -> (1, 3, H, W), scaled as the network has learned it."""
    x = torch.from_numpy(np.ascontiguousarray(picture, np.float32)).permute(2, 0, 1)[None].expand(1, 3, -1, -1)
    return (2 * x - 1 - weights["scaling_layer.shift"]) / weights["scaling_layer.scale"]


def _distance(pair: Tensor, weights: Weights) -> float:
    """Squared differences of unit-length features, weighted by channel, averaged over places and added over layers."""
    total = 0.0
    for layer, features in enumerate(_features(pair, weights)):
        restored, truth = features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
        by_place = (restored - truth).square() * weights[f"lin{layer}.model.1.weight"][0]
        total += float(by_place.sum(dim=0).mean())
    return total


def _features(x: Tensor, weights: Weights) -> list[Tensor]:
    """What each of the five layers makes of (B, 3, H, W)."""
    found: list[Tensor] = []
    for (name, padding), blur in zip(CONVOLUTIONS, BLURS, strict=True):
        if found and blur:
            x = _halved(F.max_pool2d(x, 3, stride=1), weights[f"net.{blur}.filt"])
        x = F.conv2d(x, weights[f"net.{name}.weight"], weights[f"net.{name}.bias"], padding=padding)
        if not found and blur:
            x = _halved(x, weights[f"net.{blur}.filt"])
        x = F.relu(x)
        found.append(x)
    return found


def _halved(x: Tensor, kernel: Tensor) -> Tensor:
    """Every second row and column of (B, C, H, W), blurred; kernel is (C, 1, K, K)."""
    around = kernel.shape[-1] - 1
    return F.conv2d(F.pad(x, (around,) * 4, "reflect"), kernel, stride=2, groups=x.shape[1])
