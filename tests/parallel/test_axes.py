"""Which tokens of a clip stand where, and that each stands somewhere once."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from vidtron.config.data import ClipSize
from vidtron.config.run import RunConfig
from vidtron.models.registry import family_of, preset
from vidtron.parallel.axes import AxisSplit, choose_axis, padded_grid
from vidtron.parallel.tokens import sequence_multiple


def split(frames, spaces, *, cp=1, sp=1, cp_rank=0, sp_rank=0, multiple=None):
    def group(size, rank):
        return SimpleNamespace(size=lambda: size, rank=lambda: rank)

    return AxisSplit.of_rank(
        frames, spaces, multiple=multiple or sp, tp=group(sp, sp_rank), cp=group(cp, cp_rank), sequence_parallel=sp > 1
    )


@pytest.mark.parametrize(
    ("frames", "spaces", "cp", "multiple", "axis"),
    [
        (16, 1024, 1, 8, "frames"),
        (16, 1024, 4, 8, "frames"),
        (1, 1024, 2, 1, "space"),  # an image
        (3, 1024, 4, 2, "space"),  # a rank would have no frame
        (5, 24, 2, 1, "space"),  # 5 x 24 against 6 x 24
        (5, 3, 2, 1, "frames"),  # 5 x 4 against 6 x 3
        (4, 3, 2, 1, "frames"),  # no difference but in space
        (51, 3600, 8, 8, "space"),
        (4, 24, 2, 1, "frames"),  # none at all
    ],
)
def test_the_axis_that_is_cut(frames, spaces, cp, multiple, axis):
    assert choose_axis(frames, spaces, cp=cp, multiple=multiple) == axis


CLIPS = [(1, 6), (3, 12), (4, 20), (5, 2), (5, 3), (5, 1), (7, 3), (6, 5)]


@pytest.mark.parametrize(("frames", "spaces"), CLIPS)
@pytest.mark.parametrize(("cp", "sp"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)])
def test_every_token_stands_on_one_rank(frames, spaces, cp, sp):
    numbers = 1 + torch.arange(frames * spaces, dtype=torch.float32).view(frames, spaces, 1, 1)
    parts = [
        split(frames, spaces, cp=cp, sp=sp, cp_rank=c, sp_rank=s) for c, s in itertools.product(range(cp), range(sp))
    ]
    held = [part.own(numbers) for part in parts]
    assert all(x.shape == (part.own_spaces, part.own_frames, 1, 1) for x, part in zip(held, parts, strict=True))
    tokens = sorted(number for x in held for number in x.flatten().tolist() if number)
    assert tokens == numbers.flatten().tolist()
    whole = math.prod(padded_grid(parts[0].axis, frames, spaces, cp=cp, multiple=sp))
    assert sum(part.length for part in parts) == whole
    joined = torch.zeros(frames, spaces, 1)
    for x, part in zip(held, parts, strict=True):
        box = part.box(x.flatten(0, 1)[:, 0])
        assert box.whole == joined.shape
        place = tuple(slice(first, first + size) for first, size in zip(box.offset, box.values.shape, strict=True))
        joined[place] += box.values
    assert torch.equal(joined, numbers[..., 0])
    for x, part in zip(held, parts, strict=True):
        if sp == 1:  # what attention sees of this rank: no padding, or one row of it where there is nothing else
            seen = x[: part.real_spaces, : part.real_frames]
            assert (seen > 0).all() or not x.any()
            assert seen.count_nonzero() == x.count_nonzero()
        rows = x.flatten(0, 1)
        assert torch.equal(part.by_token(part.by_frame(rows)), rows)
        assert part.by_frame(rows).shape[0] == part.own_frames


def test_the_pipelines_transfers_have_the_ranks_tokens():
    run = RunConfig(model="stdit2-tiny", network=preset("stdit2-tiny").network)
    family = family_of("stdit2-tiny")
    for (frames, height), cp, sp in itertools.product([(1, 64), (3, 56), (5, 64)], (1, 2, 4), (1, 2)):
        run.parallel = replace(
            run.parallel,
            context_parallel_size=cp,
            tensor_model_parallel_size=sp,
            sequence_parallel=sp > 1,
        )
        grid = run.network.grid(height // 8, 12)
        part = split(frames, math.prod(grid), cp=cp, sp=sp)
        assert family.sequence_length(run, ClipSize(frames, height, 96)) == part.length * cp * sp


def exchanged(rank, frames, spaces):
    """Job: what a rank has fetched, and whether it comes back; also the numbers of its gradient."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    cp, world = dist.group.WORLD, dist.get_world_size()
    part = AxisSplit.of_rank(
        frames, spaces, multiple=1, tp=SimpleNamespace(size=lambda: 1, rank=lambda: 0), cp=cp, sequence_parallel=False
    )
    numbers = 1 + torch.arange(frames * spaces, dtype=torch.float32).view(frames, spaces, 1, 1)
    own = part.own(numbers).flatten(0, 1).requires_grad_()
    fetched = part.fetch_frames(own, cp)
    back = part.return_frames(2 * fetched, cp)
    back.sum().backward()
    dist.destroy_process_group()
    assert part.moves_frames and torch.equal(back, 2 * own) and (own.grad == 2).all()
    places = fetched.detach().view(-1, part.padded_frames)
    assert len(places) == math.ceil(spaces / world)
    return places[:, :frames].tolist()


@pytest.mark.parametrize(("world_size", "frames", "spaces"), [(2, 4, 6), (2, 5, 3), (4, 5, 1)])
def test_a_place_meets_all_its_frames(pool, world_size, frames, spaces):
    places = [place for part in pool.run(exchanged, world_size, frames, spaces) for place in part if any(place)]
    expected = 1 + torch.arange(frames * spaces, dtype=torch.float32).view(frames, spaces)
    assert sorted(places) == expected.t().tolist()


def test_parts_of_space_for_fp8():
    """What tensor-parallel ranks gather of a fetched part are rows that FP8's products take."""
    multiple = sequence_multiple(tp=2, cp=1, sequence_parallel=True, fp8=True)
    part = split(4, 40, cp=2, sp=2, multiple=multiple)
    assert part.axis == "frames" and part.own_spaces % part.granule == 0 and 2 * part.granule % 16 == 0
