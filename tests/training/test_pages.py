"""Pages of text to learn from."""

import numpy as np

from blinddeblur.training.pages import page


def test_pages_are_flat_paper_with_sharp_letters_and_the_same_for_the_same_seed() -> None:
    steep, light = [], 0
    for seed in range(12):
        made = page(np.random.default_rng(seed), 300)
        assert made.shape == (300, 300, 3)
        assert made.dtype == np.uint8
        assert np.array_equal(made, page(np.random.default_rng(seed), 300))
        grey = made.mean(axis=2)
        steps = np.abs(np.diff(grey, axis=1))
        assert (steps < 2).mean() > 0.4  # paper
        steep.append(steps.max())
        light += np.median(grey) > 120
    assert min(steep) > 30  # letters
    assert 6 <= light < 12  # few pages are dark
