"""Number formats and what is recomputed in the backward pass."""

from dataclasses import dataclass
from typing import Annotated, Literal

from vidtron.config.ranges import Range


@dataclass
class PrecisionConfig:
    """Precision and recomputation"""

    bf16: bool = False
    """Compute in bf16 with fp32 master weights; unset: fp32."""
    fp8_format: Literal["e4m3", "hybrid"] | None = None
    """FP8 for the linear layers, through Transformer Engine (needs --bf16). hybrid: e4m3 forward, e5m2 backward."""
    fp8_recipe: Literal["delayed", "tensorwise", "blockwise"] = "delayed"
    """How FP8 scales are found."""
    fp8_amax_history_len: Annotated[int, Range(1, 65536)] = 1024
    """delayed recipe: steps of absolute maxima that are remembered."""
    fp8_amax_compute_algo: Literal["most_recent", "max"] = "max"
    """delayed recipe: which remembered maximum sets the scale."""
    transformer_impl: Literal["auto", "local", "transformer_engine"] = "auto"
    """Layers' backend. auto: Transformer Engine where it is installed and a GPU is present."""
    accumulate_allreduce_grads_in_fp32: bool = True
    """Accumulate and reduce gradients in fp32 when computing in bf16."""
    recompute_granularity: Literal["full", "selective"] | None = None
    """full: whole layers; selective: the attention kernel. Cheap parts (norms, modulation, GELU) are always
    recomputed."""
    recompute_method: Literal["uniform", "block"] | None = None
    """full recomputation: uniform groups of layers, or only the first layers of each stage."""
    recompute_num_layers: Annotated[int, Range(1, 1000)] | None = None
    """uniform: layers in a group; block: layers of each stage that are recomputed."""
