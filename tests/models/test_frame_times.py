"""Which tokens are modulated by which time where frames are given clean."""

import pytest
import torch

from vidtron.models.layers.conditioning import Segment
from vidtron.models.layers.frame_times import FrameTimes
from vidtron.parallel.tokens import TokenSplit

TEXT, VIDEO = (4, 1), 0


def mask(*samples):
    """One word for each sample, a 1 for each frame that is learned."""
    return torch.tensor([[digit == "1" for digit in sample] for sample in samples])


def split(tokens, padded, cp=(1, 0), sp=(1, 0)):
    return TokenSplit(tokens, padded, cp_size=cp[0], cp_rank=cp[1], sp_size=sp[0], sp_rank=sp[1])


def test_without_a_mask_there_is_one_row():
    for times in (FrameTimes.of(None, 2, 3, 1), FrameTimes.of(mask("111", "111"), 2, 3, 1)):
        assert not times.masked
        assert times.own_RB == ((True, True),)
        assert times.segments(split(16, 16), text=TEXT, video=VIDEO) == (Segment(0, 4, 1), Segment(4, 16, 0))


def test_each_pattern_of_the_micro_batch_is_a_row():
    times = FrameTimes.of(mask("0110", "1101"), 2, 4, 1)
    assert times.own_RB == ((True, True), (False, True), (True, False))
    assert times.rows == (1, 0, 2, 1)
    own_BE, given_1E = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[8.0, 9.0]])
    assert times.select(own_BE, given_1E).tolist() == [
        [[1.0, 2.0], [3.0, 4.0]],
        [[8.0, 9.0], [3.0, 4.0]],
        [[1.0, 2.0], [8.0, 9.0]],
    ]


def test_frames_in_succession_share_a_segment():
    times = FrameTimes.of(mask("00111100"), 1, 4, 2)
    assert times.rows == (1, 0, 0, 1)
    assert times.segments(split(12, 13), text=TEXT, video=VIDEO) == (
        Segment(0, 4, 1),
        Segment(4, 6, 0, 1),
        Segment(6, 10, 0, 0),
        Segment(10, 13, 0, 1),
    )


@pytest.mark.parametrize("frame_mask", [mask("0110", "1101"), mask("0000", "1011"), None])
@pytest.mark.parametrize(("tokens", "padded"), [(24, 24), (20, 24), (8, 24)])
def test_ranks_hold_their_part(frame_mask, tokens, padded):
    times, frame = FrameTimes.of(frame_mask, 2, 4, 1), (tokens - 4) // 4
    whole = [(1, 0)] * 4 + [(0, row) for row in times.rows for _ in range(frame)]
    whole += [(0, times.rows[-1])] * (padded - tokens)
    held = []
    for cp in range(2):
        for sp in range(3):
            part = split(tokens, padded, (2, cp), (3, sp))
            segments = times.segments(part, text=TEXT, video=VIDEO)
            assert [s.start for s in segments] == [0, *(s.stop for s in segments[:-1])]
            held += [(s.kind, s.time) for s in segments for _ in range(s.start, s.stop)]
    assert held == whole


@pytest.mark.parametrize(
    ("frame_mask", "error"),
    [
        (mask("011"), r"a frame mask \(1, 3\); accepted: \(1, 4\), samples and latent frames"),
        (mask("0111", "1111"), r"a frame mask \(2, 4\); accepted: \(1, 4\)"),
        (mask("0111"), "differs inside a token; accepted: runs of 2 frames"),
    ],
)
def test_refused(frame_mask, error):
    with pytest.raises(ValueError, match=error):
        FrameTimes.of(frame_mask, 1, 2, 2)
