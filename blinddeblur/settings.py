"""What can be chosen, checked before any work starts: one table of methods, and the settings of a restoration.

Imports neither torch nor pixels. What a method is called stands here and in engine/tiled.py; everything else asks for
its traits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from blinddeblur.errors import KernelError, UsageError

MINIMUM_SIDE = 32  # pixels of a photo; below, there is no blur to be told from the picture
LARGEST_KERNEL = 127  # pixels
LARGEST_PRIOR_KERNEL = 63  # pixels; what a kernel prior has learned, on arrays of 64
MOST_SAMPLES = 64
SMALLEST_CROP = 64  # pixels; less holds too few edges
SMALLEST_TILE = 64  # pixels

# Options that only some methods take, with their values; the first is the default.
CHOICES = {
    "noise": ("gaussian", "poisson"),
    "kernel_prior": ("diffusion", "uniform", "conditioned"),
    "sparsity": ("l1", "l0", "none"),
}


@dataclass(frozen=True)
class Method:
    """What has to be known of a method before it runs.

    Attributes:
        steps: how many it takes by default.
        prior: of images, by default.
        joint: whether it finds image and kernel together; the others restore with a kernel that is given, or that the
            default method has estimated.
        refines: whether its steps are those of the estimate of the kernel, and not of the restoration.
        gradients: whether it takes gradients through the network, which then sees whole tiles of the side it knows.
        linear: whether it can take the blur as one of linear light.
        tile: side of its tiles in pixels; gradients need memory.
        cost: what a step of the restoration costs, in evaluations of the network over the same pixels; measured on two
            cores.
        choices: the options of CHOICES that it takes.
    """

    steps: int
    prior: str = "photo"
    joint: bool = False
    refines: bool = False
    gradients: bool = False
    linear: bool = False
    tile: int = 512
    cost: float = 1.5
    choices: tuple[str, ...] = ()


METHODS = {
    "fast": Method(steps=12, prior="photo-fine", refines=True, linear=True, tile=768, cost=2),
    "blinddps": Method(steps=1000, joint=True, gradients=True, tile=192, cost=4, choices=("kernel_prior", "sparsity")),
    "dps": Method(steps=1000, gradients=True, tile=192, cost=4, choices=("noise",)),
    "ddnm": Method(steps=100),
    "diffpir": Method(steps=100, linear=True),
}
SEQUENCE_METHODS = {
    "fast": Method(steps=12, refines=True),
    "blinddps": Method(steps=1000, joint=True, gradients=True),
}
SEARCH_PRIOR = "photo-grey"  # of images, with which kernels are looked for and judged
DEFAULT_METHOD = METHODS["fast"]  # whose estimate of the kernel the methods take that make none


@dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """Options of every restoration. Raises UsageError for a value out of its range, or two that exclude each other.

    Attributes:
        method: a key of METHODS, or of SEQUENCE_METHODS; see there and in the classes below.
        prior: name of an image prior in weights.toml, or the folder of one that was trained; None for the method's own.
        steps: of the method's sampler; None for its own default.
        kernel: (K, K) array to use instead of an estimate; of a sequence, the blur that all frames share.
        sigma: standard deviation of the noise of a photo or frame on [0, 1]; None to estimate it.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        seed: of everything random.
    """

    methods: ClassVar[Mapping[str, Method]]

    method: str = "fast"
    prior: str | None = None
    steps: int | None = None
    kernel: Any = None
    sigma: float | None = None
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in self.methods:
            raise UsageError(f"There is no method {self.method}. Choose one of {', '.join(self.methods)}.")
        if self.kernel is not None and self.traits.joint:
            raise UsageError(
                f"{self.method} estimates the kernel. Leave out --kernel, or choose the method fast with it."
            )
        if self.steps is not None and not 2 <= self.steps <= 1000:
            raise UsageError(f"The number of steps must lie between 2 and 1000, not {self.steps}.")
        if self.sigma is not None and not 0 <= self.sigma <= 0.5:
            raise UsageError(
                f"The noise level is a standard deviation on a scale where white is 1, from 0 to 0.5; not {self.sigma}."
            )
        if not 0 <= self.seed < 2**63:
            raise UsageError("The seed must be a whole number, zero or larger.")

    @property
    def traits(self) -> Method:
        """What has to be known of the method."""
        return self.methods[self.method]

    @property
    def effective_prior(self) -> str:
        """The image prior: as asked, or the method's own."""
        return self.prior or self.traits.prior

    @property
    def effective_steps(self) -> int:
        """Steps of the sampler: as asked, or the method's own number."""
        return self.steps or self.traits.steps


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Options of a restoration, besides those of CommonSettings.

    Attributes:
        method: "fast" (the default method) or "blinddps" (the paper's); or "dps", "ddnm" or "diffpir", which restore
            with the kernel that is given or that fast has estimated.
        kernel_prior: of blinddps: "diffusion" as in the paper, "uniform" for none, as in its ablation, or "conditioned"
            for the diffusion prior that has seen the photo.
        sparsity: of blinddps: of the kernel, "l1" as the paper has it for faces, "l0" as for animals, or "none".
        noise: "gaussian" or "poisson"; the second is for dps.
        kernel_size: side of the kernel's array, odd; None to find it.
        linear: whether linear light was blurred, as in a camera, rather than the sRGB-encoded values of the file; None
            to find it out.
        crop: (x, y, width, height) in pixels, the part of the photo to estimate the kernel on; None to find it.
        tile: side of the tiles that are restored one after the other, in pixels; None to choose it.
        overlap: pixels over which neighbouring tiles fade into each other, besides those the blur reaches; None to
            choose it.
        samples: how many samples of the posterior are drawn besides, for the uncertainty map; 0, or 2 to 64.
        uncertainty: whether there is an uncertainty map without samples, a quick one.
    """

    methods = METHODS

    kernel_prior: str = CHOICES["kernel_prior"][0]
    sparsity: str = CHOICES["sparsity"][0]
    noise: str = CHOICES["noise"][0]
    kernel_size: int | None = None
    linear: bool | None = None
    samples: int = 0
    uncertainty: bool = False
    crop: tuple[int, int, int, int] | None = None
    tile: int | None = None
    overlap: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        method = self.traits
        if self.kernel_size is not None and (self.kernel_size % 2 == 0 or not 3 <= self.kernel_size <= LARGEST_KERNEL):
            raise KernelError(
                f"The kernel size must be an odd number from 3 to {LARGEST_KERNEL}, so that the kernel has a middle "
                f"pixel; {self.kernel_size} is not."
            )
        if method.joint and (self.kernel_size or 0) > LARGEST_PRIOR_KERNEL:
            raise UsageError(f"The kernel prior of {self.method} knows kernels up to {LARGEST_PRIOR_KERNEL} pixels.")
        for option, values in CHOICES.items():
            value, name = getattr(self, option), option.replace("_", " ")
            if value not in values:
                raise UsageError(f"There is no {name} {value}. Choose one of {', '.join(values)}.")
            if value != values[0] and option not in method.choices:
                (able,) = (known for known, traits in METHODS.items() if option in traits.choices)
                raise UsageError(
                    f"{self.method} takes no {value} {name}. Leave out --{name.replace(' ', '-')}, or choose the "
                    f"method {able} with it."
                )
        if self.linear and not method.linear:
            raise UsageError(
                f"{self.method} blurs encoded values. Leave out --linear, or choose the method fast with it."
            )
        if self.kernel is not None and self.kernel_size is not None:
            raise UsageError("A kernel that is given has its own size. Leave out --kernel-size.")
        if self.sigma is not None and method.joint and not self.conditioned:
            raise UsageError(_knows_no_noise(self.method))
        if self.crop is not None and (min(self.crop) < 0 or min(self.crop[2:]) < SMALLEST_CROP):
            raise UsageError(
                f"The crop is x,y,width,height in pixels, with sides of at least {SMALLEST_CROP}; not "
                f"{','.join(map(str, self.crop))}."
            )
        if self.crop is not None and (method.joint or self.kernel is not None):
            raise UsageError("The crop is where the method fast estimates the kernel. Leave out --crop.")
        if self.tile is not None and self.tile < SMALLEST_TILE:
            raise UsageError(f"Tiles must have at least {SMALLEST_TILE} pixels on a side, not {self.tile}.")
        if self.overlap is not None and self.overlap < 2:
            raise UsageError(f"Tiles must fade into each other over at least 2 pixels, not {self.overlap}.")
        if self.samples != 0 and not 2 <= self.samples <= MOST_SAMPLES:
            raise UsageError(
                f"The number of samples must lie between 2 and {MOST_SAMPLES}, or be 0 for none; not {self.samples}."
            )
        if self.samples and not method.refines:
            raise UsageError(f"Samples are drawn by the method fast. Leave out --samples, or --method {self.method}.")
        if self.uncertainty and not method.refines:
            raise UsageError(
                f"The uncertainty is that of the method fast. Leave out --uncertainty, or --method {self.method}."
            )

    @property
    def conditioned(self) -> bool:
        """Whether the kernel prior looks at the photo: always where an estimate is made before the restoration."""
        return not self.traits.joint or self.kernel_prior == "conditioned"

    @property
    def kernel_steps(self) -> int:
        """Steps of the estimate of the kernel that precedes a restoration."""
        return self.effective_steps if self.traits.refines else DEFAULT_METHOD.steps


@dataclass(frozen=True, kw_only=True)
class SequenceSettings(CommonSettings):
    """Options of a restoration of frames seen through turbulence, besides those of CommonSettings.

    Attributes:
        method: "fast" (the default method, any number of frames) or "blinddps" (the paper's, one frame).
        tilt_prior: of blinddps, likewise; None for the tilt of Kolmogorov turbulence in closed form.
    """

    methods = SEQUENCE_METHODS

    tilt_prior: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.traits.joint and self.sigma is not None:
            raise UsageError(_knows_no_noise(self.method))
        if not self.traits.joint and self.tilt_prior is not None:
            raise UsageError(
                f"The method {self.method} takes the tilt of Kolmogorov turbulence. Leave out --tilt-prior, or choose "
                "blinddps."
            )


def _knows_no_noise(method: str) -> str:
    return f"{method} knows no noise level. Leave out --sigma, or choose the method fast with it."
