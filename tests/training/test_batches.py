from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from tests.training.step_maker import step_of
from vidtron.config.text import TextSpec
from vidtron.models.inputs import VIDEO, SampleSpec
from vidtron.training.batches import BatchSource
from vidtron.training.exchange import ReplicaExchange
from vidtron.training.packing import Packing
from vidtron.training.rank_share import RankShare
from vidtron.training.step_plan import walk

CPU = torch.device("cpu")
SMALL, LARGE = (1, 16, 16), (1, 32, 16)


class Maker:
    """A sample's tensors are filled with its position; position 13 cannot be made."""

    device = CPU

    def held(self):
        return nullcontext()

    def packing_of(self, size):
        latents = (size.num_frames, 1, size.height // 8, size.width // 8)
        return Packing(SampleSpec({VIDEO: latents}, (TextSpec(1, 3),), image_latents=True))

    def noise(self, name, shape, position):
        return torch.full(shape, -float(position))

    def make(self, clip):
        if clip.position == 13:
            raise ValueError("sample 13 is broken")
        return torch.full((self.packing_of(clip.size).numel,), float(clip.position))


class Loader:
    """Gives these positions; the sample at position 10 stands in for a bad one."""

    def __init__(self, positions, size_of):
        self.clips = (
            SimpleNamespace(
                position=position,
                size=size_of(position),
                row=100 + position,
                key=f"clip{100 + position}",
                frame_numbers=(0, 1),
                bad=("bad",) if position == 10 else (),
            )
            for position in positions
        )
        self.wait_seconds = self.decode_seconds = self.read_seconds = 0.0

    def __iter__(self):
        return self

    def __next__(self):
        self.wait_seconds += 1.0
        self.decode_seconds += 2.0
        return next(self.clips)

    def close(self):
        self.clips = iter(())


class LoneRank:
    """A replica of one rank."""

    def rank(self):
        return 0

    def size(self):
        return 1


def step_at(consumed):
    return step_of(consumed, 4, SMALL if consumed < 12 else LARGE)


def source(positions=None, share=RankShare(2, 0, 1, 0, 1), steps=2):  # noqa: B008
    reading = share.owned_positions(walk(step_at, 8, steps)) if positions is None else positions
    return BatchSource(
        Loader(reading, lambda position: step_at(position // 4 * 4).clip_size),
        Maker(),
        share,
        ReplicaExchange(LoneRank(), CPU),
        lambda step, positions: torch.tensor(positions) + 0.5,
        walk(step_at, 8, steps),
    )


def test_micro_batches_of_a_step():
    batch = next(source())
    assert [micro_batch.positions for micro_batch in batch.micro_batches] == [(8, 9), (10, 11)]
    assert [micro_batch.slots for micro_batch in batch.micro_batches] == [(0, 1), (2, 3)]
    second = batch.micro_batches[1]
    assert second.latents[VIDEO].shape == second.noise[VIDEO].shape == (2, 1, 1, 2, 2)
    assert second.conditions.texts[0].states_BLE.shape == (2, 1, 3)
    assert second.latents[VIDEO][:, 0, 0, 0, 0].tolist() == [10.0, 11.0]
    assert second.noise[VIDEO][:, 0, 0, 0, 0].tolist() == [-10.0, -11.0]
    assert second.conditions.image_latents_BTCHW[:, 0, 0, 0, 0].tolist() == [10.0, 11.0]
    assert second.timesteps_B.tolist() == [10.5, 11.5]
    assert (batch.work.wait, batch.work.decode) == (4.0, 8.0)
    assert batch.rows == {0: 108, 1: 109, 2: 110, 3: 111}
    assert batch.tried == ("bad",)


def test_steps_follow_each_other():
    batches = source()
    next(batches)
    with pytest.raises(ValueError, match="sample 13 is broken"):
        next(batches)


def test_each_step_has_its_size():
    share = RankShare(3, 1, 2, 0, 1)  # replica 1 of two: 2 samples of each step, in one micro-batch
    first, second = source(share=share)
    assert first.micro_batches[0].latents[VIDEO].shape == (2, 1, 1, 2, 2)
    assert second.micro_batches[0].positions == (14, 15)
    assert second.micro_batches[0].latents[VIDEO].shape == (2, 1, 1, 4, 2)


def test_the_source_ends_with_its_steps():
    batches = source(steps=1)
    next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def test_a_loader_in_another_order_is_noticed():
    with pytest.raises(RuntimeError, match="gave sample 9 where 8 was due"):
        next(source([9, 8, 10, 11]))
