"""How the process uses the machine, which is the user's to say first."""

import os
import subprocess
import sys

import pytest
import torch

from blinddeblur.commands import machine
from blinddeblur.devices import PIXELS_A_THREAD, threads_for


def test_threads_sleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    machine.prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    machine.prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_it_is_prepared_before_torch_starts() -> None:
    """By the time the command line imports torch, the threads of torch know."""
    code = (
        "import sys, blinddeblur.cli as cli; cli.app = lambda: None; cli.main(); "
        "import os; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False", "PASSIVE"]


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted by Linux")
@pytest.mark.parametrize("call", ["", "machine.prepare()"])
def test_memory_is_kept(call: str) -> None:
    """The pages of what is free again and again come from the system once."""
    code = (
        f"from blinddeblur.commands import machine; {call or None}; import torch, resource; torch.set_num_threads(1); "
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt; "
        "used = lambda: any(torch.zeros(10_000_000) is None for _ in range(20)); "
        "used(); before = faults(); used(); print(faults() - before)"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean).stdout
    assert (int(told) < 10_000) == bool(call)  # one of forty megabytes has 9,766 pages


def test_small_images_take_few_threads_and_none_takes_more_than_there_are() -> None:
    torch.set_num_threads(2)
    try:
        for pixels, threads in ((1, 1), (PIXELS_A_THREAD, 1), (PIXELS_A_THREAD + 1, 2), (10**8, 2)):
            with threads_for(pixels):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
