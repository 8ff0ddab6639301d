import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import torch
torch.cuda.is_available = lambda: False
from torch.utils import cpp_extension
print("before", file=sys.stderr)
cpp_extension._find_cuda_home()  # what a torch that was built for CUDA calls when the module is imported
import vidtron
sys.stderr.flush()
print("after", file=sys.stderr)
cpp_extension._find_cuda_home()
cpp_extension.logger.warning("another message")
"""


@pytest.mark.parametrize("cuda_home", ["/usr/lib", None])
def test_a_toolkit_without_a_gpu_is_not_told_of(cuda_home: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("CUDA_HOME", "CUDA_PATH")}
    if cuda_home is not None:
        environment["CUDA_HOME"] = cuda_home
    command = [sys.executable, "-c", SCRIPT]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=True)
    before, after = done.stderr.partition("before\n")[2].split("after\n")
    if cuda_home is not None:  # without, it depends on what is installed
        assert "No CUDA runtime is found" in before
    assert "another message" in after
    assert "No CUDA runtime is found" not in after
