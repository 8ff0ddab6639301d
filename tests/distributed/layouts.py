"""The layouts of the parity test, and a small run of the real trainer under each.

Names: fields of the run configuration's sections, in one flat mapping.
"""

import dataclasses
from pathlib import Path
from typing import Any

from vidtron import training
from vidtron.config.objective import ObjectiveConfig
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.models.registry import preset

SECTIONS = [field.name for field in dataclasses.fields(RunConfig) if field.name not in ("model", "network")]


def small_run(shards: Path | str, **flags: Any) -> RunConfig:
    """A few steps of a small CogVideoX on `shards`, changed by `flags` (names of fields of any section).

    Four layers of four narrow heads; 9 frames of 32 x 48 pixels: 3 latent frames of 2 x 3 tokens each, and 6 of text.
    """
    tiny = preset("cogvideox-tiny").network
    network = dataclasses.replace(tiny, text_length=6, time_embed_dim=32, text_width=16)
    objective = ObjectiveConfig(**preset("cogvideox-5b").defaults["objective"])  # without tiny's shift
    run = RunConfig(model="cogvideox-tiny", network=network, objective=objective)
    defaults = {
        "data_path": [str(shards)],
        "num_frames": 9,
        "height": 32,
        "width": 48,
        "num_workers": 0,
        "global_batch_size": 4,
        "train_iters": 4,
        "lr": 1e-3,
        "lr_decay_style": "constant",
        "clip_grad": 1.0,
        "tensorboard": False,
    }
    for name, value in {**defaults, **flags}.items():
        owners = [s for s in (*SECTIONS, "network") if hasattr(getattr(run, s), name)]
        assert len(owners) == 1, f"{name} belongs to {owners}"
        setattr(getattr(run, owners[0]), name, value)
    return run


def train(rank: int, run: RunConfig) -> Any:
    """Job: the real trainer."""
    return training.run(run, World.from_environment())


@dataclasses.dataclass(frozen=True)
class Layout:
    """Ranks and flags of one run."""

    ranks: int
    flags: dict[str, Any]


def _layout(ranks: int, tp: int = 1, pp: int = 1, cp: int = 1, sp: bool = False, **flags: Any) -> Layout:
    parallel = {
        "tensor_model_parallel_size": tp,
        "pipeline_model_parallel_size": pp,
        "context_parallel_size": cp,
        "sequence_parallel": sp,
    }
    return Layout(ranks, {**parallel, **flags})


DO = {"use_distributed_optimizer": True}
OVERLAP = {**DO, "overlap_grad_reduce": True, "overlap_param_gather": True}
UNEVEN_TEXT = {"text_length": 7}
"""25 tokens: no layout divides them."""
UNEVEN_GRID = {"height": 48, "width": 80}
"""3 x 5 tokens a frame, 51 in all."""

LAYOUTS = {
    "DP2": _layout(2, **DO),
    "DP4": _layout(4),
    "DP2 overlapped": _layout(2, **OVERLAP),
    "TP2": _layout(2, tp=2),
    "TP2+SP": _layout(2, tp=2, sp=True, **DO),
    "TP4+SP": _layout(4, tp=4, sp=True),
    "PP2": _layout(2, pp=2, **DO),
    "PP4": _layout(4, pp=4),
    "PP2 interleaved": _layout(2, pp=2, num_layers_per_virtual_pipeline_stage=1, **DO),
    "CP2": _layout(2, cp=2),
    "CP4": _layout(4, cp=4, **DO),
    "CP2 all-gather": _layout(2, cp=2, cp_comm_type="all_gather"),
    "TP2+SP x PP2": _layout(4, tp=2, sp=True, pp=2),
    "TP2+SP x CP2": _layout(4, tp=2, sp=True, cp=2, **DO),
    "PP2 x CP2": _layout(4, pp=2, cp=2),
    "DP2 x TP2": _layout(4, tp=2, **DO),
    "DP2 x PP2": _layout(4, pp=2, **DO),
}
