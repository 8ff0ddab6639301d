from types import SimpleNamespace

import pytest
import torch

from vidtron.training.batches import BatchSource, ReplicaExchange
from vidtron.training.positions import Share
from vidtron.training.samples import SampleShape

CPU = torch.device("cpu")
SHAPE = SampleShape((1, 1, 2, 2), (1, 3), image_conditioned=True)


class Maker:
    """A sample's tensors are filled with its position; position 13 cannot be made."""

    shape, device = SHAPE, CPU

    def make(self, clip):
        if clip.position == 13:
            raise ValueError("sample 13 is broken")
        return torch.full((SHAPE.numel(),), float(clip.position))


class Loader:
    """Gives these positions."""

    def __init__(self, positions):
        self.clips = (SimpleNamespace(position=position) for position in positions)
        self.wait_seconds = 0.0

    def __iter__(self):
        return self

    def __next__(self):
        self.wait_seconds += 1.0
        return next(self.clips)

    def close(self):
        self.clips = iter(())


class LoneRank:
    """A replica of one rank."""

    def rank(self):
        return 0

    def size(self):
        return 1


def source(positions=None, share=Share(2, 0, 1, 0, 1)):  # noqa: B008
    reading = share.owned_positions(8, lambda consumed: 4) if positions is None else positions
    exchange = ReplicaExchange(LoneRank(), SHAPE, CPU)
    return BatchSource(
        Loader(reading), Maker(), share, exchange, lambda consumed, size, positions: torch.tensor(positions) + 0.5
    )


def test_micro_batches_of_a_step():
    batch = source().step_batch(8, 4)
    assert [micro_batch.positions for micro_batch in batch.micro_batches] == [(8, 9), (10, 11)]
    assert [micro_batch.slots for micro_batch in batch.micro_batches] == [(0, 1), (2, 3)]
    second = batch.micro_batches[1]
    assert second.latents_BTCHW.shape == second.noise_BTCHW.shape == (2, 1, 1, 2, 2)
    assert second.text_BLE.shape == (2, 1, 3)
    assert second.latents_BTCHW[:, 0, 0, 0, 0].tolist() == [10.0, 11.0]
    assert second.image_latents_BTCHW[:, 0, 0, 0, 0].tolist() == [10.0, 11.0]
    assert second.timesteps_B.tolist() == [10.5, 11.5]
    assert batch.wait_seconds == 4.0


def test_steps_follow_each_other():
    batches = source()
    batches.step_batch(8, 4)
    with pytest.raises(ValueError, match="sample 13 is broken"):
        batches.step_batch(12, 4)


def test_a_loader_in_another_order_is_noticed():
    with pytest.raises(RuntimeError, match="gave sample 9 where 8 was due"):
        source([9, 8, 10, 11]).step_batch(8, 4)
