"""Which of several kernels explains a photo best, told without the truth: the sharper the picture, the fewer its edges.

A wrong kernel leaves ringing in the restored image, or a residual, or both. So each kernel is judged by a short
restoration: by how well it explains the photo, and by how natural its gradients are. Blur itself leaves the fewest
edges, so that this cannot tell whether a photo is blurred at all.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from blinddeblur.physics.convolution import Blur, gradients
from blinddeblur.physics.measurement import Measurement
from blinddeblur.samplers.deblurring import Deblurring, model_error, residual
from blinddeblur.samplers.restoration import restore
from blinddeblur.samplers.schedule import Denoiser

STEPS = 6  # of the restoration; more tells no more
EXPONENT = 0.5  # of the density of gradients, exp(-|g / scale|^EXPONENT); 0.5 to 0.8 fits photos (Krishnan 2009)
LIT = 0.05  # of the maximum: more is part of the kernel
# Agreement with the true kernel (MNC) as a logistic function of how much rougher the restored image is than the photo,
# and of the number of pixels of the kernel. Fitted to 52 kernels of training photos; it correlates with the agreement
# to .80 on Kodak's under random kernels and to .85 on Levin's, neither of which it was fitted to (RESULTS.md).
CONFIDENCE = (3.3, -0.81, -0.41)

DOUBTED = 0.66  # confidence from which on a kernel is taken as true: good ones of camera shake have more (RESULTS.md)
# Standard deviation, in image units, that each unit of confidence below DOUBTED adds to the noise: with wrong kernels
# at .6 an error of .03 gains 2 dB, at .5 and less one of .1 (RESULTS.md).
ERROR = 0.5
WORST = 0.2  # units of confidence below DOUBTED beyond which no more is added


@dataclass(frozen=True)
class Estimate:
    """A kernel and what speaks for it.

    Attributes:
        kernel: (K, K).
        evidence: how probable the kernel makes the photo: log p(y, x | k) for a pixel but for a constant.
        confidence: the agreement with the true kernel (MNC) to be expected, from 0 to 1.
    """

    kernel: Tensor
    evidence: float
    confidence: float

    @property
    def error(self) -> float:
        """What the kernel's own error adds to the noise, as a standard deviation in image units.

        Deconvolution with a wrong kernel rings; a restoration that is told of the error rings less.
        """
        return ERROR * min(WORST, max(0.0, DOUBTED - self.confidence))


def judge(denoise: Denoiser, y: Measurement, kernel: Tensor, sigma: float) -> Estimate:
    """What speaks for a kernel, by the image x that is restored with it.

    The residual is Gaussian. Gradients follow a hyper-Laplacian density exp(-|g / b|^a) / (c b) whose scale b, which
    differs from photo to photo, is the likeliest one: then (1 / a) log mean |g|^a is all that remains of it,

        log p(y, x | k) = - |y - k * x|^2 / (2 s^2) - (2 / a) log mean |grad x|^a.

    Args:
        y: the measurement, (1, C, H, W).
        kernel: (K, K).
        sigma: standard deviation of the noise of y.
    """
    blur = Blur.uniform(kernel)
    x = restore(Deblurring(denoise, y, blur, sigma, STEPS))
    roughness = float(gradients(x).abs().pow(EXPONENT).mean().log())
    evidence = -0.5 * (residual(x, y, blur) / model_error(sigma)) ** 2 - 2 / EXPONENT * roughness
    rougher = float((gradients(x).abs().mean() / gradients(y.y).abs().mean().clamp_min(1e-6)).log())
    pixels = int((kernel > LIT * kernel.max()).sum())
    constant, by_roughness, by_size = CONFIDENCE
    confidence = 1 / (1 + math.exp(-constant - by_roughness * rougher - by_size * math.log(pixels)))
    return Estimate(kernel, evidence, confidence)
