"""Forward step and loss for megatron-core's pipeline schedules.

Shape letters: B micro-batch, T latent frames, C latent channels, H, W latent rows and columns.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vidtron.diffusion.objective import Objective
from vidtron.diffusion.schedule import Schedule
from vidtron.models.inputs import VIDEO, ModelInput
from vidtron.training.batches import MicroBatch

Losses = dict[str, Any]
"""What the last stage reports of a micro-batch: `losses_B` (float32) and `slots`, their places in the global batch."""


def broadcast_mask(batch: MicroBatch) -> Tensor | None:
    """The frame mask as it broadcasts against the latents, on their device: [B, T, 1, 1, 1]."""
    if batch.frame_mask_BT is None:
        return None
    return batch.frame_mask_BT[:, :, None, None, None].to(batch.latents[VIDEO].device, non_blocking=True)


class ForwardStep:
    """mcore's `forward_step_func`: takes the next micro-batch and runs one chunk of the model on it.

    The gradient is that of the mean over the global batch, under every layout. `micro_batch_loss` returns the mean
    over the micro-batch; the schedule divides it by the number of micro-batches and multiplies it by the
    context-parallel size (schedules.py:272, 0.16.1); DDP averages gradients over data x context parallel ranks. The
    chunk's output is the whole latent on all tensor- and context-parallel ranks of the last stage, and its backward
    pass hands each rank the gradient of its own tokens only. So a replica's gradient is the sum over its
    context-parallel ranks, which the schedule's factor makes of DDP's average.
    """

    def __init__(self, objective: Objective, compute_dtype: torch.dtype) -> None:
        self.objective = objective
        self.compute_dtype = compute_dtype

    @property
    def schedule(self) -> Schedule:
        """The objective's noise levels."""
        return self.objective.schedule

    def __call__(
        self, micro_batches: Iterator[MicroBatch], chunk: torch.nn.Module
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Losses]]]:
        """Output of the chunk and the function that makes a loss of it (called on the last stage only)."""
        batch = next(micro_batches)
        output = chunk(inputs=self.model_input(batch))
        return output, partial(self.micro_batch_loss, batch)

    def model_input(self, batch: MicroBatch) -> ModelInput:
        """What the network receives of a micro-batch."""
        mask_BT111 = broadcast_mask(batch)

        def noisy(name: str) -> Tensor:
            noisy_BTCHW = self.objective.noisy(batch.latents[name], batch.noise[name], batch.timesteps_B, mask_BT111)
            return self.objective.network_input(noisy_BTCHW, batch.timesteps_B, mask_BT111).to(self.compute_dtype)

        return ModelInput(
            noisy={name: noisy(name) for name in batch.latents},
            timesteps=batch.timesteps_B,
            conditions=batch.conditions.in_type(self.compute_dtype),
            frame_mask_BT=batch.frame_mask_BT,
            kept_timestep=self.schedule.clean_timestep,
            positions=batch.positions,
        )

    def micro_batch_loss(self, batch: MicroBatch, output: Tensor | Mapping[str, Tensor]) -> tuple[Tensor, Losses]:
        """Mean loss of the micro-batch (mcore's 2-tuple form) and the loss of each sample, summed over its latents.

        Args:
            batch: what the network saw.
            output: its output for each kind of latents, or for the video alone.
        """
        outputs = output if isinstance(output, Mapping) else {VIDEO: output}
        mask_BT111 = broadcast_mask(batch)
        losses = [
            self.objective.losses(outputs[name], batch.latents[name], batch.noise[name], batch.timesteps_B, mask_BT111)
            for name in batch.latents
        ]
        losses_B = losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)
        return losses_B.mean(), {"losses_B": losses_B.detach(), "slots": batch.slots}
