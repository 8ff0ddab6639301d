"""How the ranks of a run are divided."""

from dataclasses import dataclass
from typing import Annotated, Literal

from vidtron.config.ranges import Range

CpCommType = Literal["auto", "a2a", "all_gather", "p2p", "a2a+p2p"]


@dataclass
class ParallelConfig:
    """Parallel layout"""

    tensor_model_parallel_size: Annotated[int, Range(1, 65536)] = 1
    """Ranks that share each layer's weights (TP)."""
    pipeline_model_parallel_size: Annotated[int, Range(1, 65536)] = 1
    """Pipeline stages (PP)."""
    num_layers_per_virtual_pipeline_stage: Annotated[int, Range(1, 1000)] | None = None
    """Layers of one model chunk under the interleaved pipeline schedule; unset: one chunk per stage."""
    context_parallel_size: Annotated[int, Range(1, 65536)] = 1
    """Ranks that share one sample's token sequence (CP)."""
    sequence_parallel: bool = False
    """Split the tokens outside attention and MLP over the TP group as well (SP)."""
    cp_comm_type: CpCommType = "auto"
    """Exchange around attention under CP. a2a: all-to-all over heads; all_gather: keys and values of all tokens;
    auto: a2a where the heads of a TP rank divide by CP, else all_gather. p2p and a2a+p2p are Transformer Engine's
    own and need a GPU."""
    overlap_p2p_communication: bool = True
    """Interleaved schedule: overlap the transfers between stages with computation."""
    distributed_backend: Literal["auto", "nccl", "gloo"] = "auto"
    """auto: nccl where there are GPUs, else gloo."""
    distributed_timeout_minutes: Annotated[float, Range(0.001, 525_600)] = 10
    """A collective that takes longer than this ends the run."""
