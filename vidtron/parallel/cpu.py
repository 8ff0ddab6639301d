"""What megatron-core needs to run on a CPU with gloo. With CUDA nothing here takes effect.

torch itself stays as it is. megatron-core's modules see, under their global name `torch`, a copy of torch's namespace
in which "the current GPU" is the CPU; every attribute is found as fast as before, and nobody else sees the copy.
Line numbers are those of megatron-core 0.16.1.
"""

import contextlib
import functools
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

CPU = torch.device("cpu")

# Modules that name a GPU on a path we take, with one line that does.
MODULES_NAMING_A_GPU = (
    "utils",  # 631: GlobalMemoryBuffer, the gathered sequence of sequence parallelism
    "timers",  # 152: synchronize; 303: the tensor that gathers all ranks' times
    "rerun_state_machine",  # 261, 525
    "tensor_parallel.layers",  # 552, 597: buffers of the sequence-parallel backward pass; 873, 1197: weights
    "tensor_parallel.mappings",  # 91, 141, 181, 442: outputs of gather, reduce-scatter, all-to-all
    "tensor_parallel.random",  # seeds and states of the random-number tracker, which recomputation restores
    "pipeline_parallel.schedules",  # 596, 983, 2138: the token counter
    "pipeline_parallel.p2p_communication",  # 190, 313: receive buffers; 242, 398: synchronize
    "distributed.param_and_grad_buffer",  # 783, 800, 806: parameter and gradient buffers; 0.19: current_stream
    "distributed.distributed_data_parallel",  # 588, 611: synchronize around offloaded buffers
    "optimizer.optimizer",  # 473, 481, 485, 907: inf flag, scale
    "optimizer.distrib_optimizer",  # 791: state allocated for loading
    "optimizer.clip_grads",  # 90, 103, 115, 174, 207
    "dist_checkpointing.exchange_utils",  # 98, 104, 326: tensors exchanged by fully parallel loading
    "dist_checkpointing.strategies.async_utils",  # 165, 604: agreement that all ranks have written; 212
    "dist_checkpointing.strategies.filesystem_async",  # 230: synchronize after staging
    "dist_checkpointing.strategies.fully_parallel",  # 272, 281: synchronize
    "dist_checkpointing.strategies.state_dict_saver",  # 204, 252: agreement on write failures
)

# Functions that call `tensor.cuda()` or compare `tensor.type()` with 'torch.cuda.FloatTensor': (module, class, name).
FUNCTIONS_TESTING_TENSORS = (
    ("optimizer.optimizer", "Float16OptimizerWithFloat16Params", "__init__"),  # 671, 690
    ("optimizer.distrib_optimizer", "DistributedOptimizer", "__init__"),  # 361, 420, 582
    ("optimizer.distrib_optimizer", "DistributedOptimizer", "get_parameter_state_dp_zero"),  # 1089
    ("optimizer.clip_grads", None, "clip_grad_by_total_norm_fp32"),  # 167
    ("dist_checkpointing.exchange_utils", None, "exchange_loaded_tensors_gather_rounds"),  # 336
    ("dist_checkpointing.exchange_utils", None, "exchange_loaded_tensors_broadcast"),  # 499
)

_FACTORIES = ("arange", "empty", "empty_like", "full", "ones", "ones_like", "rand", "randn", "tensor", "zeros",
              "zeros_like")  # fmt: skip
_adapted = False


def adapt() -> None:
    """Let megatron-core run without CUDA. Does nothing where there is CUDA, or when called again."""
    global _adapted
    if _adapted or torch.cuda.is_available():
        return
    _adapted = True
    # layers.py line 738 recommends it for the sake of CUDA's streams.
    warnings.filterwarnings("ignore", message=".*CUDA_DEVICE_MAX_CONNECTIONS", module="megatron")
    torch_on_cpu = _torch_on_cpu()
    for name in MODULES_NAMING_A_GPU:
        importlib.import_module(f"megatron.core.{name}").torch = torch_on_cpu  # type: ignore[attr-defined]
    _adapt_random_states()
    _adapt_weight_gradients()
    for module, owner, name in FUNCTIONS_TESTING_TENSORS:
        _run_with_tensors_of_a_gpu(module, owner, name)


def _torch_on_cpu() -> ModuleType:
    """Copy of torch's namespace whose factories and torch.cuda put everything on the CPU."""
    random = _copy_of(
        torch.cuda.random,
        get_rng_state=lambda device=None: torch.get_rng_state(),
        set_rng_state=lambda state, device=None: torch.set_rng_state(state),
        manual_seed=lambda seed: torch.default_generator.manual_seed(seed),
    )
    cuda = _copy_of(
        torch.cuda,
        random=random,
        get_rng_state=random.get_rng_state,
        set_rng_state=random.set_rng_state,
        manual_seed=random.manual_seed,
        current_device=lambda: CPU,
        synchronize=lambda device=None: None,
        current_stream=lambda device=None: None,
        default_stream=lambda device=None: None,
    )
    return _copy_of(torch, cuda=cuda, **{name: _on_cpu(getattr(torch, name)) for name in _FACTORIES})


def _copy_of(module: ModuleType, **replaced: Any) -> ModuleType:
    copy = ModuleType(module.__name__, module.__doc__)
    # Names that the module only gets or computes later are looked up in the module itself.
    copy.__dict__.update({**vars(module), **replaced, "__getattr__": lambda name: getattr(module, name)})
    return copy


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def on_cpu(*args: Any, **kwargs: Any) -> torch.Tensor:
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = CPU
        return factory(*args, **kwargs)

    return on_cpu


def _adapt_random_states() -> None:
    """Let the random-number tracker keep states of the CPU generator.

    random._set_cuda_rng_state (line 78) only queues its work until CUDA starts: without CUDA a restored state would
    silently not be restored, and recomputed dropout differ.
    """
    from megatron.core.tensor_parallel import random

    random._set_cuda_rng_state = lambda new_state, device=-1, graph_safe=False: torch.set_rng_state(new_state)
    # The tracker (line 263) warns when the CPU generator moves inside a fork, which here is what it is for.
    logging.getLogger(random.__name__).addFilter(lambda record: "CPU RNG state changed" not in record.getMessage())


def _adapt_weight_gradients() -> None:
    """Let `gradient_accumulation_fusion` work: the two functions of apex's extension (layers.py lines 46, 569)."""
    from megatron.core.tensor_parallel import layers

    def accumulate(input_MI: torch.Tensor, grad_MO: torch.Tensor, main_grad_OI: torch.Tensor) -> None:
        if main_grad_OI.dtype == input_MI.dtype:
            main_grad_OI.addmm_(grad_MO.t(), input_MI)
        else:
            main_grad_OI.add_(grad_MO.t() @ input_MI)

    layers.fused_weight_gradient_mlp_cuda = SimpleNamespace(  # type: ignore[attr-defined]
        wgrad_gemm_accum_fp32=accumulate, wgrad_gemm_accum_fp16=accumulate
    )


def _run_with_tensors_of_a_gpu(module_name: str, owner: str | None, name: str) -> None:
    module = importlib.import_module(f"megatron.core.{module_name}")
    home = getattr(module, owner) if owner else module
    original = getattr(home, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _tensors_of_a_gpu():
            return original(*args, **kwargs)

    setattr(home, name, wrapped)
    if owner is None:  # a function: other modules have imported it by name
        for other in MODULES_NAMING_A_GPU:
            other_module = importlib.import_module(f"megatron.core.{other}")
            if getattr(other_module, name, None) is original:
                setattr(other_module, name, wrapped)


@contextlib.contextmanager
def _tensors_of_a_gpu() -> Iterator[None]:
    """Tensors call themselves 'torch.cuda.FloatTensor' etc., and `cuda()` leaves them where they are."""
    saved_type, saved_cuda = torch.Tensor.type, torch.Tensor.cuda

    def type_name(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = saved_type(self, *args, **kwargs)
        is_cpu_name = isinstance(answer, str) and not answer.startswith("torch.cuda.")
        return answer.replace("torch.", "torch.cuda.", 1) if is_cpu_name else answer

    torch.Tensor.type = type_name  # type: ignore[method-assign,assignment]
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.Tensor.type, torch.Tensor.cuda = saved_type, saved_cuda  # type: ignore[method-assign]
