"""The two closed-form data steps: least squares on the measurement, held to what the priors say.

They take the place of the gradient steps of the paper, need no back-propagation through a network, and converge
in a few conjugate-gradient iterations because each starts from the prior's answer.
"""

import torch
from torch import Tensor

from blinddeblur.physics.convolution import Blur, Convolution, ConvolutionOfKernel, gradients
from blinddeblur.physics.measurement import Measurement
from blinddeblur.solvers import conjugate_gradient

IMAGE_ITERATIONS = 6  # the solution but for some 45 dB; without preconditioning, 12 came to 35
KERNEL_ITERATIONS = 15
LEAST_WEIGHT = 0.003  # of an image step: less reaches so far that tiles would differ
INERTIA = 0.3  # of the kernel, relative to the energy of the image's gradients


def image_step(x0: Tensor, y: Measurement, blur: Blur, weight: float, iterations: int = IMAGE_ITERATIONS) -> Tensor:
    """argmin over x of |crop(k * x) - y|^2 + weight |x - x0|^2; in linear light, one Gauss-Newton step towards it.

    In linear light both terms stay in units of pixels: noise there, and the prior's error, grow with the slope of
    the decoding, so that k * light(x) counts as light(x0) + slope(x0) (x - x0) blurred, over slope(y).

    A clipped pixel counts only where the blurred image would be darker than it. Which ones these are is seen when
    the others have been solved for.

    Args:
        x0: (B, C, H + K - 1, W + K - 1), the prior's image, and the start.
        y: the measurement, (B, C, H, W).
        blur: of the pixels of y.
        weight: variance of the measurement over that of the prior's image.
        iterations: of conjugate gradients.
    """
    convolution = Convolution(blur, (x0.shape[-2], x0.shape[-1]))
    gain, power = y.slope(x0), 1 / y.slope(y.y) ** 2
    target = y.light(y.y) - convolution.forward(y.light(x0) - gain * x0)  # for gain * x; light itself where that is x

    def borderless(x: Tensor) -> Tensor:
        return convolution.solve(x, weight)

    def solved(counts: Tensor, start: Tensor) -> Tensor:
        trust = counts * power

        def normal(x: Tensor) -> Tensor:
            return gain * convolution.adjoint(trust * convolution.forward(gain * x)) + weight * x

        right = gain * convolution.adjoint(trust * target) + weight * x0
        return conjugate_gradient(normal, right, start, iterations, borderless)

    x = solved(~y.clipped, x0)
    if y.clipped.any():
        x = solved(~y.clipped | (convolution.forward(gain * x) < target), x)
    return x


def kernel_step(x0: Tensor, y: Measurement, kernel: Tensor, iterations: int = KERNEL_ITERATIONS) -> Tensor:
    """argmin over k of |crop(grad x0 * k) - grad y|^2 + inertia |grad x0|^2 |k - kernel|^2, neither clipped nor scaled.

    Gradients rather than values, because edges tell of the blur and flat areas do not; of the mean over the
    channels, because all share one kernel. Those that touch a clipped pixel do not count. Gradients of linear light
    count in units of pixels, too: over the slope of the decoding.

    Args:
        x0: (B, C, H + K - 1, W + K - 1), the prior's image.
        y: the measurement, (B, C, H, W).
        kernel: (K, K), the estimate so far, and the start.
        iterations: of conjugate gradients.
    """
    y, x0 = y.grey(), y.grey_of(x0)
    edges, target = gradients(y.light(x0)), gradients(y.light(y.y))
    power = _of_both_ends(~y.clipped / y.slope(y.y) ** 2)
    blur = ConvolutionOfKernel(edges, kernel.shape[-1])
    inertia = INERTIA * float((gradients(x0) ** 2).sum())

    def normal(k: Tensor) -> Tensor:
        return (blur.adjoint(power * blur.forward(k[0])) + inertia * k[0])[None]

    right = blur.adjoint(power * target) + inertia * kernel
    return conjugate_gradient(normal, right[None], kernel[None], iterations)[0]


def _of_both_ends(weight: Tensor) -> Tensor:
    """The weight of each gradient, the smaller one of its two pixels: (B, C, H, W) -> (2 B, C, H - 1, W - 1)."""
    here = weight[..., :-1, :-1]
    return torch.cat([here.minimum(weight[..., :-1, 1:]), here.minimum(weight[..., 1:, :-1])])
