"""Loss on held-out clips, with the same clips, noise and timesteps every time."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from vidtron.models.tensor_tree import map_tensors
from vidtron.training.batches import BatchSource, StepBatch
from vidtron.training.health import random_states, restore_random_states

EVALUATION_SEED = 20240812
"""Seed of posteriors and noise in evaluations; one for all runs, so that their losses compare."""


def even_timesteps(positions: Sequence[int], samples: int, num_timesteps: int) -> Tensor:
    """Timesteps spread evenly over the `samples` of an evaluation, float32 [len(positions)]."""
    return torch.tensor([(2 * p + 1) * num_timesteps // (2 * samples) for p in positions], dtype=torch.float32)


@contextlib.contextmanager
def undisturbed(modules: Sequence[torch.nn.Module]) -> Iterator[None]:
    """While open, the model's chunks do not train; then they and the generators are as they were."""
    states = random_states()
    scales = [(tensor, tensor.clone()) for tensor in _fp8_scales(modules)]
    training = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.train(mode)
        for tensor, before in scales:
            tensor.copy_(before)
        restore_random_states(states)


def _fp8_scales(modules: Sequence[torch.nn.Module]) -> Iterator[Tensor]:
    """Scales, and the absolute maxima they come from, of Transformer Engine's layers under the delayed recipe.

    Each quantization puts its maximum into the history's newest row, also without gradients.
    """
    for chunk in modules:
        for module in chunk.modules():
            for key in ("scaling_fwd", "scaling_bwd"):
                state: Any = getattr(module, "fp8_meta", {}).get(key)
                if hasattr(state, "amax_history"):
                    yield from (state.scale, state.amax_history)


def read_batches(source: BatchSource, look: Callable[[], None] = lambda: None) -> list[StepBatch]:
    """All batches of a source, in the memory of the host; closes the source.

    Args:
        source: of the batches.
        look: called before each of them; may raise.
    """
    try:
        batches = []
        look()
        for batch in source:
            batch.wait_until_ready()
            batches.append(moved(batch, torch.device("cpu")))
            look()
        return batches
    finally:
        source.close()


def moved(batch: StepBatch, device: torch.device) -> StepBatch:
    """The batch with its tensors on a device."""
    return replace(batch, micro_batches=map_tensors(batch.micro_batches, lambda tensor: tensor.to(device)))


def evaluate(batches: Sequence[StepBatch], forward: Callable[[StepBatch], Tensor], device: torch.device) -> Tensor:
    """Loss of each sample, in the order of the samples [samples].

    Args:
        batches: on the host.
        forward: step batch -> losses of the global batch, on all ranks.
        device: of the model.
    """
    return torch.cat([forward(moved(batch, device)) for batch in batches])


@dataclass(frozen=True)
class SigmaCurve:
    """Loss over the noise level: n losses between n + 1 edges."""

    edges: list[float]
    losses: list[float]


def sigma_curve(sigmas: Tensor, losses: Tensor, bins: int) -> SigmaCurve:
    """Mean losses of equally many samples each, by rising noise level.

    Args:
        sigmas: noise level of each sample [samples].
        losses: of each sample [samples].
        bins: how many; fewer if there are fewer samples.
    """
    order = sigmas.argsort(stable=True)
    parts = order.tensor_split(min(bins, len(order)))
    between = [(sigmas[a[-1]] + sigmas[b[0]]).item() / 2 for a, b in pairwise(parts)]
    edges = [sigmas[order[0]].item(), *between, sigmas[order[-1]].item()]
    return SigmaCurve(edges, [losses[part].mean().item() for part in parts])
