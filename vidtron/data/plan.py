"""The order of samples: a pure function of (index, configuration, seed).

A position is the number of samples of the run before this one. Epoch e is the positions [e n, (e+1) n) of a plan
with n samples: each sample once, in a permutation keyed by (seed, e).
"""

import hashlib
import threading

import torch

from vidtron.config.data import DataConfig
from vidtron.data.index import Sample, ShardIndex
from vidtron.data.windows import ShortClip, available_frames, frame_numbers

_CACHED_EPOCHS = 2  # a prefetching loader works on both sides of an epoch's end


class Plan:
    """Says which frames of which sample stand at a position. Holds one permutation of the samples per cached epoch."""

    def __init__(
        self,
        index: ShardIndex,
        seed: int,
        num_frames: int,
        fps: float | None = None,
        short_clip: ShortClip = "pad",
        sequential: bool = False,
    ) -> None:
        """
        Args:
            index: the samples.
            seed: of permutations and of the windows' places.
            num_frames: frames of one sample.
            fps: frames a second, by time stamps; None: consecutive frames.
            short_clip: what is done with clips that have too few frames.
            sequential: the order of the index and the middle of each clip, for evaluation.

        Raises:
            ValueError: no sample is left.
        """
        self.index = index
        self.seed = seed
        self.num_frames = num_frames
        self.fps = fps
        self.short_clip: ShortClip = short_clip
        self.sequential = sequential
        short = {row for row, sample in enumerate(index) if available_frames(sample.clip, fps) < num_frames}
        self.short_samples = len(short)
        """Samples with too few frames."""
        self.left_out = len(short) if short_clip == "skip" else 0
        """Samples that are left out because they have too few frames."""
        self._rows = [row for row in range(len(index)) if short_clip != "skip" or row not in short]
        if not self._rows:
            folders = ", ".join(str(folder) for folder in index.folders)
            rate = "" if fps is None else f" at {fps:g} frames a second"
            raise ValueError(f"none of the {len(index)} clips in {folders} has {num_frames} frames{rate}")
        self._epochs: dict[int, list[int]] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, index: ShardIndex, data: DataConfig, seed: int, sequential: bool = False) -> "Plan":
        """The plan that a data configuration asks for; ValueError where no sample is left."""
        return cls(index, seed, data.num_frames, data.fps, data.short_clip, sequential)

    def __len__(self) -> int:
        """Samples of one epoch."""
        return len(self._rows)

    def sample_at(self, position: int) -> int:
        """Row of the index that stands at a position."""
        if position < 0:
            raise ValueError(f"position {position}; accepted: 0 or more")
        epoch, place = divmod(position, len(self._rows))
        return self._rows[place if self.sequential else self._permutation(epoch)[place]]

    def sample(self, position: int) -> Sample:
        """The sample at a position."""
        return self.index[self.sample_at(position)]

    def frames_at(self, position: int) -> list[int]:
        """Numbers of the frames shown at a position."""
        where = 0.5 if self.sequential else self._where(position)
        return frame_numbers(self.sample(position).clip, self.num_frames, self.fps, self.short_clip, where)

    def fingerprint(self) -> str:
        """Names this function: plans of equal fingerprints give the same samples at the same positions."""
        key = (self.index.fingerprint, self.seed, self.num_frames, self.fps, self.short_clip, self.sequential)
        return hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()

    def _where(self, position: int) -> float:
        from vidtron.parallel.randomness import sample_generator  # late: building shards needs no megatron-core

        generator = sample_generator(self.seed, position, "crop")
        return torch.rand((), generator=generator, dtype=torch.float64).item()

    def _permutation(self, epoch: int) -> list[int]:
        from vidtron.parallel.randomness import named_generator

        with self._lock:
            if epoch not in self._epochs:
                generator = named_generator(self.seed, f"data order of epoch {epoch}")
                self._epochs[epoch] = torch.randperm(len(self._rows), generator=generator).tolist()
                if len(self._epochs) > _CACHED_EPOCHS:
                    del self._epochs[next(iter(self._epochs))]
            return self._epochs[epoch]
