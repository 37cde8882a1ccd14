"""What should be looked at before a result is trusted, in sentences."""

from torch import Tensor

from blinddeblur.estimation.candidates import Candidate
from blinddeblur.estimation.first_kernel import touches_rim
from blinddeblur.physics.measurement import model_error

DOUBTFUL = 0.75  # probability of being better than the photo below which that is said
MISFIT = 1.5  # residual, over what a true kernel leaves at most, above which one kernel does not explain the photo
UNLIKE = (3.0, 0.04)  # times the usual difference, and difference in [0, 1], from which on a frame is named
ANYWAY = "give a --kernel-size to deblur it all the same."


def of_photo(
    kernel: Tensor, judged: Candidate | None, sharp: bool, hopeless: bool, residual: float, sigma: float
) -> tuple[str, ...]:
    """Sentences on what should be looked at in the result of a photo; residual and sigma are in [0, 1].

    Args:
        kernel: (K, K).
        judged: what is expected of it; None where nothing was judged.
        sharp, hopeless: why the photo comes back unchanged.
        residual: root mean square of what the result, blurred again, leaves of the photo.
        sigma: standard deviation of the noise.
    """
    if sharp:
        return (f"This photo is sharp already and is left as it is. If it is not, or only its subject moved, {ANYWAY}",)
    if hopeless:
        return (
            "This photo is blurred, but how cannot be made out, and so it is left as it is. Estimate the blur on a "
            f"--crop with clear edges, or {ANYWAY}",
        )
    if judged is None:
        return ()
    doubts = []
    if judged.probability < DOUBTFUL:
        doubts.append(
            f"The blur could not be made out clearly: the result is better than the photo with a probability of "
            f"{judged.probability:.2f}. Look at the kernel; another --kernel-size may help."
        )
    if touches_rim(kernel):
        doubts.append(
            f"The blur reaches the edge of the {len(kernel)} pixels it was looked for in and may be longer. "
            "Give a larger --kernel-size, up to 127."
        )
    if residual > MISFIT * model_error(sigma):
        doubts.append(
            f"The result, blurred again, differs from the photo by {255 * residual:.1f}/255, more than by its noise of "
            f"{255 * sigma:.1f}/255: the blur may vary over the frame, or something moved by itself."
        )
    return tuple(doubts)


def of_frames(misfits: Tensor, sharp: bool) -> tuple[str, ...]:
    """Sentences on frames that differ from the scene by so much in [0, 1], root mean square, (N,)."""
    if sharp and len(misfits) == 1:
        return ("This frame is sharp already and is left as it is. Give a --kernel to deblur it all the same.",)
    usual = float(misfits.median())
    unlike = [i for i, misfit in enumerate(misfits.tolist()) if misfit > max(UNLIKE[0] * usual, UNLIKE[1])]
    if not unlike:
        return ()
    which = f"Frame {unlike[0]} is" if len(unlike) == 1 else f"Frames {', '.join(map(str, unlike))} are"
    return (
        f"{which} hardly like the others (counted from 0). If the scene or the light is another there, leave them out.",
    )
