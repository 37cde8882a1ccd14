"""The two closed-form data steps: least squares on the measurement, held to what the priors say.

They take the place of the gradient steps of the paper, need no back-propagation through a network, and converge
in a few conjugate-gradient iterations because each starts from the prior's answer.
"""

import torch
from torch import Tensor

from blinddeblur.physics.convolution import Blur, Convolution, ConvolutionOfKernel, gradients
from blinddeblur.physics.measurement import Measurement
from blinddeblur.solvers import conjugate_gradient, toeplitz

# Of an image step, with one kernel and with kernels that vary, whose mean is inverted to begin with. With one kernel
# restorations of twelve training photos came to no more with 6, and in six steps to .03 dB less with 3.
IMAGE_ITERATIONS, VARYING_ITERATIONS = 4, 6
KERNEL_ITERATIONS = 15
LEAST_WEIGHT = 0.003  # of an image step: less reaches so far that tiles would differ
# Of the kernel, relative to the energy of the image's gradients. On twelve training photos twelve steps at full size
# come nearer to the truth with .8 (.87, not .85); the six of each level of a pyramid less near (.927, not .943).
INERTIA = 0.3


def image_step(x0: Tensor, y: Measurement, blur: Blur, weight: float, iterations: int | None = None) -> Tensor:
    """argmin over x of |crop(k * x) - y|^2 + weight |x - x0|^2; in linear light, one Gauss-Newton step towards it.

    In linear light both terms stay in units of pixels: noise there, and the prior's error, grow with the slope of
    the decoding, so that k * light(x) counts as light(x0) + slope(x0) (x - x0) blurred, over slope(y).

    A clipped pixel counts only where the blurred image would be darker than it. Which ones these are is seen when
    the others have been solved for.

    The image is solved for as a spectrum: only the frame needs pixels, which takes two transforms an iteration.

    Args:
        x0: (B, C, H + K - 1, W + K - 1), the prior's image, and the start.
        y: the measurement, (B, C, H, W).
        blur: of the pixels of y.
        weight: variance of the measurement over that of the prior's image.
        iterations: of conjugate gradients; None for as many as it takes.
    """
    iterations = iterations or (VARYING_ITERATIONS if len(blur.kernels) > 1 else IMAGE_ITERATIONS)
    convolution = Convolution(blur, (x0.shape[-2], x0.shape[-1]))
    gain, power = y.slope(x0), 1 / y.slope(y.y) ** 2
    start = torch.view_as_real(convolution.spectrum(x0))
    borderless = 1 / (convolution.power + weight)[..., None]
    target = y.light(y.y)  # of gain * x, which is light itself unless that is linear
    if y.linear:
        target = target - convolution.forward(y.light(x0) - gain * x0)

    def lit(spectrum: Tensor) -> Tensor:
        return convolution.spectrum(gain * convolution.image(spectrum)) if y.linear else spectrum

    def blurred(x: Tensor) -> Tensor:
        return convolution.blurred(lit(torch.view_as_complex(x)))

    def solved(counts: Tensor, x: Tensor) -> Tensor:
        trust = counts * power

        def gathered(seen: Tensor) -> Tensor:
            return torch.view_as_real(lit(convolution.gathered(trust * seen)))

        def normal(x: Tensor) -> Tensor:
            return gathered(blurred(x)).add_(x, alpha=weight)

        right = gathered(target).add_(start, alpha=weight)
        return conjugate_gradient(normal, right, x, iterations, borderless.mul)

    x = solved(~y.clipped, start)
    if y.has_clipped:
        x = solved(~y.clipped | (blurred(x) < target), x)
    return convolution.image(torch.view_as_complex(x))


def kernel_step(x0: Tensor, y: Measurement, kernel: Tensor, iterations: int = KERNEL_ITERATIONS) -> Tensor:
    """A Newton step towards argmin over k of |crop(grad x0 * k) - grad y|^2 + inertia |grad x0|^2 |k - kernel|^2.

    Each image of a batch has a kernel of its own.

    Gradients rather than values, because edges tell of the blur and flat areas do not; of the mean over the
    channels, because all share one kernel. Those that touch a clipped pixel do not count. Gradients of linear light
    count in units of pixels, too: over the slope of the decoding.

    The curvature is taken as that of a frame without borders, all of whose gradients count as they do in the mean: then
    it is an autocorrelation, on arrays of twice the kernel instead of the image. The answer is neither clipped nor
    scaled.

    Args:
        x0: (B, C, H + K - 1, W + K - 1), the prior's image.
        y: the measurement, (B, C, H, W), or one for all.
        kernel: (B, K, K), the estimate so far, and the start.
        iterations: of conjugate gradients.
    """
    y, x0 = y.grey(), y.grey_of(x0)
    edges, target = gradients(y.light(x0)), gradients(y.light(y.y))
    power = _of_both_ends(~y.clipped / y.slope(y.y) ** 2)
    blur = ConvolutionOfKernel(edges, kernel.shape[-1])
    counted = power.sum(dim=(1, 2, 3)) / edges[0].numel()
    curvature = toeplitz(counted[:, None, None] * blur.autocorrelation(), kernel.shape[-1])
    inertia = INERTIA * gradients(x0).square().sum(dim=(1, 2, 3))[:, None, None]
    downhill = blur.adjoint(power * (target - blur.forward(kernel)))
    return kernel + conjugate_gradient(
        lambda k: curvature(k) + inertia * k, downhill, torch.zeros_like(downhill), iterations
    )


def _of_both_ends(weight: Tensor) -> Tensor:
    """The weight of each gradient, the smaller one of its two pixels: (B, C, H, W) -> (B, 2 C, H - 1, W - 1)."""
    here = weight[..., :-1, :-1]
    return torch.cat([here.minimum(weight[..., :-1, 1:]), here.minimum(weight[..., 1:, :-1])], dim=1)
