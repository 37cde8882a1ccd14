"""The two closed-form data steps: least squares on the measurement, held to what the priors say.

They take the place of the gradient steps of the paper, need no back-propagation through a network, and converge
in a few conjugate-gradient iterations because each starts from the prior's answer.
"""

from torch import Tensor

from blinddeblur.physics.convolution import Convolution, ConvolutionOfKernel, conjugate_gradient, gradients

IMAGE_ITERATIONS = 12
KERNEL_ITERATIONS = 15
INERTIA = 0.02  # of the kernel, relative to the energy of the image's gradients


def image_step(x0: Tensor, y: Tensor, kernel: Tensor, weight: float) -> Tensor:
    """argmin over x of |crop(k * x) - y|^2 + weight |x - x0|^2.

    Args:
        x0: (B, C, H + K - 1, W + K - 1), the prior's image, and the start.
        y: (B, C, H, W), the measurement.
        kernel: (K, K).
        weight: variance of the measurement over that of the prior's image.
    """
    blur = Convolution(kernel, (x0.shape[-2], x0.shape[-1]))

    def normal(x: Tensor) -> Tensor:
        return blur.adjoint(blur.forward(x)) + weight * x

    return conjugate_gradient(normal, blur.adjoint(y) + weight * x0, x0, IMAGE_ITERATIONS)


def kernel_step(x0: Tensor, y: Tensor, kernel: Tensor) -> Tensor:
    """argmin over k of |crop(grad x0 * k) - grad y|^2 + inertia |grad x0|^2 |k - kernel|^2, neither clipped nor scaled.

    Gradients rather than values, because edges tell of the blur and flat areas do not; of the mean over the
    channels, because all share one kernel.

    Args:
        x0: (B, C, H + K - 1, W + K - 1), the prior's image.
        y: (B, C, H, W), the measurement.
        kernel: (K, K), the estimate so far, and the start.
    """
    edges, target = gradients(x0.mean(dim=1, keepdim=True)), gradients(y.mean(dim=1, keepdim=True))
    blur = ConvolutionOfKernel(edges, kernel.shape[-1])
    inertia = INERTIA * float((edges**2).sum())

    def normal(k: Tensor) -> Tensor:
        return (blur.adjoint(blur.forward(k[0])) + inertia * k[0])[None]

    right = blur.adjoint(target) + inertia * kernel
    return conjugate_gradient(normal, right[None], kernel[None], KERNEL_ITERATIONS)[0]
