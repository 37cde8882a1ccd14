"""The default method: parallel diffusion of image and kernel from a middle noise level.

The idea is the paper's (BlindDPS, Chung et al., CVPR 2023): both unknowns are refined together while the noise
level falls, coupled by the measurement. Three things differ. It starts from a first guess of the kernel and at a
noise level where coarse structure is already decided, since under a prior of sharp photos alone a blurred photo
with no blur kernel is the likeliest answer. The data steps are solved in closed form. And fresh noise of the
current level goes into the image at every step: it is what lets the kernel leave a wrong first guess.
"""

import torch
from torch import Tensor

from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import Blur
from blinddeblur.physics.measurement import WRONG_KERNEL, Measurement, model_error
from blinddeblur.progress import Callback, Step, unseen
from blinddeblur.samplers.proximal import image_step, kernel_step
from blinddeblur.samplers.schedule import Denoiser, log_spaced

STEPS = 12
# Measured on Levin's photos and on Kodak's under random kernels; see benchmarks/RESULTS.md.
SIGMAS = (0.15, 0.05)  # above, edges are lost that the first kernel had found; below, ringing is fitted
PRIOR_SHARE = 0.5  # weight of the prior's image, over the variance of the measurement against that of the noise level


def refined(
    denoise: Denoiser,
    y: Measurement,
    kernel: Tensor,
    image: Tensor,
    sigma: float,
    steps: int = STEPS,
    generator: torch.Generator | None = None,
    callback: Callback = unseen,
) -> tuple[Tensor, Tensor]:
    """Kernels (B, K, K) and their images (B, C, H + K - 1, W + K - 1), refined together, each pair on its own.

    Args:
        y: the measurement, (1, C, H, W).
        kernel: (B, K, K), the first guesses.
        image: (B, C, H + K - 1, W + K - 1), likewise, such as `restoration.first_image`.
        sigma: standard deviation of the noise of y, in image units.
        steps: number of noise levels.
        generator: of the injected noise, on the CPU.
        callback: told of every step of the first pair.

    Where nothing is left of a kernel, both are not numbers; see `kernels.remains`.
    """
    x, error = image, model_error(sigma, WRONG_KERNEL)
    noise = fresh_noise(image[:1], steps, generator)  # the same for all: none depends on how many others there are
    for index, level in enumerate(log_spaced(*SIGMAS, steps)):
        x0 = denoise(x + level * noise[index], level)
        kernel, moved = kernels.centre(kernels.clean(kernel_step(x0, y, kernel)))
        x0 = kernels.rolled(x0, -moved[:, None])  # the image goes the other way
        x = explaining(x0, y, Blur.uniform(kernel), error, level)
        callback(Step(index, steps, x[:1], kernel[0]))
    return kernel, x


def fresh_noise(image: Tensor, steps: int, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise for every step on images (B, C, H, W), (steps, B, C, H, W), where these lie.

    All at once: a GPU is waited for at each transfer.
    """
    return torch.randn((steps, *image.shape), generator=generator).to(image)


def explaining(x0: Tensor, y: Measurement, blur: Blur, error: float, level: float) -> Tensor:
    """The image near the prior's answer x0, (B, C, H + K - 1, W + K - 1), that explains the measurement at a level."""
    return image_step(x0, y, blur, PRIOR_SHARE * (error / level) ** 2)
