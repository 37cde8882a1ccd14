"""Conjugate gradients against direct solutions, and lengths against their factors."""

import pytest
import torch

from blinddeblur.solvers import conjugate_gradient, fast_length, toeplitz


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problems() -> tuple[torch.Tensor, torch.Tensor]:
    root = random(3, 8, 8)
    return root @ root.mT + torch.eye(8), random(3, 8, seed=1)


def test_each_problem_of_a_batch_is_solved() -> None:
    matrix, right = problems()
    solution = conjugate_gradient(lambda v: (matrix @ v[..., None])[..., 0], right, torch.zeros(3, 8).double(), 30)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, right))


def test_it_stays_at_the_solution() -> None:
    solution = conjugate_gradient(lambda v: 2 * v, torch.ones(1, 4), torch.full((1, 4), 0.5), 5)
    assert solution.tolist() == [[0.5] * 4]


def test_problems_that_are_done_stay_as_they_are() -> None:
    """The first after one step, the second after two, the third never."""
    matrix, right = problems()
    steps = []

    def done(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        steps.append(gain)
        return torch.tensor([[True], [len(steps) == 2], [False]])

    def solved(iterations: int, done=None) -> torch.Tensor:  # type: ignore[no-untyped-def]
        start = torch.zeros(3, 8).double()
        return conjugate_gradient(lambda v: (matrix @ v[..., None])[..., 0], right, start, iterations, done=done)

    found = solved(30, done)
    for index, iterations in enumerate((1, 2, 30)):
        torch.testing.assert_close(found[index], solved(iterations)[index])
    assert len(steps) == 30


def test_it_ends_when_all_are_done() -> None:
    matrix, right = problems()
    calls = []

    def normal(v: torch.Tensor) -> torch.Tensor:
        calls.append(v)
        return (matrix @ v[..., None])[..., 0]

    conjugate_gradient(normal, right, torch.zeros(3, 8).double(), 30, done=lambda x, gain: gain > 0)
    assert len(calls) == 2


def test_a_toeplitz_matrix_takes_a_lag_for_each_pair_of_pixels() -> None:
    lags = random(7, 7)
    lags = lags + lags.flip(0, 1)
    places = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    apart = places[:, None] - places[None]
    matrix = lags[apart[..., 0] + 3, apart[..., 1] + 3]
    x = random(2, 4, 4, seed=1)
    torch.testing.assert_close(toeplitz(lags.roll((-3, -3), (0, 1)), 4)(x).flatten(1), x.flatten(1) @ matrix)


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize(
    ("length", "even_limit", "odd_limit"),
    [(2, 2, 3), (7, 8, 7), (31, 32, 35), (121, 128, 125), (511, 512, 525), (251, 256, 315)],
)
def test_fast_lengths(length: int, even_limit: int, odd_limit: int, odd: bool) -> None:
    found = fast_length(length, odd)
    assert length <= found <= (odd_limit if odd else even_limit)
    assert found % 2 == odd
    for factor in (3, 5, 7) if odd else (2, 3, 5):
        while found % factor == 0:
            found //= factor
    assert found == 1
