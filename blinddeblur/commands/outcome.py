"""What became of a photo or of a sequence: one record from the work to the words, the JSON and the report."""

import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from blinddeblur.errors import BlindDeblurError

if TYPE_CHECKING:
    from blinddeblur.engine.result import Restored

FAILED = 1  # exit code
ALIKE = ("sigma", "residual", "sharp", "warnings", "seed", "method", "steps", "prior")  # in result and outcome
VISIBLE = 0.01  # of a kernel's maximum: less is not counted as its extent

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What --json says of a restoration, by the names of the attributes; null for what there is not.

    Attributes:
        input, restored: the files before and after.
        kernel_preview, kernel: the picture and the array of the kernel.
        recording: the animation.
        seconds, sigma, residual, sharp, warnings, seed, method, steps, prior: as in the engine's result.
        prior_sha256: of the weights of the prior.
        kernel_size: side of the kernel's array.
        kernel_extent: rows and columns of the part of the kernel that is visible.
    """

    input: Path
    restored: Path
    kernel_preview: Path
    kernel: Path
    recording: Path | None
    seconds: float
    sigma: float
    residual: float
    sharp: bool
    warnings: tuple[str, ...]
    seed: int
    method: str
    steps: int
    prior: str
    prior_sha256: str | None
    kernel_size: int
    kernel_extent: tuple[int, int]

    @property
    def sentence(self) -> str:
        """The sentence that is printed in any case."""
        return f"{self.input} -> {self.restored} ({self.seconds:.1f} s)"

    @property
    def details(self) -> str:
        """The line that --verbose adds."""
        return "  " + ", ".join(self._figures())

    def facts(self) -> dict[str, Any]:
        """The record that --json prints."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def _figures(self) -> list[str]:
        rows, columns = self.kernel_extent
        return [
            f"noise {255 * self.sigma:.2f}/255",
            f"kernel {rows}x{columns} px",
            f"residual {255 * self.residual:.2f}/255",
        ]


@dataclass(frozen=True)
class PhotoOutcome(Outcome):
    """What --json says of a photo.

    Attributes:
        comparison: the picture of before, after and kernel.
        kernel_map: the picture of the kernels of all places.
        varying: whether the blur varies over the photo.
        confidence, expected_gain, hopeless, kernel_prior: as in the engine's Result.
        samples: their files.
        uncertainty_preview, uncertainty: the picture and the array of how far each pixel can be trusted.
        mean_uncertainty: over all pixels.
    """

    comparison: Path | None
    kernel_map: Path | None
    varying: bool
    confidence: float | None
    expected_gain: float | None
    hopeless: bool
    kernel_prior: str | None
    samples: tuple[Path, ...] | None = None
    uncertainty_preview: Path | None = None
    uncertainty: Path | None = None
    mean_uncertainty: float | None = None

    def _figures(self) -> list[str]:
        figures = super()._figures()
        if self.mean_uncertainty is not None:
            figures.append(f"uncertainty {255 * self.mean_uncertainty:.2f}/255")
        if self.varying:
            figures.append("blur that varies")
        if self.confidence is not None and self.expected_gain is not None:
            figures.append(f"{self.expected_gain:+.1f} dB expected, confidence {self.confidence:.2f}")
        return figures


@dataclass(frozen=True)
class SequenceOutcome(Outcome):
    """What --json says of a sequence.

    Attributes:
        tilt_preview, tilt: the picture and the fields of how far each frame is displaced where.
        stabilised: the film without tilt.
        frames: how many were read.
        left_out: why the others were not, by their names.
        weights: how much each frame counts.
        tilt_rms, tilt_largest: root mean square and maximum of all displacements, in pixels.
    """

    tilt_preview: Path
    tilt: Path
    stabilised: Path | None
    frames: int
    left_out: dict[str, str]
    weights: tuple[float, ...]
    tilt_rms: float
    tilt_largest: float

    @property
    def sentence(self) -> str:
        """The sentence that is printed in any case."""
        number = f"{self.frames} frame{'s' if self.frames > 1 else ''}"
        return f"{self.input} -> {self.restored} ({number}, {self.seconds:.1f} s)"

    def _figures(self) -> list[str]:
        noise, *others = super()._figures()
        return [noise, f"tilt {self.tilt_rms:.2f} px", *others]


def told(result: "Restored") -> dict[str, Any]:
    """The attributes of an outcome that follow from what the engine found."""
    visible = result.kernel > VISIBLE * result.kernel.max()
    places = [visible.any(axis=axis).nonzero()[0] for axis in (1, 0)]
    return {
        **{name: getattr(result, name) for name in ALIKE},
        "seconds": round(result.seconds, 3),
        "prior_sha256": result.checksum,
        "kernel_size": len(result.kernel),
        "kernel_extent": tuple(int(used[-1] - used[0] + 1) for used in places),
    }


def attempt(function: Callable[..., T], *arguments: Any) -> T | Exception:
    """What the function returns or raises, as a value that can be pickled."""
    try:
        return function(*arguments)
    except BlindDeblurError as error:
        return error
    except Exception:
        return RuntimeError(traceback.format_exc())


def reason(source: Path, error: Exception, *, verbose: bool) -> str:
    """Why a photo could not be restored, by an error as `attempt` returns it: a sentence that names it.

    With `verbose`, an error that is none of the photo's comes with its traceback.
    """
    if isinstance(error, BlindDeblurError):
        sentence = str(error)
    else:
        last = str(error).strip().splitlines()[-1]
        sentence = f"An error that is none of the photo's: {last}. Please report it."
        if verbose:
            sentence += f"\n{error}"
    return sentence if str(source) in sentence else f"{source}: {sentence}"


def exit_code(error: Exception) -> int:
    """The exit code of a command whose only work failed with this error: the error's own, or 1."""
    return error.exit_code if isinstance(error, BlindDeblurError) else FAILED


def _plain(value: Any) -> Any:
    """Paths as text, also those in a list."""
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
