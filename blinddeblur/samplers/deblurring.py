"""What every method is given that restores a photo whose blur is known, or is taken as known."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from blinddeblur.physics.convolution import Blur, extend, inner
from blinddeblur.physics.measurement import Measurement, model_error
from blinddeblur.progress import Callback, Step, unseen
from blinddeblur.samplers.schedule import Denoiser, Predicts
from blinddeblur.samplers.white_noise import white_noise


def residual(x: Tensor, y: Measurement, blur: Blur) -> Tensor:
    """Root mean square, a number, of what an image (1, C, H, W), blurred again, leaves of the photo.

    Only that part of the frame counts which the unseen border does not reach; more light than clipped pixels is no
    fault.
    """
    explained = blur.cropped(blur.radius).of(y.light(x))
    seen = y.map(lambda pixels: inner(pixels, blur.radius, explained))
    rest = (seen.light(seen.y) - explained) / seen.slope(seen.y)
    return rest.masked_fill(seen.clipped & (rest < 0), 0).square().mean().sqrt()


class ImagePrior(Predicts, Protocol):
    """What a method that takes gradients through a prior has to know of it; see priors.prior.Prior."""

    @property
    def channels(self) -> int: ...

    @property
    def image_size(self) -> int | None: ...


@dataclass(frozen=True)
class Deblurring:
    """A photo, or a tile of one, with its blur.

    Attributes:
        denoise: the image prior.
        y: the measurement, (1, C, H, W).
        blur: of the pixels of y.
        sigma: standard deviation of the noise of y, in image units.
        steps: of the method; None for its own number.
        key: numbers that choose the noise that is drawn, zero or larger.
        place: row and column of the tile in its photo: the noise belongs to the place, so tiles do not show.
        callback: told of every step.
        error: standard deviation of all that y differs by from the blurred image, for methods with a place for that;
            None for the `model_error` of a true kernel.
        poisson: whether the noise is that of photons, for methods that know a difference.
        prior: the image prior, for methods that take gradients through it.
    """

    denoise: Denoiser
    y: Measurement
    blur: Blur
    sigma: float
    steps: int | None = None
    key: tuple[int, ...] = (0,)
    place: tuple[int, int] = (0, 0)
    callback: Callback = unseen
    error: float | None = None
    poisson: bool = False
    prior: ImagePrior | None = None

    @property
    def unexplained(self) -> float:
        """Standard deviation of all that y differs by from the blurred image: `error`, or that of a true kernel."""
        return model_error(self.sigma) if self.error is None else self.error

    def start(self) -> Tensor:
        """A first guess of the image, (B, C, H + K - 1, W + K - 1): y, continued where the blur fetches light from.

        B is the number of kernels, where each is to have an image of its own.
        """
        x = extend(self.y.y, self.blur.radius)
        return x.expand(max(len(x), self.blur.kernels.shape[1]), -1, -1, -1)

    def within(self, x: Tensor) -> Tensor:
        """The part (1, C, H, W) of an image that lies within the frame of y."""
        return inner(x, self.blur.radius, self.y.y)

    def noise(self, index: int, like: Tensor) -> Tensor:
        """White noise, one of many by its index, in the shape (1, C, h, w) and on the device of an image."""
        top, left = (place - self.blur.radius for place in self.place)
        return white_noise((*self.key, index), top, left, (like.shape[1], like.shape[2], like.shape[3])).to(like)

    def tell(self, index: int, steps: int, x: Tensor) -> None:
        """Tell the callback of a step."""
        self.callback(Step(index, steps, x, self.blur.mean))
