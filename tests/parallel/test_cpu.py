"""megatron-core runs without CUDA, and torch does not notice."""

import importlib

import pytest
import torch
from megatron.core.tensor_parallel import random
from megatron.core.utils import GlobalMemoryBuffer

import vidtron.parallel  # noqa: F401
from vidtron.parallel import cpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def test_torch_is_as_it_was() -> None:
    for name in cpu._FACTORIES:
        assert not hasattr(getattr(torch, name), "__wrapped__")
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")
    with pytest.raises((AssertionError, RuntimeError)):
        torch.cuda.current_device()
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1).cuda()
    assert torch.zeros(1).type() == "torch.FloatTensor"


def test_modules_see_the_cpu() -> None:
    for name in cpu.MODULES_NAMING_A_GPU:
        module = importlib.import_module(f"megatron.core.{name}")
        assert module.torch is not torch
        assert module.torch.zeros(1, device="cuda").device == cpu.CPU
        assert module.torch.empty(2, device=module.torch.cuda.current_device()).device == cpu.CPU
        assert module.torch.Tensor is torch.Tensor
        assert module.torch.cuda.is_available() is False
    assert GlobalMemoryBuffer().get_tensor((2, 3), torch.float32, "gathered").device == cpu.CPU


def test_what_torch_gets_later_is_seen_too(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("megatron.core.utils")
    monkeypatch.setattr(torch, "made_later", 1, raising=False)
    assert module.torch.made_later == 1
    with pytest.raises(AttributeError):
        _ = module.torch.never_made


def test_random_states_are_the_cpu_generators() -> None:
    tracker = random.CudaRNGStatesTracker()
    tracker.add("a", 1)
    with tracker.fork("a"):
        first = torch.rand(2)
    outside = torch.rand(1)
    with tracker.fork("a"):
        second = torch.rand(2)
    again = random.CudaRNGStatesTracker()
    again.add("a", 1)
    with again.fork("a"):
        assert torch.equal(torch.rand(4), torch.cat([first, second]))
    assert outside not in first


def test_tensors_call_themselves_cuda_only_inside() -> None:
    with cpu._tensors_of_a_gpu():
        assert torch.zeros(1).type() == "torch.cuda.FloatTensor"
        assert torch.zeros(1, dtype=torch.bfloat16).type() == "torch.cuda.BFloat16Tensor"
        assert torch.zeros(1).type(torch.int64).dtype == torch.int64
        assert torch.ones(1).cuda().device == cpu.CPU
    assert torch.zeros(1).type() == "torch.FloatTensor"


def test_adapting_twice_changes_nothing() -> None:
    module = importlib.import_module("megatron.core.optimizer.clip_grads")
    before = module.torch, module.clip_grad_by_total_norm_fp32
    cpu.adapt()
    assert before == (module.torch, module.clip_grad_by_total_norm_fp32)
