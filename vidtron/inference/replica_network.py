"""A trained network, spread over the ranks of a replica, as one function.

Shape letters: B samples, T C H W latent frames, channels, height, width.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from vidtron.diffusion.denoising import Network
from vidtron.diffusion.guidance import Scale, guided
from vidtron.models.inputs import VIDEO, Conditions, ModelInput, joined
from vidtron.parallel import Groups, broadcast_tensor, gather_tensors
from vidtron.parallel.pipeline import PipelineSchedule


class ReplicaNetwork:
    """Runs the network forward through mcore's pipeline schedule and gives its output to every rank of the replica.

    Every rank calls it with the same arguments.
    """

    def __init__(
        self,
        chunks: Sequence[Any],
        groups: Groups,
        *,
        sequence_length: int,
        predicts_variance: bool = False,
        kept_timestep: float = 0.0,
    ):
        """
        Args:
            chunks: this rank's bare chunks of the network.
            groups: the process groups.
            sequence_length: padded tokens of one sample (`family.sequence_length`).
            predicts_variance: the output has twice the latent's channels.
            kept_timestep: at which given frames are shown to the network, the schedule's cleanest.
        """
        self.chunks, self.groups, self.sequence_length = list(chunks), groups, sequence_length
        self.schedule = PipelineSchedule(groups, self.chunks)
        self.kept_timestep = kept_timestep
        self.channels = 2 if predicts_variance else 1
        # The interleaved schedule takes no fewer micro-batches than there are stages (schedules.py:996, 0.16.1); its
        # stages would be idle otherwise.
        self.repetitions = 1 if len(self.chunks) == 1 else groups.pp.size()
        for chunk in self.chunks:
            chunk.eval()

    @torch.no_grad()
    def __call__(
        self, noisy_BTCHW: Tensor, timestep: float, conditions: Conditions, frame_mask: Tensor | None = None
    ) -> Tensor:
        """The network's output, fp32 [B, T, C, H, W], for one timestep of all samples.

        `frame_mask`, [B or 1, T, 1, 1, 1], is False where a frame is given and not denoised.
        """
        timesteps_B = torch.full((noisy_BTCHW.shape[0],), float(timestep), device=noisy_BTCHW.device)
        dtype = self.chunks[0].config.params_dtype
        inputs = ModelInput(
            noisy={VIDEO: noisy_BTCHW.to(dtype)},
            timesteps=timesteps_B,
            conditions=conditions.in_type(dtype),
            frame_mask_BT=(None if frame_mask is None else frame_mask.flatten(1).expand(noisy_BTCHW.shape[:2]).cpu()),
            kept_timestep=self.kept_timestep,
        )

        def forward_step(_: Iterator[Any], chunk: nn.Module) -> tuple[Tensor, Any]:
            output = chunk(inputs=inputs)
            return output, lambda result: (result.new_zeros(()), {"output": result})

        reported = self.schedule(
            forward_step,
            (),
            count=self.repetitions,
            sequence_length=self.sequence_length,
            micro_batch_size=noisy_BTCHW.shape[0],
            forward_only=True,
        )
        if self.groups.pp.size() == 1:
            return reported[0]["output"]
        if reported:
            output = reported[0]["output"].contiguous()
        else:
            B, T, C, H, W = noisy_BTCHW.shape
            output = noisy_BTCHW.new_empty(B, T, self.channels * C, H, W, dtype=torch.float32)
        return broadcast_tensor(output, self.groups.pp.size() - 1, self.groups.pp)


def with_guidance(
    network: ReplicaNetwork,
    conditions: Conditions,
    null_conditions: Conditions,
    scale: Scale,
    channels: int | None = None,
    pair: ProcessGroup | None = None,
) -> Network:
    """The network under classifier-free guidance, as the samplers take it.

    Args:
        network: the conditional network.
        conditions: of the videos.
        null_conditions: the same with what training drops text to.
        scale: of each timestep; where it is 1 the network alone is asked.
        channels: how many of the output's channels are guided; None: all.
        pair: two replicas, the first of which runs the network without text, the second with it, both on the same
            noise; None: each replica runs it on both at once.
    """
    both = (null_conditions, conditions)

    def together(noisy: Tensor, timestep: float, frame_mask: Tensor | None) -> Sequence[Tensor]:
        masks = None if frame_mask is None else torch.cat([frame_mask.expand(len(noisy), *frame_mask.shape[1:])] * 2)
        return network(torch.cat((noisy, noisy)), timestep, joined(both), masks).chunk(2)

    def halved(noisy: Tensor, timestep: float, frame_mask: Tensor | None) -> Sequence[Tensor]:
        assert pair is not None
        return gather_tensors(network(noisy, timestep, both[pair.rank()], frame_mask), pair)

    without_and_with = together if pair is None else halved

    def network_at(noisy: Tensor, timestep: float, frame_mask: Tensor | None = None) -> Tensor:
        factor = scale(timestep)
        if factor == 1.0:
            return network(noisy, timestep, conditions, frame_mask)
        without, conditional = without_and_with(noisy, timestep, frame_mask)
        return guided(conditional, without, factor, channels)

    return network_at
