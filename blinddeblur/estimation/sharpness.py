"""Whether a photo is sharp at pixel level, so that there is no blur to take away."""

from torch import Tensor

NO_BLUR = 0.8  # of the mass of a kernel in one pixel, from which on it is none
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # rows and columns from a pixel to its neighbour
RIM = 4  # pixels at the edge that are left out
STEEPEST = 0.97  # share of the pixels that are no edges
CLEAR = 8.0  # standard deviations of the noise by which an edge stands out
EDGES = 50  # fewer tell nothing
LOOKED_AT = 2_000_000  # pixels: more tell no more
# Of 24 sharp Kodak photos with noise of 0 to 3 % the least have .495 and .362, half of them more than .58 and .435.
# Under shake, lines and defocus of 3 to 12 pixels nine in ten stay below .51 and .37, Levin's photos below .42 and .30.
SHARP_EDGES, SHARP_DETAIL = 0.5, 0.36


def is_sharp(y: Tensor, sigma: float) -> bool:
    """Whether edges and finest details look as in a photo without blur, in all directions.

    Two quantities, each the least over four directions, since motion leaves edges along its path sharp. Edges: the
    share of the step over three pixels that lies between the middle two, of the steepest edges. Detail: power of the
    differences between neighbours over that between next but one, less the noise; it is a quarter where all is smooth.

    Args:
        y: (B, C, H, W) in [0, 1]: a photo, or patches of one.
        sigma: standard deviation of its noise.
    """
    grey = y.mean(dim=1)
    variance = sigma**2 / y.shape[1]
    edges, detail = [], []
    for row, column in DIRECTIONS:
        before, here, next_, after = (_moved(grey, by * row, by * column) for by in (-1, 0, 1, 2))
        near, wide, double = (next_ - here).abs(), (after - before).abs(), after - here
        fine, coarse = (float(d.square().mean()) - 2 * variance for d in (near, double))
        detail.append(fine / coarse if coarse > variance else 0.0)
        threshold = max(float(wide.kthvalue(max(1, int(STEEPEST * len(wide)))).values), CLEAR * variance**0.5)
        found = wide >= threshold
        edges.append(
            float((near[found] / wide[found]).quantile(0.75)) if int(found.sum()) >= EDGES and threshold else 0.0
        )
    return min(edges) > SHARP_EDGES and min(detail) > SHARP_DETAIL


def _moved(grey: Tensor, row: int, column: int) -> Tensor:
    """The pixels of (B, H, W) that lie (row, column) from those within the rim, evenly thinned out."""
    height, width = grey.shape[1:]
    inner = grey[:, RIM + row : height - RIM + row, RIM + column : width - RIM + column].flatten()
    return inner[:: max(1, len(inner) // LOOKED_AT)]
