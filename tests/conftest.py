"""What all tests share."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Two OpenMP teams on one pair of cores wait for each other: tests are small and one thread is fastest.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the commands that tests start


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees or touches the cache of whoever runs it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BLINDDEBLUR_CACHE", str(folder))
    return folder


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
