"""What runs of the small network write down is the same under every layout, piece by piece."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.layouts import LAYOUTS, Layout, small_run
from tests.training.test_stdit import tiny_run
from vidtron import training
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.training.comparison.differences import BF16, FP32, Comparison, told
from vidtron.training.comparison.recorder import EMBEDDED, OUTPUT, Recorder
from vidtron.training.comparison.recording import Recording

STEPS = 2
RECOMPUTED = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
CASES = {
    "uneven text, recomputed": {"text_length": 7, **RECOMPUTED},
    "adapters in bf16": {"bf16": True, "lora_rank": 2, "micro_batch_size": 2},
}


def record(rank: int, run: RunConfig, folder: Path) -> str:
    """Job: the real trainer, looked at."""
    return training.run(run, World.from_environment(), Recorder(folder, STEPS)).stopped_by


def recorded(pool: Any, shards: Path, folder: Path, layout: Layout, flags: dict[str, Any]) -> Recording:
    ended = pool.run(record, layout.ranks, small_run(shards, **{**layout.flags, **flags}), folder)
    assert set(ended) == {"observer"}
    return Recording(folder)


@pytest.mark.parametrize("case", CASES)
def test_recordings_agree(pool, shards, tmp_path, case):
    flags = CASES[case]
    reference = recorded(pool, shards, tmp_path / "one", Layout(1, {}), flags)
    keys = {name.key for name in reference.entries if name.kind == "states"}
    assert keys == {EMBEDDED, *(f"decoder.layers.{layer}" for layer in range(4)), OUTPUT}
    assert {name.sample for name in reference.entries if name.kind == "states"} == set(range(4 * STEPS))
    trained = {name.key for name in reference.entries if name.kind == "gradients"}
    assert trained <= set(reference.order) and trained == {n.key for n in reference.entries if n.kind == "weights"}
    # Parameters are registered in another order than the forward pass comes to them.
    first = reference.order.index("decoder.layers.0.modulation.linear.weight")
    assert first < reference.order.index("decoder.layers.0.self_attention.linear_qkv.weight")
    for name in ("PP2 interleaved", "TP2+SP x CP2", "DP2 x TP2"):
        run = recorded(pool, shards, tmp_path / name, LAYOUTS[name], flags)
        comparison = Comparison(reference, run, BF16 if "bf16" in case else FP32)
        assert comparison.first is None, (name, told(comparison))
        if "TP2" in name:  # sums over ranks: other roundings
            assert comparison.largest["hidden states"] > 0
        assert comparison.tensors >= len(reference.entries) - STEPS * len(comparison.not_judged)
        assert len(comparison.not_judged) < len(trained)


def test_recordings_of_tokens_in_another_order(pool, shards, tmp_path):
    """STDiT's ranks have frames of all places: as many tokens as they would have of one sequence, and others."""
    recordings = []
    for name, flags in (("one", {}), ("two", {"context_parallel_size": 2})):
        clip = {"num_frames": 4, "height": 32, "width": 64}
        run = tiny_run("stdit2-tiny", shards, None, **clip, **flags)
        assert set(pool.run(record, len(recordings) + 1, run, tmp_path / name)) == {"observer"}
        recordings.append(Recording(tmp_path / name))
    assert {n.key for n in recordings[0].entries if n.kind == "states"} >= {EMBEDDED, "decoder.layers.1"}
    comparison = Comparison(*recordings, FP32)
    assert comparison.first is None, told(comparison)
