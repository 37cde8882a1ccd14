"""The default method for frames seen through turbulence: parallel diffusion of image, blur and tilts.

The idea is that of the paper's Algorithm 2 (BlindDPS, Chung et al., CVPR 2023): all unknowns are refined together while
the noise level falls, coupled by the measurement. It starts at a middle noise level from registered frames, and its
data steps are closed forms. The image step is least squares on the fused frames; the blur is one of a family of round
ones, by what the spectrum and the tilts say of it and by how well it explains the edges of the denoised image; and the
tilts of all frames are Gauss-Newton steps under their Gaussian prior, now against the image itself, blurred.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from blinddeblur.physics.atmosphere import Blurs
from blinddeblur.physics.convolution import Blur, blur, gradients
from blinddeblur.physics.measurement import WRONG_KERNEL, Measurement, model_error
from blinddeblur.priors.kolmogorov import KolmogorovTilt
from blinddeblur.progress import Callback, Step, unseen
from blinddeblur.samplers import fast
from blinddeblur.samplers.restoration import first_image
from blinddeblur.samplers.schedule import Denoiser, log_spaced
from blinddeblur.turbulence import blur_width, registration
from blinddeblur.turbulence.tilt_step import CELL

SIGMAS = (0.3, 0.05)  # above what fast starts from: there the prior still has its say in how wide the blur is
# Measurements that all edges count for; they are more, but share the error of the prior. 37 single frames gained 3.57
# dB in the mean with none of them, 3.89 with 20, 4.18 with 100, 4.61 with 500; where the spectrum was right it cost up
# to 2 dB.
EVIDENCE = 300.0
REGISTRATIONS = 2  # of the tilts on the way, however many steps there are


def estimate(
    denoise: Denoiser,
    frames: Sequence[Tensor],
    tilts: Tensor,
    weights: Tensor,
    blurs: Blurs,
    prior: KolmogorovTilt,
    sigma: float,
    steps: int,
    generator: torch.Generator | None = None,
    callback: Callback = unseen,
) -> tuple[Tensor, Tensor]:
    """Refine the image, the blur that the frames share and the tilts of all frames together.

    Args:
        frames: N of (1, 1, H, W).
        tilts: (N, 2, h, w), where they start.
        weights: (N,), not negative, how much each frame counts; they sum to 1.
        blurs: of which one is chosen.
        prior: of the tilts.
        sigma: standard deviation of the noise of a frame.
        steps: number of noise levels.
        generator: of the injected noise, on the CPU.

    Returns the kernel (K, K) of the blur, and tilts as `registration.register` has them. The image follows from both.
    """
    left = sigma * float(weights.square().sum().sqrt())
    seen = registration.still(frames, tilts, weights, sigma)
    belief = blur_width.from_spectrum(seen, blurs, left)
    if len(frames) > 1:
        belief = belief + blur_width.from_tilts(tilts, CELL, prior, blurs)
    kernel, y = blurs.kernels[blur_width.median(belief)], Measurement.of(seen)
    x, error = first_image(denoise, y, Blur.uniform(kernel), left), model_error(left, WRONG_KERNEL)
    noise = fast.fresh_noise(x, steps, generator)
    registrations = {round((i + 1) * steps / (REGISTRATIONS + 1)) for i in range(REGISTRATIONS)}
    for index, level in enumerate(log_spaced(*SIGMAS, steps)):
        x0 = denoise(x + level * noise[index], level)
        kernel = blurs.kernels[blur_width.median(belief + evidence(x0, y, blurs))]
        if len(frames) > 1 and index in registrations:
            expected = blur(x0, kernel)
            tilts = registration.registered(frames, expected, tilts, prior, sigma)
            y = Measurement.of(registration.fused(frames, tilts, weights, expected, sigma))
        x = fast.explaining(x0, y, Blur.uniform(kernel), error, level)
        callback(Step(index, steps, x, kernel))
    return kernel, tilts


def evidence(x0: Tensor, y: Measurement, blurs: Blurs) -> Tensor:
    """(M,): the logarithm of how likely the edges of y are under each blur, for an image that reaches beyond y."""
    misfits = [gradients(blur(x0, kernel) - y.y).square().mean() for kernel in blurs.kernels]
    return -EVIDENCE / 2 * torch.stack(misfits).log()
