"""From (plan, loader, encoders) to the micro-batches of a step.

Inside a replica each sample is read, decoded and encoded by one rank (`RankShare.owners`), which then sends it to the
others. All samples of a step are exchanged before the step starts: a collective inside the pipeline schedule would
wait for stages that are themselves waiting for activations.

Shape letters: B micro-batch, T latent frames, C latent channels, H, W latent rows and columns, L text tokens,
E text features.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vidtron.data.decoding.loader import BadSample, Clip
from vidtron.models.inputs import VIDEO, Conditions
from vidtron.models.tensor_tree import tensors_in
from vidtron.training.digest import clip_code
from vidtron.training.exchange import MadeSample, ReplicaExchange
from vidtron.training.latent_cache import LatentCache
from vidtron.training.prefetch import Prefetcher
from vidtron.training.rank_share import RankShare
from vidtron.training.sample_maker import SampleMaker
from vidtron.training.step_plan import Step

Timesteps = Callable[[Step, Sequence[int]], Tensor]
"""(step, positions of some of its samples) -> their timesteps, float32 [len(positions)]."""
FrameMaskOf = Callable[[int, int], list[bool]]
"""(position, latent frames) -> True where a frame is learned."""


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass sees; identical on all ranks of a replica."""

    latents: Mapping[str, Tensor]
    """Clean latents [B, T, C, H, W] by name, float32."""
    noise: Mapping[str, Tensor]
    """Standard normal noise by name, float32, in the shapes of the latents."""
    conditions: Conditions
    timesteps_B: Tensor
    """Integers as float32."""
    positions: tuple[int, ...]
    """Positions of the samples in the plan."""
    slots: tuple[int, ...]
    """Places of the samples in the global batch."""
    frame_mask_BT: Tensor | None = None
    """On the CPU: False where a latent frame is given clean. None: none is."""


@dataclass(frozen=True)
class Work:
    """Seconds that went into a batch on this rank."""

    wait: float
    """Waiting for decoded clips."""
    encode: float
    """In the encoders and in the exchange."""
    decode: float
    """Decoding, summed over the workers."""
    read: float
    """Reading shards, summed over the workers."""


@dataclass(frozen=True)
class StepBatch:
    """This replica's part of one global batch."""

    micro_batches: tuple[MicroBatch, ...]
    step: Step
    rows: dict[int, int]
    """Place in the global batch -> row of the index that was used there, of this replica's samples."""
    codes: dict[int, int]
    """Place in the global batch -> `digest.clip_code` of what was shown there, of this replica's samples."""
    tried: tuple[BadSample, ...]
    """What this rank has tried in vain."""
    work: Work
    ready: Any = None
    """Event on a GPU after which the tensors are there; None: they are."""

    def wait_until_ready(self) -> None:
        """Have the calling thread's stream wait for the tensors."""
        if self.ready is None:
            return
        stream = torch.cuda.current_stream()
        stream.wait_event(self.ready)
        for micro_batch in self.micro_batches:
            for tensor in tensors_in(micro_batch):
                if tensor.is_cuda:
                    tensor.record_stream(stream)


class BatchSource(Iterator[StepBatch]):
    """Makes the batch of each step, in order; owns the loader."""

    def __init__(
        self,
        loader: Any,
        maker: SampleMaker,
        share: RankShare,
        exchange: ReplicaExchange,
        timesteps: Timesteps,
        steps: Iterable[Step],
        frame_masks: FrameMaskOf | None = None,
    ) -> None:
        """
        Args:
            loader: yields this rank's clips of the steps in their order (`RankShare.owned_positions`); has `close` and
                the running sums `wait_seconds`, `decode_seconds`, `read_seconds`.
            maker: turns a clip into a packed sample.
            share: which samples are this replica's and this rank's.
            exchange: shares samples inside the replica.
            timesteps: of the samples.
            steps: which ones.
            frame_masks: of the samples; None: every frame is learned.
        """
        self.loader = loader
        self.clips: Iterator[Clip] = iter(loader)
        self.maker = maker
        self.share = share
        self.exchange = exchange
        self.timesteps = timesteps
        self.steps = iter(steps)
        self.frame_masks = frame_masks
        self._stream: Any = None

    def __next__(self) -> StepBatch:
        step = next(self.steps)
        if self.maker.device.type != "cuda":
            return self._batch(step)
        if self._stream is None:  # made in the thread that uses it, which then works beside the training
            torch.cuda.set_device(self.maker.device)
            self._stream = torch.cuda.Stream()
        with torch.cuda.stream(self._stream):
            batch = self._batch(step)
            ready = torch.cuda.Event()
            ready.record()
        return replace(batch, ready=ready)

    def close(self) -> None:
        """Stop the loader."""
        self.loader.close()

    def _batch(self, step: Step) -> StepBatch:
        before, start = self._loader_sums(), time.perf_counter()
        expected = iter(self.share.owned_of(step))
        tried: list[BadSample] = []

        def make() -> MadeSample:
            clip, position = next(self.clips), next(expected)
            if clip.position != position:
                raise RuntimeError(f"the loader gave sample {clip.position} where {position} was due")
            tried.extend(clip.bad)
            return MadeSample(self.maker.make(clip), clip.row, clip_code(clip.key, clip.frame_numbers))

        positions = self.share.micro_batches(step)
        with self.maker.held():
            made = self.exchange.share(self.share.owners(step), make, self.maker.packing_of(step.clip_size).numel)
        slots = [position - step.consumed for group in positions for position in group]
        rows = {slot: sample.row for slot, sample in zip(slots, made, strict=True)}
        codes = {slot: sample.code for slot, sample in zip(slots, made, strict=True)}
        samples = iter(made)
        micro_batches = tuple(
            self._micro_batch(step, [next(samples).flat for _ in group], group) for group in positions
        )
        wait, decode, read = (now - then for now, then in zip(self._loader_sums(), before, strict=True))
        encode = time.perf_counter() - start - wait
        return StepBatch(micro_batches, step, rows, codes, tuple(tried), Work(wait, encode, decode, read))

    def _loader_sums(self) -> tuple[float, float, float]:
        return self.loader.wait_seconds, self.loader.decode_seconds, self.loader.read_seconds

    def _micro_batch(self, step: Step, samples: list[Tensor], positions: list[int]) -> MicroBatch:
        packing = self.maker.packing_of(step.clip_size)
        latents, conditions = packing.batch(samples)
        return MicroBatch(
            latents=latents,
            noise={name: self._noise(name, tensor, positions) for name, tensor in latents.items()},
            conditions=conditions,
            timesteps_B=self.timesteps(step, positions).to(self.maker.device),
            positions=tuple(positions),
            slots=tuple(position - step.consumed for position in positions),
            frame_mask_BT=self._frame_masks(latents[VIDEO].shape[1], positions),
        )

    def _noise(self, name: str, latents_BTCHW: Tensor, positions: list[int]) -> Tensor:
        """Drawn by every rank for itself, which is less than to send it."""
        noise = [self.maker.noise(name, latents_BTCHW.shape[1:], position) for position in positions]
        return torch.stack(noise).to(latents_BTCHW.device)

    def _frame_masks(self, latent_frames: int, positions: list[int]) -> Tensor | None:
        if self.frame_masks is None:
            return None
        return torch.tensor([self.frame_masks(position, latent_frames) for position in positions])


class TrainingBatches(Iterator[StepBatch]):
    """Batches of a run's training, some of them made ahead of their use."""

    def __init__(self, source: BatchSource, depth: int, cache: LatentCache | None = None) -> None:
        """
        Args:
            source: of the batches; closed with this.
            depth: batches made ahead.
            cache: takes what is encoded for them; closed with this.
        """
        self._source = source
        self._cache = cache
        self._prefetcher = Prefetcher(source, depth)

    def __next__(self) -> StepBatch:
        batch = next(self._prefetcher)
        batch.wait_until_ready()
        return batch

    def close(self) -> None:
        """Finish what has begun, and stop the loader."""
        self._prefetcher.close()
        self._source.close()
        if self._cache is not None:
            self._cache.close()
