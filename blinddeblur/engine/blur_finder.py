"""The blur of a photo that nobody knows, and what taking it away promises: found on a telling part of the photo."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from blinddeblur.engine.crops import asked_region, informative_crop, informative_regions
from blinddeblur.engine.known_kernel import checked_size
from blinddeblur.engine.pixels import Pixels
from blinddeblur.errors import EstimationError
from blinddeblur.estimation.candidates import Candidate, Verdict
from blinddeblur.estimation.hypotheses import guessed, hypotheses, refined, simple, to_refine
from blinddeblur.estimation.judging import Judge
from blinddeblur.estimation.noise import estimate_sigma
from blinddeblur.estimation.sharpness import is_sharp
from blinddeblur.physics.kernel_map import KernelMap
from blinddeblur.physics.measurement import Measurement
from blinddeblur.priors.prior import Prior
from blinddeblur.progress import Callback, Progress, Step
from blinddeblur.settings import Settings
from blinddeblur.tiles import Tile

JUDGED_SIDE = 256  # pixels of the part of the photo on which kernels are looked for and judged
VARYING_SIDE = 224  # pixels of the regions that kernels which differ are looked for in
VARYING_ROWS, VARYING_COLUMNS = 3, 4  # regions, however large the photo is
# Nats a pixel by which a kernel has to explain the spectrum better than next to none, for a photo to be blurred: of
# forty sharp training photos of 224 pixels half have less than -.001 and three in four less than .002, of forty under
# blur of 1 to 6 px half have more than .006, and of forty under 6 to 32 px three in four more than .003.
BLURRED = 0.002


@dataclass(frozen=True)
class BlurFinder:
    """Finds the blur of a photo.

    Attributes:
        photo: whose blur is looked for.
        settings: of the restoration.
        judge: of kernels.
        kernel_prior: conditioned, p(k | y); None where none is looked for.
        side: of the square that the kernel is estimated on, in pixels.
        find_varying: looks for kernels that differ over the photo, called as `varying.estimate` is.
        least_varying_side: shorter side of a photo, in pixels, from which on these are looked for.
    """

    photo: Pixels
    settings: Settings
    judge: Judge
    kernel_prior: Prior | None
    side: int
    find_varying: Callable[..., KernelMap | None]
    least_varying_side: int

    @property
    def asked(self) -> bool:
        """Whether somebody says that there is blur, by saying what it is, or where, or how large."""
        settings = self.settings
        return any(said is not None for said in (settings.kernel, settings.kernel_size, settings.crop))

    def looks_sharp(self, sigma: float) -> bool:
        """Whether there is plainly no blur to look for: by edges and details in all directions, and by the spectrum.

        Motion leaves edges along its path crisp, and with them a photo of nothing but such edges. Its spectrum tells.
        """
        if self.asked or not is_sharp(self.photo.patches(), sigma):
            return False
        seen = self.judge.look(self.grey, simple(self.photo.device), self.noise)
        return not seen.blurred > BLURRED

    def find(self, progress: Progress, callback: Callback) -> Verdict:
        """What speaks for which kernel: all that are found, judged together.

        Args:
            callback: told of every step in which the likeliest guess is refined, beginning with the guess.

        Raises EstimationError where no blur explains the photo far better than any kernel.
        """
        settings, judge, y, noise = self.settings, self.judge, self.grey, self.noise
        part, size, steps = _middle(y), checked_size(settings.kernel_size, self.photo), settings.kernel_steps

        def report(step: Step) -> None:
            progress("kernel", step.index + 1, step.total)
            callback(step)

        def told(done: int, total: int) -> None:
            progress("hypotheses", done, total)

        assert self.kernel_prior is not None
        by_spectrum = partial(judge.likelihoods, part, sigma=noise)
        progress("guesses", 0, 1)
        guesses = guessed(self.kernel_prior, y.y, noise, size)
        found = hypotheses(judge.denoise, part, guesses, noise, size, steps, settings.seed, by_spectrum, told)
        start = to_refine(guesses, found, by_spectrum)
        callback(Step(-1, steps, self.photo.of(self.where), start))
        progress("kernel", 0, steps)
        with suppress(EstimationError):  # nothing was left of it: the others will tell
            found.append(refined(judge.denoise, y, start, noise, size, steps, settings.seed, report))
        progress("judging", 0, 1)
        verdict = judge.judge(part, found, noise)
        if not verdict.ranked:
            raise EstimationError(
                "Nothing in the photo tells of its blur. Give --kernel-size, or a --kernel of your own."
            )
        return verdict

    def assess(self, kernel: Tensor) -> Candidate:
        """What is to be expected of a kernel (K, K) that is given."""
        return self.judge.assess(_middle(self.grey), kernel, self.noise)

    def kernel_map(self, kernel: Tensor, progress: Progress) -> KernelMap | None:
        """Kernels for all places of the photo, where they differ; `kernel` (K, K) is the one that serves otherwise."""
        settings, photo = self.settings, self.photo
        asked = settings.kernel_size is not None or settings.crop is not None
        if asked or min(photo.height, photo.width) < self.least_varying_side:
            return None
        regions = informative_regions(photo, VARYING_ROWS, VARYING_COLUMNS, VARYING_SIDE)
        return self.find_varying(
            self.judge.denoise,
            [self._grey(region) for region in regions],
            [(region.top + region.height / 2, region.left + region.width / 2) for region in regions],
            (photo.height, photo.width),
            kernel,
            self.noise,
            torch.Generator().manual_seed(settings.seed),
            lambda done, total: progress("varying kernels", done, total),
        )

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the noise of the mean over the channels: as it is seen there, unless it is given.

        It is not that of a channel over sqrt(3). JPEG leaves noise in brightness and takes it from colour, so that the
        channels share it: taken for independent, it came out at .53 to .67 of the truth.
        """
        if self.settings.sigma is not None:
            return self.settings.sigma / self.photo.channels**0.5
        return estimate_sigma(self.photo.patches().mean(dim=1, keepdim=True))

    @cached_property
    def where(self) -> Tile:
        """Where the kernel is estimated: the square that tells most of it, in the part that was asked for."""
        crop = self.settings.crop
        return informative_crop(self.photo, self.side, None if crop is None else asked_region(crop, self.photo))

    @cached_property
    def grey(self) -> Measurement:
        """The grey measurement of where the kernel is estimated."""
        return self._grey(self.where)

    def _grey(self, tile: Tile) -> Measurement:
        return Measurement.of(self.photo.of(tile), bool(self.settings.linear)).grey()


def _middle(y: Measurement) -> Measurement:
    """The part of a measurement on which kernels are looked for and judged."""
    height, width = y.y.shape[-2:]
    rows, columns = ((side - min(side, JUDGED_SIDE)) // 2 for side in (height, width))
    return y.map(lambda pixels: pixels[..., rows : height - rows, columns : width - columns])
