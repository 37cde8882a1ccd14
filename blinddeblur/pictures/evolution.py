"""How image and kernel came about, as an animated GIF: what the engine's callback is told, thinned and kept small.

The image is on the left and the kernel on the right. Nothing is written here; the bytes are the caller's.
"""

from blinddeblur.pictures import film
from blinddeblur.pictures.canvas import Picture, beside, enlarged, fitted, of_kernel, placed
from blinddeblur.progress import Step

SIDE = 480  # pixels of the square that image and kernel each have
STEPS = 100  # of a sampler that are shown at most: ten seconds
FIRST, BETWEEN, LAST = 1000, 100, 2000  # milliseconds for which a frame stands


class Recording:
    """A callback for Engine.restore that makes an animation of what it is told.

    Example:
        >>> recording = Recording()
        >>> result = Engine().restore(pixels, callback=recording)  # doctest: +SKIP
        >>> Path("photo.gif").write_bytes(recording.gif())  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Picture, Picture]] = []  # images and kernels, small, since frames come by the hundred
        self._shape: tuple[int, int] | None = None  # height and width of what is shown

    def __call__(self, step: Step) -> None:
        """Keep a state of the sampler: start and result always, and at most STEPS of its steps, evenly.

        Samplers see beyond the frame by the kernel's radius: what is shown has the size of the first image.
        """
        index, total = step.index, step.total
        if 0 <= index < total and (index + 1) * STEPS // total == index * STEPS // total:
            return
        height, width = self._shape = self._shape or (step.image.shape[-2], step.image.shape[-1])
        top, left = (step.image.shape[-2] - height) // 2, (step.image.shape[-1] - width) // 2
        image = step.image[0, :, top : top + height, left : left + width].detach().permute(1, 2, 0).float().cpu()
        kernel = of_kernel(step.kernel.detach().float().cpu().numpy())
        self._kept.append((fitted(image.numpy(), SIDE), fitted(kernel, SIDE)))

    def gif(self) -> bytes:
        """The animation: 960x480 pixels, endless, its first and last frame held."""
        between = len(self._kept) - 2
        durations = [FIRST, *[BETWEEN] * between, LAST] if between >= 0 else LAST
        squares = ([placed(enlarged(each, SIDE), SIDE, SIDE) for each in both] for both in self._kept)
        return film.gif((beside(pair, gap=0) for pair in squares), durations)
