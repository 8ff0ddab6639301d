"""Optimizer, learning rate and weight decay."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class OptimizerConfig:
    """Optimizer"""

    optimizer: Literal["adam", "sgd"] = "adam"
    """adam is AdamW."""
    lr: float = 1e-5
    """Peak learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end of the decay."""
    lr_decay_style: Literal["constant", "linear", "cosine", "inverse-square-root"] = "linear"
    """Shape of the decay after the warm-up."""
    lr_decay_iters: int | None = None
    """Iterations until min_lr is reached; unset: --train-iters."""
    lr_warmup_iters: int = 0
    """Iterations of linear warm-up from 0."""
    lr_warmup_fraction: float | None = None
    """Warm-up as a part of the decay iterations, instead of --lr-warmup-iters."""
    weight_decay: float = 1e-4
    """Decoupled weight decay; biases and norms have none."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.95
    """Decay of the second moment."""
    adam_eps: float = 1e-8
    """Added to the root of the second moment."""
    sgd_momentum: float = 0.9
    """Momentum of sgd."""
    clip_grad: float = 0.1
    """Gradients are scaled down to this global L2 norm; 0: never."""
    use_distributed_optimizer: bool = False
    """Split optimizer state and master weights over the data-parallel ranks."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass runs."""
    overlap_param_gather: bool = False
    """Gather updated weights while the forward pass runs (needs --use-distributed-optimizer and
    --overlap-grad-reduce)."""
