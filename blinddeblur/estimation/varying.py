"""The kernels of a photo whose blur varies: those of several regions, refined together as those of one turning camera.

One region alone tells less of its kernel than the whole photo does. But a camera that moves and turns has one density
of poses (physics/camera.py), to which every region adds; it also aligns the kernels with each other, overrules those
that fit no such camera, and has kernels for places where nothing was seen.
"""

import math
from collections.abc import Callable
from statistics import mean

import torch
from torch import Tensor

from blinddeblur.estimation.candidates import image_term
from blinddeblur.estimation.first_kernel import SIZES, first_kernel
from blinddeblur.estimation.judging import short_restoration
from blinddeblur.physics import camera, kernels
from blinddeblur.physics.convolution import Blur
from blinddeblur.physics.kernel_map import KernelMap
from blinddeblur.physics.measurement import WRONG_KERNEL, Measurement, model_error
from blinddeblur.samplers import fast
from blinddeblur.samplers.proximal import kernel_step
from blinddeblur.samplers.restoration import first_image
from blinddeblur.samplers.schedule import Denoiser, log_spaced

STEPS = 3  # of the joint refinement; with six the turning shrinks (RESULTS.md)
FARTHEST = 16.0  # pixels that a corner of the photo may move by turning, to either side
TURNS = 17  # turns of the camera that are told apart: two pixels at a corner from one to the next
SIZE = SIZES[0] + 16  # pixels of the side of kernels: eight more to either side than guesses, for what turning adds
FOLDS = 3  # parts of the guesses, each foretold by the others
LEAST_GUESSES = 6  # so that four foretell two
# Share of the disagreement of kernels that turning explains: .033 at most in six training photos that nothing turned,
# .083 and more in three of six that a camera turned; the kernels of the others agree on nothing (RESULTS.md).
LEAST_GAIN = 0.07
JUDGED = 3  # regions of which one is judged in: four of twelve
# Sharper kernels leave more edges, for which evidence blames them. Of three training photos one lost .11 of it and
# gained 2.9 dB, one lost .40 and 0.4 dB, one lost 1.1 and 0.8 dB.
MOST_LOSS = 0.25
# Pixels between the nodes of the map. With the true kernels of a photo of 464 pixels, 3 nodes along a side came to 27.7
# dB, 5 to 29.3 and 9 to 31.4, but what is estimated is not known so finely.
SPACING = 110
MOST_NODES = 8  # along a side, since every node of a tile may add a convolution
STRICTNESS = 8  # power of a kernel's agreement with the others that is its weight: .8 counts a sixth of 1
ROUNDS = 3  # of weighing the kernels


def estimate(
    denoise: Denoiser,
    regions: list[Measurement],
    centres: list[tuple[float, float]],
    frame: tuple[int, int],
    single: Tensor,
    sigma: float,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    least_gain: float = LEAST_GAIN,
    most_loss: float = MOST_LOSS,
) -> KernelMap | None:
    """The kernels of a photo whose camera turned; None where nothing says that it did.

    Args:
        regions: parts of the photo, grey, (1, 1, h, w) each, all of the same size.
        centres: rows and columns of their middles in the photo.
        frame: height and width of the photo.
        single: (K, K), the kernel that serves otherwise.
        sigma: standard deviation of the noise of the regions.
        generator: of the injected noise, on the CPU.
        progress: told of parts of the work done and in all.
        least_gain: share of the disagreement of kernels that turning has to explain.
        most_loss: of evidence, for a pixel, that the kernels may cost.
    """
    device = regions[0].y.device
    middle = torch.tensor([(side - 1) / 2 for side in frame])
    places = (torch.tensor(centres) - middle).to(device)
    progress(0, 1 + STEPS)
    y = torch.cat([region.y for region in regions])
    found = first_kernel(y, min(SIZES[0], kernels.largest(y.shape)))
    seen = kernels.remains(found)  # where nothing is to be seen, the others will tell
    guesses = kernels.fitted(found[seen], SIZE)
    turns = torch.linspace(-1, 1, TURNS, device=device) * FARTHEST / (math.hypot(*frame) / 2)
    if len(guesses) < LEAST_GUESSES or gain_by_turning(guesses, places[seen], turns) < least_gain:
        return None
    start = consensus(guesses, places[seen], turns)

    def report(done: int) -> None:
        progress(1 + done, 1 + STEPS)

    poses = _refined(denoise, regions, places, start, sigma, generator, report)
    judged = range(0, len(regions), JUDGED)
    local = poses.kernels(places)

    def evidence(index: int, kernel: Tensor) -> float:
        _, rest, roughness = short_restoration(denoise, regions[index], kernel, sigma)
        return image_term(float(rest), float(roughness), sigma)

    gain = mean(evidence(index, local[index]) - evidence(index, single) for index in judged)
    return None if gain < -most_loss else mapped(poses, frame)


def gain_by_turning(found: Tensor, places: Tensor, turns: Tensor) -> float:
    """How much better a turning camera foretells kernels than one that only moves: at most 1.

    It is the share of the disagreement (1 - MNC) that turning explains. Kernels that are foretold had no part in the
    fit, so that it is about 0, or less, where all differ only by their errors.
    """
    folds = torch.arange(len(found), device=found.device) % FOLDS
    gained = disagreement = 0.0
    for fold in range(FOLDS):
        left = folds == fold
        turning, still = (
            kernels.agreement(consensus(found[~left], places[~left], choice).kernels(places[left]), found[left])
            for choice in (turns, turns.new_zeros(1))
        )
        gained += float((turning - still).sum())
        disagreement += float((1 - still).sum())
    return gained / max(disagreement, 1e-6)


def mapped(poses: camera.Poses, frame: tuple[int, int]) -> KernelMap:
    """The kernels of a camera's poses at nodes from corner to corner of a frame (H, W)."""
    rows, columns = (
        torch.linspace(0, side - 1, min(MOST_NODES, 1 + math.ceil(side / SPACING))).to(poses.turns) for side in frame
    )
    places = torch.cartesian_prod(rows - rows.mean(), columns - columns.mean())
    each = poses.kernels(places)
    reach = max(kernels.trimmed(k, 0).shape[-1] for k in each)
    each = torch.stack([kernels.fitted(k, reach) for k in each])
    return KernelMap(each.reshape(len(rows), len(columns), reach, reach), rows, columns)


def consensus(found: Tensor, places: Tensor, turns: Tensor) -> camera.Poses:
    """The poses that explain most of the kernels (P, S, S) at places (P, 2): those that do not agree count for less."""
    weights = torch.ones(len(found)).to(found)
    for _ in range(ROUNDS):
        poses = camera.fit(found, places, weights, turns)
        agreements = kernels.agreement(poses.kernels(places), found)
        weights = (agreements / agreements.max()) ** STRICTNESS
    return poses


def _refined(
    denoise: Denoiser,
    regions: list[Measurement],
    places: Tensor,
    poses: camera.Poses,
    sigma: float,
    generator: torch.Generator | None,
    progress: Callable[[int], None],
) -> camera.Poses:
    """Refine poses, and images of the regions at places (P, 2), together, as `fast.refined` does with kernels."""
    y = Measurement(torch.cat([r.y for r in regions]), torch.cat([r.clipped for r in regions]), regions[0].linear)
    local = poses.kernels(places)
    x, error = first_image(denoise, y, Blur.uniform(local), sigma), model_error(sigma, WRONG_KERNEL)
    noise = fast.fresh_noise(x, STEPS, generator)
    for index, level in enumerate(log_spaced(*fast.SIGMAS, STEPS)):
        x0 = denoise(x + level * noise[index], level)
        found = kernels.clean(kernel_step(x0, y, local))
        found = torch.where(found.isfinite(), found, local)  # where nothing is left of a kernel, it stays
        poses = consensus(found, places, poses.turns)
        local = poses.kernels(places)
        x = fast.explaining(x0, y, Blur.uniform(local), error, level)
        progress(index + 1)
    return poses
