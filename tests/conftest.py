"""What all tests share."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import streak

from blinddeblur.estimation import hypotheses, judging
from blinddeblur.physics import kernels

# Two OpenMP teams on one pair of cores wait for each other: tests are small and one thread is fastest.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the commands that tests start


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees or touches the cache of whoever runs it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BLINDDEBLUR_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def quick_search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any kernel will do for most tests: fewer are looked for and tried, unless a test is marked `whole_search`."""
    if request.node.get_closest_marker("whole_search") is None:
        monkeypatch.setattr(
            hypotheses, "from_coarse_to_fine", lambda denoise, y, *others: [kernels.gaussian(1.0, y.y.device)]
        )
        monkeypatch.setattr(judging, "RESTORED", 2)
        monkeypatch.setattr(judging, "STEPS", 3)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder on whose path nobody is locked out, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="blinddeblur-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def in_float64() -> Iterator[None]:
    """New tensors are of double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is run here says what it says in lines of a known width."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def known_kernel(in_a_folder_of_its_own: None) -> None:
    """The file k.npy, a kernel: with it there is no estimate, so that a photo takes a moment."""
    np.save("k.npy", streak(5, 3))
