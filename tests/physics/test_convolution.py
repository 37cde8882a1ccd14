"""The measurement model: against a direct sum, and its adjoints against its forward maps."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blinddeblur.physics.convolution import (
    Blur,
    Convolution,
    ConvolutionOfKernel,
    blur,
    gradients,
)

odd = st.integers(0, 5).map(lambda n: 2 * n + 1)
sides = st.integers(12, 41)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(odd, sides, sides)
@settings(max_examples=25, deadline=None)
def test_blur_is_the_textbook_sum(size: int, height: int, width: int) -> None:
    x, kernel = random(1, 1, height, width), random(size, size, seed=1)
    flipped = kernel.flip(0, 1)[None, None]  # torch's convolution is a correlation
    expected = torch.nn.functional.conv2d(x, flipped)
    torch.testing.assert_close(blur(x, kernel), expected)


def test_blur_moves_the_image_where_the_kernel_points() -> None:
    x, kernel = torch.zeros(1, 1, 15, 15), torch.zeros(5, 5)
    x[..., 7, 7], kernel[2 + 1, 2 + 2] = 1, 1  # one down, two to the right of the middle
    assert blur(x, kernel).argmax() == (7 - 2 + 1) * 11 + (7 - 2 + 2)


@given(odd, sides, sides)
@settings(max_examples=25, deadline=None)
def test_adjoints(size: int, height: int, width: int) -> None:
    x, kernel = random(2, 3, height, width), random(2, size, size, seed=1)
    y = random(2, 3, height - size + 1, width - size + 1, seed=2)
    forward, of_kernel = Convolution(Blur.uniform(kernel), (height, width)), ConvolutionOfKernel(x, size)
    torch.testing.assert_close((forward.forward(x) * y).sum(), (x * forward.adjoint(y)).sum())
    torch.testing.assert_close(of_kernel.forward(kernel), forward.forward(x))
    torch.testing.assert_close((of_kernel.forward(kernel) * y).sum(), (kernel * of_kernel.adjoint(y)).sum())


def test_each_image_of_a_batch_can_have_its_kernel() -> None:
    x, kernels = random(2, 3, 20, 21), random(2, 1, 5, 5, seed=1)
    both = blur(x, kernels)
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], blur(x[i : i + 1], kernels[i, 0]))


def test_gradients_commute_with_blur() -> None:
    x, kernel = random(1, 1, 20, 23), random(5, 5, seed=1)
    torch.testing.assert_close(blur(gradients(x), kernel), gradients(blur(x, kernel)))
