"""A run small enough to train within a test."""

import dataclasses
from pathlib import Path
from typing import Any

from vidtron.config.run import RunConfig
from vidtron.models.registry import preset

SECTIONS = [field.name for field in dataclasses.fields(RunConfig) if field.name not in ("model", "network")]


def small_run(shards: Path | str | None = None, **flags: Any) -> RunConfig:
    """Two layers of width 32; 9 frames of 32 x 48 pixels: 18 video tokens and 6 of text. `flags`: fields of any section."""
    network = dataclasses.replace(
        preset("cogvideox-tiny").network,
        num_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        time_embed_dim=32,
        text_length=6,
        text_width=16,
    )
    run = RunConfig(model="cogvideox-tiny", network=network)
    defaults = {
        "data_path": [] if shards is None else [str(shards)],
        "num_frames": 9,
        "height": 32,
        "width": 48,
        "num_workers": 0,
        "decoder": "pyav",
        "global_batch_size": 2,
        "train_iters": 4,
        "lr": 1e-3,
        "lr_decay_style": "constant",
        "clip_grad": 1.0,
        "tensorboard": False,
    }
    for name, value in {**defaults, **flags}.items():
        owners = [section for section in (*SECTIONS, "network") if hasattr(getattr(run, section), name)]
        assert len(owners) == 1, f"{name} belongs to {owners}"
        setattr(getattr(run, owners[0]), name, value)
    return run
