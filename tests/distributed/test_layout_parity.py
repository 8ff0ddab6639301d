"""Loss, gradient norm and weights of a run are the same under every layout.

Each layout trains the small network for a few steps with the real trainer and is held against one rank: every step's
loss and gradient norm, and all weights at the end, read back from the run's checkpoint.
"""

from pathlib import Path

import pytest
import torch

from tests.distributed.layouts import LAYOUTS, UNEVEN_GRID, UNEVEN_TEXT, Layout, small_run, train
from vidtron.checkpoint import folder_name, latest, read_full_state

LOSS_TOLERANCE = 1e-5
WEIGHT_TOLERANCE = 1e-4
"""Of the norm of all weights."""
UPDATE_TOLERANCE = 1e-2
"""Of a tensor's own update, where its weights differ by more than WEIGHT_TOLERANCE of their norm."""
# Adam divides a gradient by its own size, so a gradient that is zero up to rounding becomes a full step of noise.
# With rotary positions no gradient of the network is zero by its mathematics; without, the key norm's bias adds the
# same number to all scores of a query.
ZERO_GRADIENT_WITHOUT_ROTARY = ("k_layernorm.bias",)

VARIATIONS = {
    "recompute full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
    "recompute block": {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 1},
    "recompute selective": {"recompute_granularity": "selective"},
    "micro-batch 2": {"micro_batch_size": 2},
    "uneven text": UNEVEN_TEXT,
    "uneven grid": UNEVEN_GRID,
    "no rotary": {"position": "sincos"},
    "sgd": {"optimizer": "sgd", "lr": 1e-2, "use_distributed_optimizer": False},
    "image to video": {"in_channels": 32, "learned_position_grid": (3, 2, 3), "ofs_embedding": True},
}
"""What a run may have besides; the first five leave its numbers as they are or belong to a baseline of their own."""
SAME_NUMBERS = ("recompute full", "recompute block", "recompute selective", "micro-batch 2")

CASES = [
    *[(layout, ()) for layout in LAYOUTS],
    ("TP2+SP", ("recompute full",)),
    ("PP2", ("recompute block", "micro-batch 2")),
    ("TP2+SP x CP2", ("recompute selective",)),
    ("DP2", ("micro-batch 2",)),
    ("TP2+SP", ("uneven text",)),
    ("CP4", ("uneven text", "recompute full")),
    ("TP2+SP x PP2", ("uneven grid",)),
    ("CP2 all-gather", ("uneven grid",)),
    ("TP2+SP x CP2", ("uneven grid",)),
    ("TP2+SP", ("no rotary",)),
    ("DP2 x TP2", ("sgd",)),
    ("PP2 interleaved", ("sgd",)),
    ("TP2+SP x CP2", ("image to video",)),
    ("DP2 x PP2", ("image to video", "micro-batch 2")),
]


@pytest.fixture(scope="session")
def baseline(pool, shards, tmp_path_factory):
    """Result, weights after the first step and final weights of the run on one rank with these numbers, run once."""
    known = {}

    def run(variations):
        changing = tuple(name for name in variations if name not in SAME_NUMBERS)
        if changing not in known:
            folder = tmp_path_factory.mktemp("baseline")
            result, final = run_layout(pool, shards, folder, Layout(1, {}), changing, save_interval=1)
            known[changing] = result, read_full_state(folder / "run" / folder_name(1)), final
        return known[changing]

    return run


def run_layout(pool, shards, folder: Path, layout: Layout, variations, **flags):
    """Train; returns rank 0's result and the weights at the end."""
    changes = {name: value for variation in variations for name, value in VARIATIONS[variation].items()}
    run = small_run(shards, save=folder / "run", **{**layout.flags, **changes, **flags})
    result = pool.run(train, layout.ranks, run)[0]
    return result, read_full_state(latest(folder / "run"))


@pytest.mark.parametrize(
    ("name", "variations"), CASES, ids=[" ".join((layout, *extra)).replace(" ", "-") for layout, extra in CASES]
)
def test_parity(pool, shards, baseline, tmp_path, name, variations):
    expected, first, final = baseline(variations)
    result, weights = run_layout(pool, shards, tmp_path, LAYOUTS[name], variations)

    assert result.losses == pytest.approx(expected.losses, rel=LOSS_TOLERANCE)
    assert result.gradient_norms == pytest.approx(expected.gradient_norms, rel=10 * LOSS_TOLERANCE)
    assert len(set(expected.losses)) == len(expected.losses)

    assert weights.keys() == final.keys()
    excluded = ZERO_GRADIENT_WITHOUT_ROTARY if "no rotary" in variations else ()
    names = [name for name in final if not name.endswith(excluded)] if excluded else list(final)
    difference = torch.stack([(weights[name] - final[name]).norm() for name in names]).norm()
    assert difference < WEIGHT_TOLERANCE * torch.stack([final[name].norm() for name in names]).norm()
    for name in names:
        difference = (weights[name] - final[name]).norm()
        update = (final[name] - first[name]).norm()
        assert difference <= max(WEIGHT_TOLERANCE * 1e-2 * final[name].norm(), UPDATE_TOLERANCE * update), name
