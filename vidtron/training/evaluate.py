"""Loss on held-out clips, with the same clips, noise and timesteps every time."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vidtron.training.batches import BatchSource
from vidtron.training.health import random_states, restore_random_states

EVALUATION_SEED = 20240812
"""Of posteriors and noise in evaluations; the same for all runs, so that their losses compare."""


def even_timesteps(positions: Sequence[int], samples: int, num_timesteps: int) -> Tensor:
    """Timesteps spread evenly over the `samples` of an evaluation, float32 [len(positions)]."""
    return torch.tensor([(2 * p + 1) * num_timesteps // (2 * samples) for p in positions], dtype=torch.float32)


def evaluate(
    open_source: Callable[[], BatchSource],
    forward: Callable[[Any], Tensor],
    modules: Sequence[torch.nn.Module],
    iterations: int,
    global_batch_size: int,
) -> dict[str, float]:
    """Mean loss over `iterations` global batches. Leaves training as it was: nothing of it is drawn or changed.

    Args:
        open_source: gives a source that starts at position 0.
        forward: step batch -> losses of the global batch, on all ranks.
        modules: the model's chunks.
        iterations: global batches.
        global_batch_size: samples of each.
    """
    start = time.perf_counter()
    states = random_states()
    training = [module.training for module in modules]
    for module in modules:
        module.eval()
    losses = []
    source = open_source()
    try:
        with torch.no_grad():
            for index in range(iterations):
                losses.append(forward(source.step_batch(index * global_batch_size, global_batch_size)))
    finally:
        source.close()
        for module, mode in zip(modules, training, strict=True):
            module.train(mode)
        restore_random_states(states)
    return {"loss": torch.cat(losses).mean().item(), "seconds": time.perf_counter() - start}
