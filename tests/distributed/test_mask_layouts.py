"""Steps with frames that are given clean have the same losses, gradients and weights under every layout."""

import pytest
import torch

from tests.distributed.layouts import LAYOUTS, UNEVEN_TEXT, Layout, small_run, train
from vidtron.checkpoint import latest, read_full_state
from vidtron.training.forward_step import ForwardStep

MASKS = {"frame_masks": ["image_head", "0.3", "random", "0.2", "interpolate", "0.2"]}
LORA = {
    "lora_rank": 3,
    "lora_dropout": 0.25,
    "lora_target_modules": ["to_q", "to_out.0", "norm1.linear", "norm2.linear"],
    "lr": 1e-2,
}
NETWORKS = {
    "plain": {},
    "uneven text": UNEVEN_TEXT,
    "tokens of two frames": {"patch_size_t": 2, "num_frames": 17},
    "image to video": {"in_channels": 32, "learned_position_grid": (3, 2, 3), "ofs_embedding": True},
    "lora": LORA,
    "edm": {"schedule": "edm", "parameterization": "edm", "timestep_density": "log-normal", "loss_weighting": "edm"},
}
RECOMPUTE = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
PAIRS = {"micro_batch_size": 2}
CASES = [
    ("plain", "TP2+SP", {}),
    ("plain", "PP2", {**PAIRS, **RECOMPUTE}),
    ("plain", "PP2 interleaved", {}),
    ("plain", "CP2", {"micro_batch_size": 4}),
    ("plain", "DP2 overlapped", PAIRS),
    ("uneven text", "TP2+SP x CP2", RECOMPUTE),
    ("tokens of two frames", "CP2 all-gather", PAIRS),
    ("image to video", "TP2+SP x PP2", PAIRS),
    ("lora", "TP2+SP", {**PAIRS, **RECOMPUTE}),
    ("lora", "DP2 x PP2", {}),
    ("edm", "TP2", PAIRS),
]


def train_masked(rank, run):
    """Job: the real trainer; also which positions had which mask on this rank."""
    original, seen = ForwardStep.__call__, {}

    def noted(batch):
        seen.update(zip(batch.positions, batch.frame_mask_BT.tolist(), strict=True))
        return batch

    ForwardStep.__call__ = lambda self, batches, chunk: original(self, map(noted, batches), chunk)
    try:
        return train(rank, run), seen
    finally:
        ForwardStep.__call__ = original


def run_layout(pool, shards, folder, layout, network, **flags):
    """Train; gives rank 0's result, the masks it saw and the weights at the end."""
    run = small_run(shards, save=folder / "run", **{**layout.flags, **MASKS, **NETWORKS[network], **flags})
    result, seen = pool.run(train_masked, layout.ranks, run)[0]
    return result, seen, read_full_state(latest(folder / "run"))


@pytest.fixture(scope="module")
def one_rank(pool, shards, tmp_path_factory):
    """The run of a network on one rank, one sample at a time; once for each."""
    known = {}

    def run(network):
        if network not in known:
            known[network] = run_layout(pool, shards, tmp_path_factory.mktemp("one"), Layout(1, {}), network)
        return known[network]

    return run


@pytest.mark.parametrize(
    ("network", "layout", "flags"),
    CASES,
    ids=[f"{network}-{layout}".replace(" ", "-") for network, layout, _ in CASES],
)
def test_parity(pool, shards, tmp_path, one_rank, network, layout, flags):
    expected, masks, final = one_rank(network)
    result, seen, weights = run_layout(pool, shards, tmp_path, LAYOUTS[layout], network, **flags)
    assert seen.items() <= masks.items()
    assert result.losses == pytest.approx(expected.losses, rel=1e-5)
    assert result.gradient_norms == pytest.approx(expected.gradient_norms, rel=1e-4)
    assert weights.keys() == final.keys()
    difference = torch.stack([(weights[name] - final[name]).norm() for name in final]).norm()
    assert difference < 1e-4 * torch.stack([weight.norm() for weight in final.values()]).norm()


def test_the_masks_are_of_all_kinds_and_change_the_numbers(pool, shards, one_rank):
    result, masks, _ = one_rank("plain")
    assert sorted(masks) == list(range(16))
    assert len({tuple(mask) for mask in masks.values()}) > 3
    assert [True] * 3 in masks.values()
    unmasked = pool.run(train, 1, small_run(shards))[0]
    for loss, other, step in zip(result.losses, unmasked.losses, range(4), strict=True):
        masked = any(not all(masks[position]) for position in range(4 * step, 4 * step + 4))
        assert masked and loss != pytest.approx(other, rel=1e-4)
