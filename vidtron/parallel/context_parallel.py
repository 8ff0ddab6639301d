"""The exchange around attention under context parallelism.

Two ways for a rank that holds a contiguous chunk of the tokens to attend to all of them:

- all-to-all: the ranks trade tokens for heads, so that each holds all tokens of some of the heads
  (DeepSpeed-Ulysses, arXiv:2309.14509);
- all-gather: each rank keeps its queries and collects everybody's keys and values.

Both surround an attention kernel that knows nothing of them and are the same on CPU and GPU.
Shape letters: S all tokens (padded), s tokens of one context-parallel rank, B micro-batch, N heads, n heads of one
rank, X features of a head.
"""

from typing import Literal

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.tensor_parallel.mappings import all_to_all
from torch import Tensor
from torch.distributed import ProcessGroup

from vidtron.config.parallel import CpCommType

Exchange = Literal["none", "a2a", "all_gather", "kernel"]
"""none: one context-parallel rank; kernel: Transformer Engine's attention exchanges by itself."""


def choose_exchange(cp_comm_type: CpCommType, *, heads: int, tp: int, cp: int) -> Exchange:
    """The exchange for `heads` attention heads over `tp` x `cp` ranks.

    Raises:
        ValueError: a2a was asked for and the heads of a tensor-parallel rank do not divide by `cp`.
    """
    if cp == 1:
        return "none"
    divides = (heads // tp) % cp == 0
    if cp_comm_type == "auto":
        return "a2a" if divides else "all_gather"
    if cp_comm_type == "all_gather":
        return "all_gather"
    if cp_comm_type == "a2a":
        if not divides:
            raise ValueError(
                f"--cp-comm-type a2a: {heads // tp} heads on a tensor-parallel rank do not divide by "
                f"--context-parallel-size {cp}; accepted here: all_gather, auto"
            )
        return "a2a"
    return "kernel"


def heads_for_tokens(x_sBNX: Tensor, group: ProcessGroup) -> Tensor:
    """[s, B, N, X] of a token chunk -> [S, B, n, X]: all tokens of this rank's heads."""
    s, B, N, X = x_sBNX.shape
    cp = group.size()
    by_rank = x_sBNX.view(s, B, cp, N // cp, X).permute(2, 0, 1, 3, 4).contiguous()
    return all_to_all(group, by_rank).view(cp * s, B, N // cp, X)


def tokens_for_heads(x_SBnX: Tensor, group: ProcessGroup) -> Tensor:
    """[S, B, n, X] of some heads -> [s, B, N, X]: this rank's tokens of all heads; undoes `heads_for_tokens`."""
    S, B, n, X = x_SBnX.shape
    cp = group.size()
    by_rank = all_to_all(group, x_SBnX.contiguous()).view(cp, S // cp, B, n, X)
    return by_rank.permute(1, 2, 0, 3, 4).reshape(S // cp, B, cp * n, X)


def gather_keys_values(key_sBNX: Tensor, value_sBNX: Tensor, group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Keys and values of all tokens, [S, B, N, X] each, in one collective; the backward pass sums over the ranks."""
    packed = gather_from_sequence_parallel_region(torch.cat((key_sBNX, value_sBNX), dim=-1), group=group)
    key, value = packed.chunk(2, dim=-1)
    return key, value
