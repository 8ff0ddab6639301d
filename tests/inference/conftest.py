"""Trained networks, small enough to be sampled within a test."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.distributed.layouts import small_run
from vidtron import training
from vidtron.config.world import World


def _trained(folder: Path, shards: Path, **flags) -> Path:
    training.run(small_run(shards, save=folder, lr=1e-2, train_iters=2, **flags), World.from_environment())
    return folder


@pytest.fixture(scope="session")
def trained(shards, tmp_path_factory) -> Path:
    """Run folder of a network that has taken a few steps."""
    return _trained(tmp_path_factory.mktemp("trained") / "run", shards, ema_decay=[0.9])


@pytest.fixture(scope="session")
def trained_on_images(shards, tmp_path_factory) -> Path:
    """The same of an image-to-video network as CogVideoX 1.5's: two latent frames a token, ofs."""
    flags = {"in_channels": 32, "ofs_embedding": True, "patch_size_t": 2, "scale_factor": 0.7}
    return _trained(tmp_path_factory.mktemp("trained-on-images") / "run", shards, **flags)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[Path]:
    """Two different pictures of sizes of their own."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number, size in enumerate(((40, 60), (100, 50))):
        pixels = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels.numpy()).save(paths[-1])
    return paths
