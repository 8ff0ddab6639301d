"""Forward step and loss for megatron-core's pipeline schedules.

Shape letters: B micro-batch, T latent frames, C latent channels, H, W latent rows and columns.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vidtron.diffusion.objective import Objective
from vidtron.diffusion.schedule import Schedule
from vidtron.training.batches import MicroBatch

Losses = dict[str, Any]
"""What the last stage reports of a micro-batch: `losses_B` (float32) and `slots`, their places in the global batch."""


def broadcast_mask(batch: MicroBatch) -> Tensor | None:
    """The frame mask as it broadcasts against the latents, on their device: [B, T, 1, 1, 1]."""
    if batch.frame_mask_BT is None:
        return None
    return batch.frame_mask_BT[:, :, None, None, None].to(batch.latents_BTCHW.device, non_blocking=True)


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
        mask_BT111 = broadcast_mask(batch)
        noisy_BTCHW = self.objective.noisy(batch.latents_BTCHW, batch.noise_BTCHW, batch.timesteps_B, mask_BT111)
        noisy_BTCHW = self.objective.network_input(noisy_BTCHW, batch.timesteps_B, mask_BT111)
        image = batch.image_latents_BTCHW
        # By keyword: Float16Module casts every positional input to bf16, which has no room for timesteps above 256.
        output = chunk(
            noisy_BTCHW=noisy_BTCHW.to(self.compute_dtype),
            timesteps_B=batch.timesteps_B,
            text_BLE=batch.text_BLE.to(self.compute_dtype),
            image_latents=None if image is None else image.to(self.compute_dtype),
            positions=list(batch.positions),
            frame_mask_BT=batch.frame_mask_BT,
            kept_timestep=self.schedule.clean_timestep,
        )
        return output, partial(self.micro_batch_loss, batch)

    def micro_batch_loss(self, batch: MicroBatch, output_BTCHW: Tensor) -> tuple[Tensor, Losses]:
        """Mean loss of the micro-batch (mcore's 2-tuple form) and the loss of each sample."""
        losses_B = self.objective.losses(
            output_BTCHW, batch.latents_BTCHW, batch.noise_BTCHW, batch.timesteps_B, broadcast_mask(batch)
        )
        return losses_B.mean(), {"losses_B": losses_B.detach(), "slots": batch.slots}
