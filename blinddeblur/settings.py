"""What can be chosen about a restoration, checked before any work starts. Imports neither torch nor pixels."""

from dataclasses import dataclass
from typing import Any

from blinddeblur.errors import KernelError, UsageError

METHODS = {"fast": 12, "blinddps": 1000, "dps": 1000, "ddnm": 100, "diffpir": 100}  # and its steps by default
NOISES = ("gaussian", "poisson")
KERNEL_PRIORS = ("diffusion", "uniform", "conditioned")
SEQUENCE_METHODS = {"fast": 12, "blinddps": 1000}
LARGEST_KERNEL = 127  # pixels
MINIMUM_SIDE = 32  # pixels of a photo; below, there is no blur to be told from the picture
MOST_SAMPLES = 64
SMALLEST_CROP = 64  # pixels; less holds too few edges
SMALLEST_TILE = 64  # pixels
LARGEST_BLINDDPS_KERNEL = 63  # pixels; what a kernel prior has learned, on arrays of 64


@dataclass(frozen=True)
class Settings:
    """Options of a restoration.

    Attributes:
        method: "fast" (the default method) or "blinddps" (the paper's); or "dps", "ddnm" or "diffpir", which restore
            with the kernel that is given or that fast has estimated.
        prior: name of an image prior in weights.toml, or the folder of one that was trained.
        kernel_prior: of blinddps: "diffusion" as in the paper, "uniform" for none, as in its ablation, or "conditioned"
            for the diffusion prior that has seen the photo.
        steps: of the method's sampler; None for its own default.
        noise: "gaussian" or "poisson"; the second is for dps.
        kernel_size: side of the kernel's array, odd; None to find it.
        kernel: (K, K) array to use instead of an estimate.
        sigma: standard deviation of the noise on [0, 1]; None to estimate it.
        linear: whether linear light was blurred, as in a camera, rather than the sRGB-encoded values of the file.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        seed: of everything random.
        crop: (x, y, width, height) in pixels, the part of the photo to estimate the kernel on; None to find it.
        tile: side of the tiles that are restored one after the other, in pixels; None to choose it.
        overlap: pixels over which neighbouring tiles fade into each other, besides those the blur reaches; None to
            choose it.
        samples: how many samples of the posterior are drawn besides, for the uncertainty map; 0, or 2 to 64.

    Raises:
        UsageError: a value out of its range, or two that exclude each other.
    """

    method: str = "fast"
    prior: str = "photo"
    kernel_prior: str = "diffusion"
    steps: int | None = None
    noise: str = "gaussian"
    kernel_size: int | None = None
    kernel: Any = None
    sigma: float | None = None
    linear: bool = False
    device: str = "auto"
    seed: int = 0
    samples: int = 0
    crop: tuple[int, int, int, int] | None = None
    tile: int | None = None
    overlap: int | None = None

    def __post_init__(self) -> None:
        _check_method(self.method, METHODS)
        _check_numbers(self.steps, self.sigma, self.seed)
        if self.kernel_size is not None and (self.kernel_size % 2 == 0 or not 3 <= self.kernel_size <= LARGEST_KERNEL):
            raise KernelError(
                f"The kernel size must be an odd number from 3 to {LARGEST_KERNEL}, so that the kernel has a middle "
                f"pixel; {self.kernel_size} is not."
            )
        if self.method == "blinddps" and (self.kernel_size or 0) > LARGEST_BLINDDPS_KERNEL:
            raise UsageError(f"The kernel prior of blinddps knows kernels up to {LARGEST_BLINDDPS_KERNEL} pixels.")
        if self.kernel is not None and self.method == "blinddps":
            raise UsageError("blinddps estimates the kernel. Leave out --kernel, or choose the method fast with it.")
        if self.linear and self.method in ("blinddps", "dps", "ddnm"):
            raise UsageError(
                f"{self.method} blurs encoded values. Leave out --linear, or choose the method fast with it."
            )
        if self.noise not in NOISES:
            raise UsageError(f"There is no noise {self.noise}. Choose one of {', '.join(NOISES)}.")
        if self.noise != "gaussian" and self.method != "dps":
            raise UsageError(
                f"{self.method} takes Gaussian noise. Leave out --noise, or choose the method dps with it."
            )
        if self.kernel_prior not in KERNEL_PRIORS:
            raise UsageError(f"There is no kernel prior {self.kernel_prior}. Choose one of {', '.join(KERNEL_PRIORS)}.")
        if self.kernel_prior != "diffusion" and self.method != "blinddps":
            raise UsageError(
                f"{self.method} takes no other kernel prior. Leave out --kernel-prior, or choose the method blinddps."
            )
        if self.kernel is not None and self.kernel_size is not None:
            raise UsageError("A kernel that is given has its own size. Leave out --kernel-size.")
        if self.sigma is not None and self.method == "blinddps" and self.kernel_prior != "conditioned":
            raise UsageError("blinddps knows no noise level. Leave out --sigma, or choose the method fast with it.")
        if self.crop is not None and (min(self.crop) < 0 or min(self.crop[2:]) < SMALLEST_CROP):
            raise UsageError(
                f"The crop is x,y,width,height in pixels, with sides of at least {SMALLEST_CROP}; not "
                f"{','.join(map(str, self.crop))}."
            )
        if self.crop is not None and (self.method == "blinddps" or self.kernel is not None):
            raise UsageError("The crop is where the method fast estimates the kernel. Leave out --crop.")
        if self.tile is not None and self.tile < SMALLEST_TILE:
            raise UsageError(f"Tiles must have at least {SMALLEST_TILE} pixels on a side, not {self.tile}.")
        if self.overlap is not None and self.overlap < 2:
            raise UsageError(f"Tiles must fade into each other over at least 2 pixels, not {self.overlap}.")
        if self.samples != 0 and not 2 <= self.samples <= MOST_SAMPLES:
            raise UsageError(
                f"The number of samples must lie between 2 and {MOST_SAMPLES}, or be 0 for none; not {self.samples}."
            )
        if self.samples and self.method != "fast":
            raise UsageError(f"Samples are drawn by the method fast. Leave out --samples, or --method {self.method}.")

    @property
    def effective_steps(self) -> int:
        """Steps of the sampler: as asked, or the method's own number."""
        return self.steps or METHODS[self.method]

    @property
    def kernel_steps(self) -> int:
        """Steps of the estimate of the kernel, where the method fast makes it."""
        return self.effective_steps if self.method == "fast" else METHODS["fast"]


@dataclass(frozen=True)
class SequenceSettings:
    """Options of a restoration of frames seen through turbulence.

    Attributes:
        method: "fast" (the default method, any number of frames) or "blinddps" (the paper's, one frame).
        prior: name of an image prior in weights.toml, or the folder of one that was trained.
        tilt_prior: of blinddps, likewise; None for the tilt of Kolmogorov turbulence in closed form.
        steps: of the method's sampler; None for its own default.
        kernel: (K, K) array, the blur that all frames share, instead of an estimate.
        sigma: standard deviation of the noise of a frame on [0, 1]; None to estimate it.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        seed: of everything random.

    Raises:
        UsageError: a value out of its range, or two that exclude each other.
    """

    method: str = "fast"
    prior: str = "photo"
    tilt_prior: str | None = None
    steps: int | None = None
    kernel: Any = None
    sigma: float | None = None
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_method(self.method, SEQUENCE_METHODS)
        _check_numbers(self.steps, self.sigma, self.seed)
        if self.method == "blinddps" and self.kernel is not None:
            raise UsageError("blinddps estimates the kernel. Leave out --kernel, or choose the method fast with it.")
        if self.method == "blinddps" and self.sigma is not None:
            raise UsageError("blinddps knows no noise level. Leave out --sigma, or choose the method fast with it.")
        if self.method != "blinddps" and self.tilt_prior is not None:
            raise UsageError(
                "The method fast takes the tilt of Kolmogorov turbulence. Leave out --tilt-prior, or choose blinddps."
            )

    @property
    def effective_steps(self) -> int:
        """Steps of the sampler: as asked, or the method's own number."""
        return self.steps or SEQUENCE_METHODS[self.method]


def _check_method(method: str, methods: dict[str, int]) -> None:
    if method not in methods:
        raise UsageError(f"There is no method {method}. Choose one of {', '.join(methods)}.")


def _check_numbers(steps: int | None, sigma: float | None, seed: int) -> None:
    if steps is not None and not 2 <= steps <= 1000:
        raise UsageError(f"The number of steps must lie between 2 and 1000, not {steps}.")
    if sigma is not None and not 0 <= sigma <= 0.5:
        raise UsageError(
            f"The noise level is a standard deviation on a scale where white is 1, from 0 to 0.5; not {sigma}."
        )
    if not 0 <= seed < 2**63:
        raise UsageError("The seed must be a whole number, zero or larger.")
