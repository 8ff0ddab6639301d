"""Another processor's fp32: results that may differ in their last bit do, so that what multiplies it is found here.

Roots, exponentials, sines, sums and products come from libraries that choose their instructions by the processor, and
no standard says how they round. `LastBits` moves such results by one unit in the last place. Which way, a hash of the
result's mantissa says: the functions stay functions, symmetric in the sign and exact in powers of two, as on any one
processor, so what must be bit-equal to itself still is.

    with LastBits(seed=1):
        ...

`VIDTRON_LAST_BITS=1 pytest tests/diffusion` runs tests so from their imports on, which also reaches the tables that
are made then; `VIDTRON_LAST_BITS=1,tables` moves tables too that are computed in fp64 and only rounded to fp32. IEEE
754 says how that is done, so no processor differs in them, but nothing that is made from such a table should hang on
its last bit. `tests/numerics.sh` runs the tests of numbers under both, and under other paths of MKL and torch.
"""

import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

VARIABLE = "VIDTRON_LAST_BITS"

ELEMENTWISE = (
    "sqrt rsqrt exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh erf erfc erfinv "
    "sigmoid silu gelu softplus mish pow hypot special_ndtri special_log_ndtr logit log_sigmoid_forward sinc lerp "
    "addcdiv addcmul sqrt_ rsqrt_ exp_ log_ tanh_ sigmoid_ silu_ pow_ sin_ cos_"
).split()
REDUCTIONS = (
    "_softmax _log_softmax logsumexp sum mean var std var_mean linalg_vector_norm norm prod cumsum cumprod "
    "native_layer_norm native_group_norm _fused_rms_norm"
).split()
PRODUCTS = (
    "mm bmm addmm baddbmm addmv mv dot linear convolution mkldnn_convolution _convolution "
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math"
).split()
BACKWARD = (
    "sigmoid_backward tanh_backward silu_backward gelu_backward _softmax_backward_data native_layer_norm_backward "
    "_fused_rms_norm_backward convolution_backward _scaled_dot_product_flash_attention_for_cpu_backward"
).split()
INEXACT = frozenset((*ELEMENTWISE, *REDUCTIONS, *PRODUCTS, *BACKWARD))
"""Operations of which the last bit is the library's choice; sums and products of two numbers are IEEE 754's."""

EXACT_BELOW = 4096
"""Whole numbers up to here stay: sqrt(4), cos(0) and tanh(20) are the same everywhere."""


def moved(values: Tensor, seed: int) -> Tensor:
    """Each fp32 number as it is (half of them), or its neighbour on either side.

    Whole numbers, zeros, infinities and NaN stay.
    """
    bits = values.contiguous().view(torch.int32)
    # A multiplicative hash; the high half of the product is the well mixed one.
    mantissa = bits & 0x7FFFFF
    mixed = (mantissa ^ (mantissa >> 15) ^ (seed * 0x3C6EF372 & 0x7FFFFFFF)) * -1640531527
    mixed = (mixed ^ (mixed >> 13)) * -1028477387
    choice = (mixed >> 20) & 3
    step = (choice == 0).to(torch.int32) - (choice == 1).to(torch.int32)
    exact = ((values == values.round()) & (values.abs() <= EXACT_BELOW)) | ~values.isfinite()
    return torch.where(exact, values, (bits + step).view(torch.float32))


class LastBits(TorchDispatchMode):
    """Within it the fp32 results of `INEXACT` operations are off by a last bit."""

    def __init__(self, seed: int = 1, *, tables: bool = False):
        """
        Args:
            seed: another one, other results that move.
            tables: move fp64 numbers that are rounded to fp32, too.
        """
        super().__init__()
        self.seed, self.tables = seed, tables
        self.count = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The operation, its results moved."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")  # type: ignore[attr-defined]
        if self.tables and name == "_to_copy" and type(args[0]) is Tensor and args[0].dtype == torch.float64:
            return self._rounded(args[0], result)
        if name not in INEXACT:
            return result
        in_place = name.endswith("_") or "out" in (kwargs or {})
        return tree_map(lambda value: self._result(value, in_place), result)

    def _result(self, value: Any, in_place: bool) -> Any:
        if type(value) is not Tensor or value.dtype != torch.float32 or value.device.type != "cpu":
            return value
        self.count += 1
        return value.copy_(moved(value, self.seed)) if in_place else moved(value, self.seed)

    def _rounded(self, source: Tensor, result: Tensor) -> Tensor:
        """A table's number that fp32 does not have may be its upper or its lower neighbour."""
        if result.dtype != torch.float32 or result.device.type != "cpu":
            return result
        self.count += 1
        return torch.where(result.double() == source, result, moved(result, self.seed))


def moved_tables() -> bool:
    """Whether tables that were rounded to fp32 are moved in this process."""
    return os.environ.get(VARIABLE, "").endswith(",tables")


def enter_if_asked() -> None:
    """What `VIDTRON_LAST_BITS` asks for, in all threads, until the process ends."""
    if asked := os.environ.get(VARIABLE):
        seed, tables = int(asked.removesuffix(",tables")), moved_tables()
        LastBits(seed, tables=tables).__enter__()
        _enter_in_new_threads(seed, tables)


def _enter_in_new_threads(seed: int, tables: bool) -> None:
    """torch keeps such modes thread by thread: what a thread computes would be another processor's than the rest."""
    start = threading.Thread.start

    @functools.wraps(start)
    def start_moved(thread: threading.Thread) -> None:
        run = thread.run

        def run_moved() -> None:
            with LastBits(seed, tables=tables):
                run()

        thread.run = run_moved  # type: ignore[method-assign]
        start(thread)

    threading.Thread.start = start_moved  # type: ignore[method-assign]
