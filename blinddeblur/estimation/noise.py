"""How noisy a measurement is: the standard deviation of everything in it that is not the blurred image.

Noise that shows is measured in the finest details of the calmest blocks. JPEG hides noise and adds an error of its
own, which a restoration amplifies just the same: where pixels betray the blocks of a JPEG file, that error is worked
out from its quantisation. Everything here but the answer counts in levels of 8 bits, [0, 255].
"""

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from blinddeblur.physics.measurement import cut_off

QUANTISATION = 0.29 / 255  # standard deviation of rounding to 8 bits
ROUNDING = 1 / 12  # the same as a variance, in levels

SIDE = 8  # of a block in pixels, as in JPEG
ORDER = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)).flatten()  # of a detail, a DCT coefficient (i, j): i + j
COARSE = (ORDER >= 2) & (ORDER < 6)  # tells texture from calm; slopes of brightness, below, do no harm
MIDDLE = (ORDER >= 6) & (ORDER < 9)
FINE = ORDER >= 9  # 21 of the 64
BLOCKS = 20_000  # looked at, at most, evenly spread over the photo: more cost time and tell no more
CALMEST = 64  # blocks measured, of each group: sigma to 3 %
GROUPS = 5  # of brightness, with the same number of blocks: a sensor's noise depends on it
WHITE = 1.25  # energy of middle details against fine ones in the calmest blocks: 1 for noise, 1.5 to 2.4 for texture
SOFT = 4  # energy of middle details against fine ones, from which on what is fine is not texture but noise
# Median over mean of the energy of as many details: (1 - 2 / (9 n))^3 of chi squared.
MEDIAN = 0.969
# Too much noise misleads the likelihood of a spectrum less than too little: errors of 5 % down and 20 % up are alike.
AIM = 1.04
STEEP = 2.5  # energy of middle details against fine ones, of noise that enlarging or smoothing made coarse
HALVED = 2  # of the variance of coarse noise, what the mean of 2 x 2 pixels loses
CHECKERED = 6  # standard deviations by which tiles agree on the fields of a checkerboard, more than chance ever makes
COARSER = (ORDER >= 2) & (ORDER < 5)  # tells texture from calm where the next two diagonals are measured
# Details that in demosaicked noise have the energy of white noise of its variance: 0.9 in red and blue to 1.2 in green.
LIKE_WHITE = (ORDER >= 5) & (ORDER < 7)
# Of the square of a demosaicked picture's roughness in the square of what interpolation missed, 3 and 1 parts in ideal
# red and green: 0.75 to 1.2. Chosen on training photos.
MISSED = 0.9
# The same for halved chroma: 0.25 for small frequencies (halved by mean, enlarged by `_doubled`), less for others.
HALVING = 0.2
LUMA = (0.299, 0.587, 0.114)  # weights of R, G and B in Y (JFIF)
CHROMA = ((-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # weights of R, G and B in Cb and in Cr (JFIF)
# Of the variance of Cb and of Cr in the mean over R, G and B: (1.772^2 + 0.344^2) / 3 and (1.402^2 + 0.714^2) / 3.
SHARES = (1.086, 0.825)
KEPT = (5 + 3 * torch.cos(math.pi / SIDE * torch.arange(SIDE))) / 8  # of variance at each frequency, in `_doubled`
# Energy of a coefficient that is next to always zero: at most the square of its step by this; 12 if all sizes up to
# half a step were as frequent. More overrates strongly blurred pictures.
SMALL = 48
# Levels by which enlarging half a chroma plane misses it, in the median: 0.27 at most where JPEG had halved it. Where
# it had not, 3.5 as a rule under noise of 10 levels or more, but as little in smooth or clipped photos: there the
# number of coefficients decides.
SAME = 0.3
DULL = 0.25  # of the noise of luma, what halved chroma shows at most; 0.85 where noise is independent in R, G and B
ZEROED = 0.1  # share of the coefficients of a diagonal beyond zero, below which their energy is told by the one before
FALL = 0.55  # of the energy of one diagonal of a blurred photo in the next, at most; .4 to .6 as a rule
LATTICE = 0.3  # fit of the right step: .5 for one of 2, more for longer ones; .2 at most for 1; .2 to .4 err alike
ZERO = 2.5  # levels that rounding can give to what was zero; with 2 to 3 as many steps come out wrong, 6 to 7 %
FEW = 20  # sizes beyond zero tell no step with fewer than a third of this; 20 to 40 err alike
LEAD = 1.5  # zeros by which the origin of JPEG's blocks beats the next best: 3.7 or more, else 0.4 at most


def estimate_sigma(y: Tensor) -> float:
    """Standard deviation of the noise of a photo and of what JPEG did to it: root mean square over all pixels.

    Noise that depends on brightness is averaged over the photo. What demosaicking made of it counts, and what that
    missed of the picture. The answer is aimed a few percent high, as too low ones do more harm. What enlarging,
    smoothing or denoising left of the noise is found in part: most of it after enlarging, half after smoothing, a
    quarter after a bilateral filter.
    A sharp photo that is textured all over has its finest texture counted as noise.

    Args:
        y: (B, C, H, W) in [0, 1], C 1 or 3, H and W at least 16: a photo, or patches of one, cut at whole blocks of
            JPEG (multiples of 16 pixels).

    Returns sigma in image units, at least that of rounding to 8 bits, which is the answer where all is clipped.
    """
    planes = 255 * torch.cat(list(y), dim=-1).float()  # side by side
    clipped = cut_off(planes / 255).any(dim=0)
    colour = len(planes) == 3
    luma = torch.tensordot(planes.new_tensor(LUMA), planes, 1) if colour else planes[0]
    origin = _block_origin(luma.masked_fill(clipped, math.nan))
    traceless = origin is None and colour and _halved_chroma(planes, luma)
    if traceless:
        origin = (0, 0)  # of quality 97 and more, whose blocks leave no trace
    if origin is None:
        variances, blocks = zip(*(_visible_noise(plane, coarse=True) for plane in planes), strict=True)
        variance = sum(v * n for v, n in zip(variances, blocks, strict=True)) / max(1, sum(blocks))
    else:
        planes, luma, clipped = (plane[..., origin[0] :, origin[1] :] for plane in (planes, luma, clipped))
        hidden, sigma = _compression_error(luma.masked_fill(clipped, math.nan))
        variance = max(hidden, _visible_noise(luma, coarse=False)[0])
        if colour:
            variance += _chroma_error(planes, sigma)
            variance += 0 if traceless else ROUNDING  # luma without visible steps shows it already
    return max(AIM * math.sqrt(variance) / 255, QUANTISATION)


def _visible_noise(plane: Tensor, coarse: bool) -> tuple[float, int]:
    """Variance of the noise that shows in (H, W), coarse noise included if asked for, and how many blocks tell it."""
    if _checkered(plane):
        return _interpolated(plane)
    variances, slopes, blocks = _fine_noise(plane)
    told = (slopes < WHITE) | (slopes > SOFT)
    variance = float(variances.min())
    if told.any():  # where texture hides the noise, it is that of the nearest brightness
        places = torch.arange(len(told), device=told.device)
        nearest = (places[:, None] - places[told]).abs().argmin(dim=1)
        variance = float(torch.minimum(variances, variances[told][nearest]).mean())
    for scale in (2, 4) if coarse and min(plane.shape) >= 4 * SIDE else ():
        if variance < ROUNDING / 2 or slopes.min() < STEEP:
            break
        variances, slopes, _ = _fine_noise(F.avg_pool2d(plane[None], scale)[0])
        if slopes.min() < STEEP:  # what stays steep is the picture itself
            variance = max(variance, HALVED * float(variances.min()))
    return variance, blocks


def _checkered(plane: Tensor) -> bool:
    """Whether noise differs between the black and the white fields of a checkerboard: (H, W) was demosaicked.

    A pixel that was interpolated is nearer to the mean of its neighbours than one that was measured (Gallagher and
    Chen, CVPR 2008). In a tile of any other picture either kind may be.
    """
    sign = 1.0 - 2 * (ORDER % 2).to(plane)
    tiles = _blocks(_roughness(plane).square(), SIDE, SIDE, BLOCKS)
    return abs(float((tiles @ sign).sign().sum())) > CHECKERED * math.sqrt(max(1, len(tiles)))


def _interpolated(plane: Tensor) -> tuple[float, int]:
    """Variance of the noise of a demosaicked plane (H, W), with what was missed of the picture, and usable blocks.

    Interpolation makes noise coarse, and it errs where the picture bends: for small frequencies as the square of
    `_roughness`, by which the picture that is left is found rougher than the calmest blocks.
    """
    energy, groups = _groups(plane, COARSER)
    if not groups:
        return 0.0, 0
    noise = torch.stack([group.mean(dim=0) for group in groups]).mean(dim=0)
    bend = (1 - torch.cos(math.pi / SIDE * torch.arange(SIDE, device=plane.device))) / 2
    bend = (bend[:, None] + bend).flatten()  # roughness of a detail of unit size
    rough = _dct(_blocks(_roughness(plane), SIDE, 1, BLOCKS)).square().mean(dim=0) - noise * bend.square()
    # The picture lost half of its roughness itself; of the finest details too little is left to tell.
    rough = (rough / (1 - bend / 2).square())[ORDER < 9].sum().clamp_min(0) / SIDE**2
    return float(noise[LIKE_WHITE].mean() + MISSED * rough), len(energy)


def _roughness(plane: Tensor) -> Tensor:
    """(H, W) -> (H - 2, W - 2): the pixels minus the mean of the four around."""
    return plane[1:-1, 1:-1] - (plane[:-2, 1:-1] + plane[2:, 1:-1] + plane[1:-1, :-2] + plane[1:-1, 2:]) / 4


def _groups(plane: Tensor, coarse: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Energies of the usable blocks of (H, W), (N, 64), and of the calmest of each group of brightness, if enough."""
    blocks = _blocks(plane, SIDE, 1, BLOCKS)
    lost = cut_off(blocks / 255).sum(dim=1)
    energy = _dct(blocks[lost <= SIDE * SIDE // 16]).square()  # strong noise alone clips a few
    if len(energy) < CALMEST:
        return energy, []
    return energy, [_calmest(energy[group], coarse) for group in energy[:, 0].argsort().tensor_split(GROUPS)]


def _fine_noise(plane: Tensor) -> tuple[Tensor, Tensor, int]:
    """What the calmest blocks of (H, W) show, for each group of brightness.

    After Ponomarenko et al. (IGARSS 2007; Colom and Buades, IPOL 2013): blocks with the least energy in coarse
    details have next to no texture, and noise in other details does not depend on that choice.

    Returns energy of fine details (G,), that of middle ones against it (G,), and the number of usable blocks of all.
    """
    energy, groups = _groups(plane, COARSE)
    if not groups:
        return torch.zeros(1), torch.zeros(1), 0
    fine = [group[:, FINE].mean(dim=1) for group in groups]
    middle = torch.stack([group[:, MIDDLE].mean() for group in groups])
    # The median, since there may be textured blocks even among the calmest.
    return torch.stack([f.median() for f in fine]) / MEDIAN, middle / torch.stack([f.mean() for f in fine]), len(energy)


def _compression_error(plane: Tensor, kept: Tensor | None = None, expected: float = 0.0) -> tuple[float, float]:
    """Variance of the difference between what JPEG made of a noisy picture and the picture without noise.

    A coefficient y = s + n of signal and noise became Q(y). With the Wiener estimate w y of the signal, whose error
    has the variance w sigma^2, E |Q(y) - s|^2 = E |Q(y) - w y|^2 + w sigma^2. The width of y, taken as Laplacian
    (Lam and Goodman, IEEE TIP 2000), follows from the share p of the blocks in which Q(y) is not zero.

    Args:
        plane: (H, W), its first block whole, not a number where clipped.
        kept: (64,), of halved chroma: how much of an error's variance in each coefficient reaches the pixels.
        expected: sigma of the noise before JPEG, taken where the plane does not tell it.

    Returns the variance, and sigma of the noise before JPEG.
    """
    blocks = _blocks(plane, SIDE, SIDE, BLOCKS)
    coefficients = _dct(blocks[~blocks.isnan().any(dim=1)])
    if len(coefficients) < CALMEST:
        return 0.0, 0.0
    step = _steps(coefficients)
    sigma = _noise_before(coefficients, step, expected)
    energy = coefficients.square().mean(dim=0)
    rounding = energy.clamp_max(ROUNDING)  # as in the file, not in what Q made of y
    energy = energy - rounding
    half = (step / 2).clamp_min(0.5)
    p = (coefficients.abs() > half).float().mean(dim=0).clamp(1 / len(coefficients), 0.99)
    p[0] = 0.99  # brightness does not lie around zero
    width = half / (1 / p).log()
    lost = 2 * width**2 - (-half / width).exp() * (half**2 + 2 * half * width + 2 * width**2)  # E y^2 where zeroed
    spread = p * step**2 / 12  # E |Q(y) - y|^2 elsewhere
    w = (1 - sigma**2 / (energy - spread + lost).clamp_min(1e-6)).clamp_min(0)
    error = (1 - w) ** 2 * energy + w * (2 - w) * spread + w**2 * lost + w * sigma**2
    few = coefficients.abs().clamp_max(ZERO).square().mean(dim=0) - rounding  # seldom beyond zero is no error for that
    error = torch.where(step > 0, error, few.clamp_min(0)) + rounding
    if kept is not None:
        seen = (step > 0).float()
        error = (error + _zeroed(seen * w * (energy - spread + lost), seen * p, step)) * kept.to(error)
    return float(error.mean()), sigma


def _zeroed(known: Tensor, p: Tensor, step: Tensor) -> Tensor:
    """What a picture had in coefficients that became zero, (64,).

    Args:
        known: (64,), energy of the picture that the coefficients tell.
        p: (64,), in what share of the blocks they are not zero.
        step: (64,), of their quantisation, 0 where not known.
    """
    missing = torch.zeros_like(known)
    before, fall = 0.0, 0.0
    for order in range(1, 2 * SIDE - 1):
        here = torch.eq(ORDER, order)
        seen = float(known[here].sum())
        if p[here].mean() > ZEROED:
            before, fall = seen, min(FALL, seen / before) if before else FALL / 2  # slopes are but the first
        else:
            largest = float(step[torch.le(ORDER, order)].max()) ** 2 / SMALL
            missing[here] = min(max(0.0, fall * before - seen) / int(here.sum()), largest)
            before = seen + float(missing[here].sum())
    return missing


def _halved_chroma(planes: Tensor, luma: Tensor) -> bool:
    """Whether chroma of (3, H, W) lacks the noise that luma (H, W) has, and half of its rows and columns tell it."""
    chroma = torch.tensordot(planes.new_tensor(CHROMA[0]), planes, 1)
    noise = _visible_noise(luma, coarse=False)[0]
    if noise < ROUNDING or _visible_noise(chroma + 128, coarse=False)[0] > DULL * noise:  # a drawing has none at all
        return False
    return all(_as_coded(chroma)[1])


def _chroma_error(planes: Tensor, sigma: float) -> float:
    """What the error of the two chroma planes adds to the mean variance of R, G and B.

    Clipped pixels count here: they spoil few coefficients, and a saturated photo has hardly any others.

    Args:
        planes: (3, H, W), the first block of luma whole.
        sigma: of luma's noise before JPEG.
    """
    total = 0.0
    for weights, share in zip(CHROMA, SHARES, strict=True):
        plane, halved = _as_coded(torch.tensordot(planes.new_tensor(weights), planes, 1))
        expected = sigma * math.hypot(*weights) / math.hypot(*LUMA)  # from noise that is independent in R, G and B
        rows, columns = (KEPT if axis else torch.ones(SIDE) for axis in halved)
        kept = torch.outer(rows, columns).flatten() if any(halved) else None
        error, _ = _compression_error(plane, kept, expected / 2 ** (sum(halved) / 2))
        if all(halved):  # the picture lost details as well
            rough = _blocks(_roughness(plane).square(), SIDE, SIDE, BLOCKS).mean(dim=1)
            error += HALVING * float(rough.mean() - rough.quantile(0.1))
        total += share * error
    return total


def _as_coded(chroma: Tensor) -> tuple[Tensor, tuple[bool, bool]]:
    """Chroma (H, W) at the resolution and from the block at which JPEG coded it: there it needs fewest coefficients.

    Returns the plane, and whether it has half the rows and half the columns.
    """
    ways = [(chroma, (False, False))]
    plane = chroma
    for axis, halved in ((1, (False, True)), (0, (True, True))):
        if plane.shape[axis] < 4 * SIDE:
            break
        half = _halved(plane, axis)
        again = _doubled(half, axis)
        if float((again - plane.narrow(axis, 0, again.shape[axis])).abs().median()) > SAME:
            break
        plane = half
        # Where the photo was cropped, a block of chroma may begin in the middle of two of luma.
        starts = itertools.product(*((0, SIDE // 2) if axis else (0,) for axis in halved))
        ways += [(plane[row:, column:], halved) for row, column in starts]
    return min(ways, key=lambda way: _nonzeros(way[0]) / 2 ** sum(way[1]))


def _nonzeros(plane: Tensor) -> float:
    """Share of the coefficients of (H, W) that are not zero; rounding, of chroma and of pixels, makes 0.3 of that."""
    return float((_dct(_blocks(plane, SIDE, SIDE, BLOCKS)).abs() > 1).float().mean())


def _halved(plane: Tensor, axis: int) -> Tensor:
    """What `_doubled` made the plane (H, W) from; an odd last line is left out."""
    pairs = plane.unfold(axis, 2, 2).mean(dim=-1)
    half = pairs
    for _ in range(8):  # what is missing is halved at least every time
        half = half + pairs - _doubled(half, axis).unfold(axis, 2, 2).mean(dim=-1)
    return half


def _doubled(half: Tensor, axis: int) -> Tensor:
    """Chroma of half the resolution as libjpeg enlarges it: three parts of the nearer, one of the farther."""
    length = half.shape[axis]
    before = torch.cat([half.narrow(axis, 0, 1), half.narrow(axis, 0, length - 1)], axis)
    after = torch.cat([half.narrow(axis, 1, length - 1), half.narrow(axis, length - 1, 1)], axis)
    return torch.stack([(3 * half + before) / 4, (3 * half + after) / 4], axis + 1).flatten(axis, axis + 1)


def _block_origin(luma: Tensor) -> tuple[int, int] | None:
    """Row and column of JPEG's first whole block: where most coefficients are zero (Nikoukhah et al., IPOL 2021)."""
    side = 2 * SIDE - 1  # holds a block at each of the 64 possible origins
    windows = _blocks(luma, side, SIDE, 4000)
    windows = windows[~windows.isnan().any(dim=1)].reshape(-1, side, side)
    if len(windows) < 16:
        return None
    windows = windows[:: math.ceil(len(windows) / 400)]
    shifted = windows.unfold(1, SIDE, 1).unfold(2, SIDE, 1).reshape(-1, SIDE * SIDE, SIDE * SIDE)
    zeros = (_dct(shifted).abs() < 0.5).float().sum(dim=2).mean(dim=0)
    best, second = zeros.topk(2)[0].tolist()
    return divmod(int(zeros.argmax()), SIDE) if best - second > LEAD else None


def _steps(coefficients: Tensor) -> Tensor:
    """Quantisation step of each of the 64 coefficients: the one whose multiples its sizes lie at; 0 where all are zero.

    Sizes that lie at no multiples but are many have a step of 1, which rounding hides.
    """
    sizes = (2 * coefficients.abs()).round().long().clamp_max(511) + 512 * torch.arange(64, device=coefficients.device)
    counts = torch.bincount(sizes.flatten(), minlength=64 * 512).reshape(64, 512).float()
    size = torch.arange(512, device=counts.device)[:, None] / 2
    tried = torch.arange(2, 128, device=counts.device)
    # 1 at a multiple, -1 between two, and where a size would have become zero.
    fit = torch.where(size < tried / 2, -1.0, torch.cos(2 * math.pi * size / tried))
    beyond = (size >= (tried / 2).clamp(1.5, ZERO)).float()
    score, best = ((counts @ (fit * beyond)) / (counts @ beyond).clamp_min(FEW)).max(dim=1)
    several = (counts[:, int(2 * ZERO) :].sum(dim=1) >= FEW).float()
    step = torch.where(score > LATTICE, tried[best].float(), several)
    step[0] = step[[1, SIDE]].max()  # brightness has many sizes, but a step like its neighbours'
    return step


def _noise_before(coefficients: Tensor, step: Tensor, expected: float) -> float:
    """sigma of the noise before JPEG: such as leaves the energy that the calmest blocks have, or one coefficient's.

    Noise n ~ N(0, sigma^2) quantised in steps q has the energy q^2 sum_l (2 l + 1) P(|n| > (l + 1/2) q). Of the
    answers of the block's diagonals the lower quartile is taken, since texture only adds.
    """
    energy = _calmest(coefficients.square(), (ORDER >= 1) & (ORDER < 4))
    sigmas = 0.15 * 1.04 ** torch.arange(150, device=step.device)[:, None, None]
    level = torch.arange(100, device=step.device)[:, None]
    outside = torch.special.erfc((level + 0.5) * step / (math.sqrt(2) * sigmas))
    left = (step**2 * (2 * level + 1) * outside).sum(dim=1)
    answers = []
    for order in range(4, 12):  # those above are next to always zero
        known = (order == ORDER) & (step > 0).cpu()
        if known.sum() >= 3:
            one = step[known].square().mean() / (len(energy) * int(known.sum()))
            seen = (energy[:, known].mean() - ROUNDING).clamp_min(one)
            answers.append(float(sigmas[(left[:, known].mean(dim=1) - seen).abs().argmin()]))
    return sorted(answers)[len(answers) // 4] if answers else expected


def _calmest(energy: Tensor, coarse: Tensor) -> Tensor:
    """The rows of (N, 64) with the least energy in coarse details, (64,)."""
    return energy[energy[:, coarse].sum(dim=1).topk(min(CALMEST, len(energy)), largest=False).indices]


def _blocks(plane: Tensor, side: int, stride: int, limit: int) -> Tensor:
    """(H, W) -> (N, side^2): blocks at multiples of the stride, thinned out evenly to at most about the limit."""
    blocks = plane.unfold(0, side, stride).unfold(1, side, stride)
    thin = max(1, math.ceil(math.sqrt(blocks.shape[0] * blocks.shape[1] / limit)))
    return blocks[::thin, ::thin].reshape(-1, side * side)


def _dct(blocks: Tensor) -> Tensor:
    """Orthonormal discrete cosine transform of blocks, (..., 64)."""
    i, x = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    rows = torch.cos(math.pi / SIDE * i * (x + 0.5)) * math.sqrt(2 / SIDE)
    rows[0] = math.sqrt(1 / SIDE)
    return blocks @ torch.kron(rows, rows).T.to(blocks)
