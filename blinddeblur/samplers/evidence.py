"""Which of several kernels explains a photo best, told without the truth: the sharper the picture, the fewer its edges.

A wrong kernel leaves ringing in the restored image, or a residual, or both. So each kernel is judged by a short
restoration: by how well it explains the photo, and by how natural its gradients are. Blur itself leaves the fewest
edges, so that this cannot tell whether a photo is blurred at all.
"""

import math

from torch import Tensor

from blinddeblur.physics.convolution import blur, gradients
from blinddeblur.physics.measurement import Measurement
from blinddeblur.samplers.restoration import model_error, restore
from blinddeblur.samplers.schedule import Denoiser

STEPS = 6  # of the restoration; more tells no more
EXPONENT = 0.5  # of the density of gradients, exp(-|g / scale|^EXPONENT); 0.5 to 0.8 fits photos (Krishnan 2009)


def log_evidence(denoise: Denoiser, y: Measurement, kernel: Tensor, sigma: float) -> float:
    """How probable a kernel makes the photo: log p(y, x | k) for a pixel but for a constant, x being restored with it.

    The residual is Gaussian. Gradients follow a hyper-Laplacian density exp(-|g / b|^a) / (c b) whose scale b, which
    differs from photo to photo, is the likeliest one: then (1 / a) log mean |g|^a is all that remains of it,

        log p = - |y - k * x|^2 / (2 s^2) - (2 / a) log mean |grad x|^a.

    Args:
        denoise: the image prior.
        y: the measurement, (1, C, H, W).
        kernel: (K, K).
        sigma: standard deviation of the noise of y.
    """
    x = restore(denoise, y, kernel, sigma, STEPS)
    roughness = gradients(x).abs().pow(EXPONENT).mean().log()
    return -0.5 * (residual(x, y, kernel) / model_error(sigma)) ** 2 - 2 / EXPONENT * float(roughness)


def residual(x: Tensor, y: Measurement, kernel: Tensor) -> float:
    """Root mean square of what an image (1, C, H, W), blurred again, leaves of the photo.

    Over the part of the frame that the unseen border does not reach; more light than clipped pixels is no fault.
    """
    radius = kernel.shape[-1] // 2
    inner = y.map(lambda pixels: pixels[..., radius : pixels.shape[-2] - radius, radius : pixels.shape[-1] - radius])
    rest = (inner.light(inner.y) - blur(inner.light(x), kernel)) / inner.slope(inner.y)
    return math.sqrt(float(rest.masked_fill(inner.clipped & (rest < 0), 0).square().mean()))
