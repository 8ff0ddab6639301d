"""Training STDiT2 by IDDPM and STDiT3 by a rectified flow: the same losses and weights under every layout."""

import dataclasses

import pytest
import torch

from tests.distributed.layouts import OVERLAP, SECTIONS, train
from vidtron.checkpoint import latest, read_full_state
from vidtron.config.run import RunConfig
from vidtron.models.registry import family_of, preset

SP = {"tensor_model_parallel_size": 2, "sequence_parallel": True}
RECOMPUTED = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
CASES = [
    ("stdit2-tiny", 2, {**SP, **RECOMPUTED}),
    ("stdit2-tiny", 2, {"context_parallel_size": 2, "micro_batch_size": 2}),
    ("stdit3-tiny", 2, {**SP, "use_distributed_optimizer": True}),
    ("stdit3-tiny", 2, {"pipeline_model_parallel_size": 2, **RECOMPUTED}),
    ("stdit2-tiny", 2, OVERLAP),
]
MASKS = ["image_head", "0.3", "random", "0.2", "interpolate", "0.2"]


def tiny_run(model: str, shards, folder, **flags) -> RunConfig:
    """A few steps with frame masks and dropped captions, the preset's defaults changed by `flags`."""
    chosen = preset(model)
    run = RunConfig(model=model, network=dataclasses.replace(chosen.network, num_layers=2, hidden_size=48))
    values = {name: value for section in chosen.defaults.values() for name, value in section.items()}
    values |= {
        "data_path": [str(shards)], "height": 40, "width": 56, "num_workers": 0, "global_batch_size": 4,
        "train_iters": 3, "lr": 1e-2, "lr_warmup_iters": 0, "lr_decay_style": "constant", "tensorboard": False,
        "frame_masks": MASKS, "text_dropout": 0.3, "save": folder, "adam_eps": 1e-4,
    }  # fmt: skip
    for name, value in {**values, **flags}.items():
        owners = [s for s in SECTIONS if hasattr(getattr(run, s), name)]
        assert len(owners) == 1, f"{name} belongs to {owners}"
        setattr(getattr(run, owners[0]), name, value)
    return run


@pytest.fixture(scope="module")
def one_rank(pool, shards, tmp_path_factory):
    known = {}

    def of(model):
        if model not in known:
            folder = tmp_path_factory.mktemp("one") / "run"
            result = pool.run(train, 1, tiny_run(model, shards, folder))[0]
            known[model] = result, read_full_state(latest(folder))
        return known[model]

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("model", "ranks", "flags"), CASES, ids=lambda v: v if isinstance(v, str) else None)
def test_layouts(pool, shards, tmp_path, one_rank, model, ranks, flags):
    expected, final = one_rank(model)
    result = pool.run(train, ranks, tiny_run(model, shards, tmp_path / "run", **flags))[0]
    assert result.losses == pytest.approx(expected.losses, rel=1e-5)
    assert result.gradient_norms == pytest.approx(expected.gradient_norms, rel=1e-4)
    assert len(set(expected.losses)) == len(expected.losses)

    weights = read_full_state(latest(tmp_path / "run"))
    assert weights.keys() == final.keys() == {row.ours for row in family_of(model).rows(preset_network(model))}
    difference = torch.stack([(weights[name] - final[name]).norm() for name in final]).norm()
    assert difference < 1e-4 * torch.stack([final[name].norm() for name in final]).norm()


def preset_network(model: str):
    """As `tiny_run` has it."""
    return dataclasses.replace(preset(model).network, num_layers=2, hidden_size=48)
