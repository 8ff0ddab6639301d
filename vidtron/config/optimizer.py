"""Optimizer, learning rate and weight decay."""

from dataclasses import dataclass
from typing import Annotated, Literal

from vidtron.config.ranges import Range


@dataclass
class OptimizerConfig:
    """Optimizer"""

    optimizer: Literal["adam", "sgd"] = "adam"
    """adam is AdamW."""
    lr: Annotated[float, Range(0, 1000)] = 1e-5
    """Peak learning rate."""
    min_lr: Annotated[float, Range(0, 1000)] = 0.0
    """Learning rate at the end of the decay."""
    lr_decay_style: Literal["constant", "linear", "cosine", "inverse-square-root"] = "linear"
    """Shape of the decay after the warm-up."""
    lr_decay_iters: Annotated[int, Range(1, 1_000_000_000)] | None = None
    """Iterations until min_lr is reached; unset: --train-iters."""
    lr_warmup_iters: Annotated[int, Range(0, 1_000_000_000)] = 0
    """Iterations of linear warm-up from 0."""
    lr_warmup_fraction: Annotated[float, Range(0, 1, below=True)] | None = None
    """Warm-up as a part of the decay iterations, instead of --lr-warmup-iters."""
    weight_decay: Annotated[float, Range(0, 1000)] = 1e-4
    """Decoupled weight decay; biases and norms have none."""
    adam_beta1: Annotated[float, Range(0, 1, below=True)] = 0.9
    """Decay of the first moment."""
    adam_beta2: Annotated[float, Range(0, 1, below=True)] = 0.95
    """Decay of the second moment."""
    adam_eps: Annotated[float, Range(1e-30, 1)] = 1e-8
    """Added to the root of the second moment."""
    sgd_momentum: Annotated[float, Range(0, 1, below=True)] = 0.9
    """Momentum of sgd."""
    clip_grad: Annotated[float, Range(0, 1_000_000_000)] = 0.1
    """Gradients are scaled down to this global L2 norm; 0: never."""
    use_distributed_optimizer: bool = False
    """Split optimizer state and master weights over the data-parallel ranks."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass runs."""
    overlap_param_gather: bool = False
    """Gather updated weights while the forward pass runs (needs --use-distributed-optimizer and
    --overlap-grad-reduce)."""
