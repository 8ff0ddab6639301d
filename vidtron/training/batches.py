"""From (plan, loader, encoders) to the micro-batches of a step.

Inside a replica each sample is read, decoded and encoded by one rank (`positions.Share.owners`), which then sends it
to the others. All samples of a step are exchanged before the step starts: a collective inside the pipeline schedule
would wait for stages that are themselves waiting for activations.

Shape letters: B micro-batch, T latent frames, C latent channels, H, W latent rows and columns, L text tokens,
E text features.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vidtron.training.positions import Share
from vidtron.training.samples import Clip, SampleMaker, SampleShape


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass sees; identical on all ranks of a replica."""

    latents_BTCHW: Tensor
    """Clean latents, float32."""
    noise_BTCHW: Tensor
    """Standard normal, float32."""
    text_BLE: Tensor
    """Text embeddings, float32."""
    timesteps_B: Tensor
    """Integers as float32."""
    positions: tuple[int, ...]
    """Positions of the samples in the plan."""
    slots: tuple[int, ...]
    """Places of the samples in the global batch."""
    image_latents_BTCHW: Tensor | None = None
    """Image-to-video: latents of the first frame, zeros after it."""
    frame_mask_BT: Tensor | None = None
    """On the CPU: False where a latent frame is given clean. None: none is."""


@dataclass(frozen=True)
class StepBatch:
    """This replica's part of one global batch."""

    micro_batches: tuple[MicroBatch, ...]
    consumed: int
    """Samples of the run before this step."""
    global_batch_size: int
    wait_seconds: float
    """Time this rank waited for decoded clips."""
    encode_seconds: float
    """Time this rank spent in the encoders and in the exchange."""


class ReplicaExchange:
    """Gives every rank of a replica the samples that one of them made."""

    def __init__(self, group: dist.ProcessGroup, shape: SampleShape, device: torch.device) -> None:
        self.group = group
        self.shape = shape
        self.device = device

    def share(self, owners: Sequence[int], make: Callable[[], Tensor]) -> list[Tensor]:
        """Packed samples [numel] in the order of `owners`; `make` gives the next one this rank owns.

        An error of one rank ends the run on all: it is agreed on before anything is sent.
        """
        rank = self.group.rank()
        made: list[Tensor] = []
        error: Exception | None = None
        try:
            made = [make() for owner in owners if owner == rank]
        except Exception as exception:  # raised below, after the others have been told
            error = exception
        self._agree(error)
        if self.group.size() == 1:
            return made
        samples, works = [], []
        own = iter(made)
        for owner in owners:
            flat = next(own) if owner == rank else torch.empty(self.shape.numel(), device=self.device)
            source = dist.get_global_rank(self.group, owner)
            works.append(dist.broadcast(flat, source, group=self.group, async_op=True))
            samples.append(flat)
        for work in works:
            if work is not None:
                work.wait()
        return samples

    def _agree(self, error: Exception | None) -> None:
        """Raise on every rank of the replica if any rank has an error."""
        failed = torch.tensor([float(error is not None)], device=self.device)
        if self.group.size() > 1:
            dist.all_reduce(failed, group=self.group)
        if error is not None:
            raise error
        if failed.item():
            raise RuntimeError("another rank of this replica failed to read or encode a sample; its message names it")


class BatchSource:
    """Makes the batch of each step, in order; owns the loader."""

    def __init__(
        self,
        loader: Any,
        maker: SampleMaker,
        share: Share,
        exchange: ReplicaExchange,
        timesteps: Callable[[int, int, Sequence[int]], Tensor],
    ) -> None:
        """
        Args:
            loader: yields this rank's clips in the order of `Share.owned_positions`; has `wait_seconds`, `close`.
            maker: turns a clip into a packed sample.
            share: which samples are this replica's and this rank's.
            exchange: shares samples inside the replica.
            timesteps: (consumed, global batch size, positions) -> timesteps, float32 [len(positions)].
        """
        self.loader = loader
        self.clips: Iterator[Clip] = iter(loader)
        self.maker = maker
        self.share = share
        self.exchange = exchange
        self.timesteps = timesteps

    def step_batch(self, consumed: int, global_batch_size: int) -> StepBatch:
        """The batch of the step that starts at `consumed`; steps must be asked for in the loader's order."""
        waited, start = self.loader.wait_seconds, time.perf_counter()
        expected = iter(
            position
            for position, owner in self._positions_and_owners(consumed, global_batch_size)
            if owner == self.share.rank
        )

        def make() -> Tensor:
            clip, position = next(self.clips), next(expected)
            if clip.position != position:
                raise RuntimeError(f"the loader gave sample {clip.position} where {position} was due")
            return self.maker.make(clip)

        owners = self.share.owners(consumed, global_batch_size)
        samples = iter(self.exchange.share(owners, make))
        micro_batches = tuple(
            self._micro_batch([next(samples) for _ in positions], positions, consumed, global_batch_size)
            for positions in self.share.micro_batches(consumed, global_batch_size)
        )
        wait_seconds = self.loader.wait_seconds - waited
        return StepBatch(
            micro_batches=micro_batches,
            consumed=consumed,
            global_batch_size=global_batch_size,
            wait_seconds=wait_seconds,
            encode_seconds=time.perf_counter() - start - wait_seconds,
        )

    def _positions_and_owners(self, consumed: int, size: int) -> Iterator[tuple[int, int]]:
        positions = [p for micro_batch in self.share.micro_batches(consumed, size) for p in micro_batch]
        return zip(positions, self.share.owners(consumed, size), strict=True)

    def _micro_batch(self, samples: list[Tensor], positions: list[int], consumed: int, size: int) -> MicroBatch:
        unpacked = [self.maker.shape.unpack(flat) for flat in samples]
        stacked = {name: torch.stack([sample[name] for sample in unpacked]) for name in unpacked[0]}
        return MicroBatch(
            latents_BTCHW=stacked["latents"],
            noise_BTCHW=stacked["noise"],
            text_BLE=stacked["text"],
            timesteps_B=self.timesteps(consumed, size, positions).to(self.maker.device),
            positions=tuple(positions),
            slots=tuple(position - consumed for position in positions),
            image_latents_BTCHW=stacked.get("image_latents"),
        )

    def close(self) -> None:
        """Stop the loader."""
        with contextlib.suppress(StopIteration):
            self.loader.close()
