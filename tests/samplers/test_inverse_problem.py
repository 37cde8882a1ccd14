"""Any inverse problem by sample_posterior: its relatives are calls of it, and what cannot be is said in words."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from gaussian import Gaussian
from torch import Tensor

import blinddeblur
from blinddeblur import sample_posterior
from blinddeblur.errors import EstimationError, UsageError
from blinddeblur.physics import kernels
from blinddeblur.physics.convolution import blur
from blinddeblur.priors.ddpm import linear_alpha_bar
from blinddeblur.priors.kolmogorov import KolmogorovTilt
from blinddeblur.samplers import blinddps, parallel
from blinddeblur.samplers.parallel import Estimates, Unknown, clipped

DOCS = Path(__file__).parents[2] / "docs"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def product(numbers: Tensor, factor: Tensor) -> Tensor:
    return numbers * factor


def problem(**changes: Any) -> dict[str, Any]:
    """Roughly known numbers times an unknown factor."""
    return {
        "measurement": torch.linspace(0.1, 0.5, 40),
        "operator": product,
        "priors": {"numbers": Gaussian(0.4, 0.2), "factor": None},
        "shapes": {"numbers": (40,), "factor": (1,)},
        "steps": 20,
        "step_size": {"factor": 0.01},
    } | changes


@pytest.mark.usefixtures("in_float64")
def test_blind_deblurring_is_a_call_of_it() -> None:
    """Algorithm 1 with its penalty: the very numbers of `blinddps`."""
    y = torch.rand(1, 1, 12, 14, generator=generator(3))
    mean = torch.full((1, 1, 64, 64), -1.0)
    mean[..., 31:34, 30:35] = 0.7
    priors = {"image": Gaussian(0.1, 0.5, v=0.4), "kernel": Gaussian(mean, 0.3)}
    image, kernel = blinddps.sample(
        priors["image"], priors["kernel"], y, 5, 20, sparsity_weight=0.5, generator=generator(1)
    )
    found = sample_posterior(
        2 * y - 1,
        lambda image, kernel: blur(image, kernels.from_prior((kernel + 1) / 2, 5)[0, 0]),
        priors,
        {"image": (1, 1, 16, 18), "kernel": (1, 1, 64, 64)},
        steps=20,
        penalty=lambda image, kernel: 0.5 * blinddps.sparseness((kernel + 1) / 2, "l1"),
        generator=generator(1),
    )
    torch.testing.assert_close(kernels.from_prior((found["kernel"] + 1) / 2, 5)[0, 0], kernel)
    torch.testing.assert_close((found["image"][..., 2:14, 2:16] + 1) / 2, image)


def test_it_is_parallel_diffusion_of_what_is_named() -> None:
    """Its defaults, and every option where it is not the default."""
    y, told = torch.linspace(0.1, 0.5, 40), []
    prior = Gaussian(0.4, 0.9)
    for clip, power, weight in ((True, 2, 0.0), (False, 1, 0.3)):

        def objective(e: Estimates, power: int = power, weight: float = weight) -> Tensor:
            rest = y - e["numbers"] * e["factor"]
            return torch.linalg.vector_norm(rest, ord=power) + weight * e["factor"].abs().sum()

        unknowns = {
            "numbers": Unknown((40,), clipped(prior) if clip else prior, 0.3),
            "factor": Unknown((1,), None, 0.01),
        }
        alpha_bar = linear_alpha_bar() if clip else torch.linspace(0.99, 0.01, 50)
        expected = parallel.sample(unknowns, objective, 20, alpha_bar, generator(2))
        options: dict[str, Any] = {}
        if not clip:
            options = {
                "misfit": lambda y, predicted: (y - predicted).abs().sum(),
                "penalty": lambda numbers, factor: 0.3 * factor.abs().sum(),
                "alpha_bar": alpha_bar,
                "clip": False,
                "callback": lambda index, estimates: told.append((index, sorted(estimates))),
            }
        priors = {"numbers": prior, "factor": None}
        found = sample_posterior(**problem(priors=priors, generator=generator(2), **options))
        torch.testing.assert_close(found, expected)
    assert told == [(index, ["factor", "numbers"]) for index in range(20)]


def test_a_prior_that_predicts_and_the_function_itself_are_the_same() -> None:
    tilt = KolmogorovTilt(2, 8)
    y = tilt.sample(1, 12, 12, generator(4))
    found = [
        sample_posterior(
            y, lambda tilt: 3 * tilt, {"tilt": prior}, {"tilt": (1, 2, 12, 12)}, steps=5, generator=generator()
        )
        for prior in (tilt, tilt.predict)
    ]
    assert torch.equal(found[0]["tilt"], found[1]["tilt"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"priors": {}, "shapes": {}}, "nothing to find"),
        ({"shapes": {"numbers": (40,)}}, "One is missing of: factor"),
        ({"priors": {"numbers": None}}, "One is missing of: factor"),
        ({"shapes": {"numbers": (40,), "factor": ()}}, "shape of the factor"),
        ({"shapes": {"numbers": (40,), "factor": (0,)}}, "shape of the factor"),
        ({"step_size": {"facto": 0.1}}, "given for facto"),
        ({"step_size": float("nan")}, "step size of the numbers is nan"),
        ({"steps": 0}, "between 1 and 1000"),
        ({"steps": 1001}, "between 1 and 1000"),
        ({"priors": {"numbers": 3, "factor": None}}, "neither predict nor be called"),
        ({"operator": lambda numbers: numbers}, "does not take the unknowns numbers, factor"),
        ({"operator": lambda numbers, factor: numbers[:3] * factor}, r"answers with \(3,\).*is \(40,\)"),
        ({"operator": lambda numbers, factor: numbers}, "does not depend on the factor"),
        ({"operator": lambda numbers, factor: numbers * factor.detach()}, "does not depend on the factor"),
        ({"operator": lambda numbers, factor: torch.zeros(40)}, "does not depend on the numbers"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_sampled(changes: dict[str, Any], words: str) -> None:
    def told(index: int, estimates: Estimates) -> None:
        raise AssertionError("it began")

    with pytest.raises(UsageError, match=words):
        sample_posterior(**problem(callback=told, **changes))


@pytest.mark.parametrize(("shape", "words"), [((1, 1, 8, 8), "3, H, W"), ((3, 8, 8), "3, H, W")])
def test_shapes_that_a_network_does_not_take(shape: tuple[int, ...], words: str) -> None:
    photo = blinddeblur.load_prior("photo")
    with pytest.raises(UsageError, match=f"prior of the image takes .*{words}"):
        sample_posterior(torch.zeros(shape), lambda image: image, {"image": photo}, {"image": shape})


def test_a_measurement_that_is_not_a_number() -> None:
    with pytest.raises(EstimationError, match="Mask them"):
        sample_posterior(**problem(measurement=torch.full((40,), float("nan"))))


def test_the_example_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very code that stands there, on a part of a photograph."""
    monkeypatch.chdir(tmp_path)
    sheet = cv2.imdecode(np.fromfile(DOCS / "priors.jpg", np.uint8), cv2.IMREAD_COLOR)
    cv2.imencode(".png", sheet[48:112, 5 * 192 + 48 : 5 * 192 + 112])[1].tofile("photo.png")  # the rafters
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "inverse-problems.md").read_text(encoding="utf-8"), re.DOTALL)
    code = next(block for block in blocks if "photo.png" in block)
    assert code.count("\n") < 40
    names: dict[str, Any] = {}
    exec(compile(code, "docs/inverse-problems.md", "exec"), names)
    truth, found, y, x = names["truth"], names["vignette"], names["y"], names["x"]

    def error(a: Tensor, b: Tensor) -> float:
        return float((a - b).square().mean().sqrt())

    fall = names["fall"]
    assert error(fall(found), fall(truth)) < 0.4 * error(torch.ones(64, 64), fall(truth))  # none at all
    assert error(fall(found), fall(truth)) < 0.6 * error(fall(torch.tensor([0.5, 0.5])), fall(truth))  # the middle
    assert error(names["image"], x) < 0.85 * error(y, x)
