"""Captions that a network replaces by itself: they stay, with their mask, and it is told which they are."""

import torch

from tests.training.small import small_run
from tests.training.test_sample_maker import CPU, LATENTS, CountingAutoencoder, LengthText, clip
from vidtron.config.text import TextSpec
from vidtron.models.inputs import VIDEO, SampleSpec
from vidtron.training.sample_maker import SampleMaker


def maker(spec, **flags):
    run = small_run(scale_factor=0.5, **flags)
    return SampleMaker(run, lambda size: spec, CountingAutoencoder(), [LengthText()] * len(spec.texts), CPU, seed=3)


def test_a_dropped_caption_stays_and_is_told():
    spec = SampleSpec({VIDEO: LATENTS}, (TextSpec(3, 5, masked=True, own_null=True), TextSpec(3, 5)))
    for dropout in (0.0, 1.0):
        sample_maker = maker(spec, text_dropout=dropout)
        row = sample_maker.make(clip(caption="four"))
        parts = sample_maker.packing_of(None).unpack(row)
        assert (parts["text"] == 4).all() and parts["text.mask"].all()
        assert (parts["text_2"] == 4 * (1 - dropout)).all()  # the other text's null is zeros, as ever
        assert parts["text.dropped"] == dropout
        _, conditions = sample_maker.packing_of(None).batch([row, row])
        first, second = conditions.texts
        assert first.dropped_B.dtype == torch.bool and first.dropped_B.tolist() == [bool(dropout)] * 2
        assert second.dropped_B is None


def test_what_is_recorded_is_the_caption():
    spec, recorded = SampleSpec({VIDEO: LATENTS}, (TextSpec(3, 5, own_null=True),)), []
    sample_maker = maker(spec, text_dropout=1.0)
    sample_maker.record = lambda clip, encoded: recorded.append(encoded)
    sample_maker.make(clip(caption="seven!!"))
    assert (recorded[0].texts[0].states_BLE == 7).all()
