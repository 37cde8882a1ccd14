"""How long a restoration takes on this machine, by a quick look at it."""

import time

import torch

from blinddeblur.priors.prior import Prior
from blinddeblur.samplers import restoration
from blinddeblur.settings import DEFAULT_METHOD, Settings

UNIT = 256  # pixels of a square that the network is timed on
HYPOTHESES_COST = 200  # evaluations of the search prior over such a square that finding and judging kernels on it costs
REFINEMENT_COST = 40  # evaluations over the square that the kernel is estimated on


def seconds(
    prior: Prior,
    search_prior: Prior,
    settings: Settings,
    device: torch.device,
    height: int,
    width: int,
    estimation_side: int,
) -> float:
    """Roughly how many seconds a photo of that size takes.

    Args:
        prior: of the image.
        search_prior: that the kernel is looked for with.
        settings: of the restoration.
        device: that the prior is on, and that would do the work.
        height, width: of the photo, in pixels.
        estimation_side: of the square, in pixels, that the kernel is estimated on.
    """
    method, area = settings.traits, height * width / UNIT**2
    steps = restoration.STEPS if method.refines else settings.effective_steps
    took = _evaluation(prior, 3, device) * method.cost * steps * area * (1 + 2 * settings.samples)
    if settings.kernel is None and not method.joint:
        length = settings.kernel_steps / DEFAULT_METHOD.steps
        work = HYPOTHESES_COST * min(area, 1) + REFINEMENT_COST * min(area, (estimation_side / UNIT) ** 2)
        took += _evaluation(search_prior, 1, device) * length * work
    return took


def _evaluation(prior: Prior, channels: int, device: torch.device) -> float:
    """Seconds that a prior takes for the square, of grey or of three channels."""
    x = torch.full((1, channels, UNIT, UNIT), 0.5, device=device)
    with torch.inference_mode():
        prior.denoise(x, 0.1)  # the first time, memory has to be found
        start = time.monotonic()
        float(prior.denoise(x, 0.1).sum())  # waits for a GPU
    return time.monotonic() - start
