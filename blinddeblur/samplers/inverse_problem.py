"""Any inverse problem y = A(a, b, ...) with several unknowns: BlindDPS (arXiv 2211.10656) for an operator of your own.

Blind deblurring and imaging through turbulence are two calls of it.
"""

import inspect
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from blinddeblur.errors import EstimationError, UsageError
from blinddeblur.priors.ddpm import linear_alpha_bar
from blinddeblur.samplers import parallel
from blinddeblur.samplers.parallel import STEP_SIZE, STEPS, Estimates, Unknown, clipped
from blinddeblur.samplers.schedule import Diffusion, Predicts


def distance(y: Tensor, predicted: Tensor) -> Tensor:
    """||y - predicted||_2, for Gaussian noise: the norm itself and not its square."""
    return torch.linalg.vector_norm(y - predicted)


def sample_posterior(
    measurement: Tensor,
    operator: Callable[..., Tensor],
    priors: Mapping[str, Predicts | Diffusion | None],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    steps: int = STEPS,
    step_size: float | Mapping[str, float] = STEP_SIZE,
    misfit: Callable[[Tensor, Tensor], Tensor] = distance,
    penalty: Callable[..., Tensor] | None = None,
    alpha_bar: Tensor | None = None,
    clip: bool = True,
    generator: torch.Generator | None = None,
    callback: Callable[[int, Estimates], None] = lambda index, estimates: None,
) -> Estimates:
    """Draw all unknowns of measurement = operator(a=..., b=...) + noise from their joint posterior.

    Every unknown lives on [-1, 1], the scale on which priors predict: there the operator is given it and there it is
    returned. What that stands for is the operator's to say: (image + 1) / 2 for the pixels of a photo, (kernel + 1) / 2
    for a kernel whose largest value is 1, prior.unit * tilt for the pixels of a KolmogorovTilt.

    Each unknown with a prior has a reverse diffusion of its own, all run in parallel, and at each step all move down
    one gradient, taken through the priors; one without a prior starts from 0 and moves down the gradient alone:

        a_{t-1} <- sample of p(a_{t-1} | a_t) - step size * grad_{a_t} [misfit(y, A(a_0(a_t), b_0(b_t), ...)) + penalty]

    Args:
        measurement: y, of any shape and scale; it says on which device the priors compute.
        operator: A, called with all unknowns by their names; differentiable in each; returns what has y's shape.
        priors: by name: what load_prior gives, an analytic prior, anything with predict(x_t, t, alpha_bar) or such a
            function itself; or None for nothing known but the range (uniform on [-1, 1]).
        shapes: of each unknown, by name: (B, C, H, W) where its prior is a network's, (B, 2, H, W) for a tilt.
        steps: of the reverse diffusion, 1 to 1000; fewer are quicker and more rigid.
        step_size: for all unknowns, or by name (0.3 where none is named). The gradient of a norm does not shrink near
            the answer: a number that a whole image pulls at needs steps of about 0.001 to 0.01.
        misfit: (y, A) -> a number: how badly the measurement is explained. By default the Euclidean distance.
        penalty: called as the operator is: a number that should be small as well, such as a sparsity.
        alpha_bar: (T,), the schedule of the priors; by default the usual one, 1000 steps, linear.
        clip: bring the estimates a_0 of the priors into [-1, 1].
        generator: of all randomness, on the CPU: the same seed, the same result.
        callback: told of every step: its index from 0, and the estimates by name.

    Returns:
        the unknowns by name, on [-1, 1] but for the last move down the gradient.

    Raises:
        UsageError: names or shapes do not belong together, or the operator does not depend on an unknown.
        EstimationError: something became not a number on the way.

    Example:
        >>> found = sample_posterior(  # an image under stripes  # doctest: +SKIP
        ...     y, lambda image, stripes: image + stripes,
        ...     priors={"image": load_prior("photo"), "stripes": None},
        ...     shapes={"image": (1, 3, 96, 96), "stripes": (1, 1, 96, 1)},
        ...     step_size={"stripes": 0.01},
        ... )
    """
    sizes = step_size if isinstance(step_size, Mapping) else dict.fromkeys(priors, step_size)
    schedule = linear_alpha_bar() if alpha_bar is None else alpha_bar
    _check_options(priors, shapes, sizes, steps, len(schedule))

    def objective(estimates: Estimates) -> Tensor:
        value = misfit(measurement, operator(**estimates))
        return value if penalty is None else value + penalty(**estimates)

    unknowns = {}
    for name, prior in priors.items():
        predict = None if prior is None else _diffusion(name, prior, shapes[name], clip)
        unknowns[name] = Unknown(tuple(shapes[name]), predict, sizes.get(name, STEP_SIZE))
    _check_operator(measurement, operator, unknowns)
    return parallel.sample(unknowns, objective, steps, schedule, generator, measurement.device, callback)


def _diffusion(name: str, prior: Predicts | Diffusion, shape: tuple[int, ...], clip: bool) -> Diffusion:
    channels, side = getattr(prior, "channels", None), getattr(prior, "image_size", None)
    if channels is not None and (len(shape) != 4 or shape[1] != channels):
        raise UsageError(f"The prior of the {name} takes (B, {channels}, H, W); its shape is {tuple(shape)}.")
    if side is not None and tuple(shape[2:]) != (side, side):
        raise UsageError(f"The prior of the {name} knows only {side} x {side} pixels; its shape is {tuple(shape)}.")
    predict = getattr(prior, "predict", prior)
    if not callable(predict):
        raise UsageError(f"The prior of the {name} can neither predict nor be called. Give None if there is none.")
    return clipped(predict) if clip else predict


def _check_options(
    priors: Mapping[str, object],
    shapes: Mapping[str, tuple[int, ...]],
    sizes: Mapping[str, float],
    steps: int,
    longest: int,
) -> None:
    if not priors:
        raise UsageError("There is nothing to find. Name each unknown among the priors, with None if it has none.")
    if set(shapes) != set(priors):
        odd = ", ".join(sorted(set(shapes) ^ set(priors)))
        raise UsageError(f"Each unknown needs a prior, which may be None, and a shape. One is missing of: {odd}.")
    for name, shape in shapes.items():
        if not shape or not all(isinstance(side, int) and side > 0 for side in shape):
            raise UsageError(f"The shape of the {name} is {tuple(shape)}. Give positive whole numbers.")
    if strange := sorted(set(sizes) - set(priors)):
        raise UsageError(f"A step size is given for {', '.join(strange)}, which is none of the unknowns.")
    for name, size in sizes.items():
        if not 0 <= size < float("inf"):
            raise UsageError(f"The step size of the {name} is {size}. Give a number, zero or larger.")
    if not 1 <= steps <= longest:
        raise UsageError(f"The number of steps must lie between 1 and {longest}, not {steps}.")


def _check_operator(measurement: Tensor, operator: Callable[..., Tensor], unknowns: Mapping[str, Unknown]) -> None:
    """Try the operator before minutes are spent, at the middle of all ranges."""
    if not torch.isfinite(measurement).all():
        raise EstimationError(
            "The measurement holds values that are not numbers. Mask them in measurement and operator."
        )
    try:
        inspect.signature(operator).bind(**unknowns)
    except TypeError as error:
        raise UsageError(f"The operator does not take the unknowns {', '.join(unknowns)}: {error}.") from error
    middle = {n: torch.zeros(u.shape, device=measurement.device, requires_grad=True) for n, u in unknowns.items()}
    with torch.enable_grad():
        predicted = operator(**middle)
    if predicted.shape != measurement.shape:
        raise UsageError(
            f"The operator answers with {tuple(predicted.shape)}, and the measurement is {tuple(measurement.shape)}. "
            "They must be alike."
        )
    used = [False] * len(middle)
    if predicted.requires_grad:
        gradients = torch.autograd.grad(predicted.sum(), list(middle.values()), allow_unused=True)
        used = [gradient is not None for gradient in gradients]
    for name, depends in zip(middle, used, strict=True):
        if not depends:
            raise UsageError(f"The operator does not depend on the {name}, or is not differentiable in it.")
