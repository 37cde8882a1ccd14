"""How the power of sharp photos falls with frequency, as a prior: roughly by a power law, whatever they show.

So a spectrum that falls faster tells of blur, and how wide it is (Field 1987, "Relations between the statistics of
natural images and the response properties of cortical cells"). No network.
"""

import torch
from torch import Tensor

# Of log power over log frequency, on 166 training photos; five collections differ by up to 0.7 in their mean slopes.
SLOPE, SLOPE_DEVIATION = -2.75, 0.45
RESIDUAL = 0.25  # standard deviation of the logarithm of the power around such a law
RESIDUAL_LENGTH = 0.35  # difference of the logarithm of frequency over which what is around the law falls to 1 / e
BAND_WIDTHS = 2.0  # frequencies that a Hann window makes into one
ABOVE_NOISE = 3.0  # a band counts where its power is so many times that of the noise
LEAST_BANDS = 6  # fewer tell nothing


def log_likelihood(power: Tensor, transfers: Tensor, noise: float, frequencies: Tensor, counts: Tensor) -> Tensor:
    """How likely each blur makes the spectrum of a picture, up to a constant: (M,).

    Log power is Gaussian: a free constant, a slope and a smooth residual, with the logarithm of the blur's transfer on
    top, and less the noise.

    Args:
        power: (B,) of the blurred picture in bands of frequency; not a number where there is none.
        transfers: (M, B), the squared transfer functions of M blurs.
        noise: power of white noise in the picture.
        frequencies: (B,) of the bands, in cycles per pixel.
        counts: (B,), how many frequencies each band's power was averaged over.
    """
    usable = (counts > 0) & (power > ABOVE_NOISE * noise) & (power > 0)
    if int(usable.sum()) < LEAST_BANDS:
        return power.new_zeros(len(transfers))
    power, counts, place = power[usable].double(), counts[usable].double(), frequencies[usable].log().double()
    sharp = (power - noise).log() - transfers[:, usable].double().clamp_min(1e-12).log()
    rest = sharp - SLOPE * place
    centred = place - place.mean()
    apart = (place[:, None] - place[None]).abs()
    covariance = SLOPE_DEVIATION**2 * torch.outer(centred, centred) + RESIDUAL**2 * torch.exp(-apart / RESIDUAL_LENGTH)
    covariance += torch.diag(BAND_WIDTHS / counts)
    weight = torch.linalg.inv(covariance)
    constant = (rest @ weight).sum(dim=1) / weight.sum()
    rest = rest - constant[:, None]
    return -0.5 * ((rest @ weight) * rest).sum(dim=1)
