"""The helper that moves last bits, and upstream's numbers under it and on other paths of the libraries.

tests/numerics.sh runs all tests of numbers so; here are those that have found something.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.last_bits import LastBits

ROOT = Path(__file__).parents[1]
NUMBERS = ("diffusion/test_open_sora_oracle.py", "diffusion/test_cogvideox_oracle.py", "diffusion/test_schedule.py")


def units(ours: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """Units in the last place, away from zero."""
    return ours.view(torch.int32) - exact.view(torch.int32)


@pytest.mark.parametrize("function", [torch.sqrt, torch.exp, torch.tanh, torch.log])
def test_results_move_by_one_unit(function):
    x = torch.linspace(0.01, 3.0, 5000)
    with LastBits(1):
        first, again = function(x), function(x.flip(0)).flip(0)
    with LastBits(2):
        other = function(x)
    moves = units(first, function(x))
    assert set(moves.tolist()) == {-1, 0, 1}
    assert all(0.2 < (moves == step).float().mean() < 0.3 for step in (-1, 1))
    assert torch.equal(first, again)  # still a function
    assert not torch.equal(first, other)


def test_what_is_exact_everywhere_stays():
    with LastBits(1):
        assert torch.sqrt(torch.tensor([0.0, 1.0, 4.0, 1024.0**2])).tolist() == [0, 1, 2, 1024]
        assert torch.exp(torch.tensor([0.0, -float("inf"), 1e9])).tolist() == [1, 0, float("inf")]
        assert torch.log(torch.tensor([-1.0])).isnan().all()
        x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        assert torch.equal(torch.tanh(-x), -torch.tanh(x))
        assert torch.equal(x.double().sqrt().isnan(), x < 0)
        assert torch.equal((x * 3.0 + 1.0).double().float(), x * 3.0 + 1.0)


def test_gradients_and_results_in_place_move():
    x = torch.linspace(0.1, 3.0, 1000, requires_grad=True)
    with LastBits(1):
        torch.tanh(x).sum().backward()
        place = x.detach().clone().sqrt_()
    exact = torch.autograd.grad(torch.tanh(x).sum(), x)[0]
    assert not torch.equal(x.grad, exact)
    torch.testing.assert_close(x.grad, exact, rtol=1e-3, atol=1e-6)
    assert set(units(place, x.detach().sqrt()).tolist()) == {-1, 0, 1}


def test_tables_move_if_asked():
    table = torch.linspace(0.1, 0.9, 1000, dtype=torch.float64)
    exact = torch.tensor([0.5, 0.25, 2049.0], dtype=torch.float64)
    with LastBits(1):
        assert torch.equal(table.float(), torch.tensor(table.tolist()))
    with LastBits(1, tables=True):
        assert not torch.equal(table.float(), torch.tensor(table.tolist()))
        assert exact.float().tolist() == exact.tolist()


IN_A_THREAD = """
import threading
from tests.last_bits import enter_if_asked
enter_if_asked()
import torch
x, found = torch.linspace(0.1, 3.0, 1000), []
thread = threading.Thread(target=lambda: found.append(torch.tanh(x)))
thread.start()
thread.join()
print(torch.equal(found[0], torch.tanh(x)))
"""


def test_threads_that_begin_later_move_alike():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VIDTRON_LAST_BITS": "1"}
    done = subprocess.run([sys.executable, "-c", IN_A_THREAD], env=environment, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "variable",
    ["VIDTRON_LAST_BITS=1", "VIDTRON_LAST_BITS=1,tables", "MKL_CBWR=COMPATIBLE", "ATEN_CPU_CAPABILITY=default"],
)
def test_upstreams_numbers(variable):
    name, value = variable.split("=")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += [str(ROOT / "tests" / file) for file in NUMBERS]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, name: value}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "failed" not in done.stdout and " passed" in done.stdout
