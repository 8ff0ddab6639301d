"""Upstream's tiny checkpoints, and what a folder of each format holds."""

import importlib.metadata
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.reference import cogvideox_oracle as oracle
from vidtron import checkpoint
from vidtron.models.layers.checkpoint_rules import bits_equal

VARIANTS = oracle.VARIANTS
FORMATS = ("sat", "diffusers", "megatron")


def sat(variant: str) -> Path:
    return oracle.folder(variant) / "sat"


def diffusers(variant: str) -> Path:
    return oracle.folder(variant) / "diffusers"


def copy_sat(variant: str, folder: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sat(variant), folder))


def rank_file(folder: Path, rank: int = 0, tag: str = "1000") -> Path:
    return folder / tag / f"mp_rank_{rank:02d}_model_states.pt"


def load_sat(path: Path) -> dict[str, Tensor]:
    """Of one rank, as upstream's code opens it."""
    return torch.load(path, weights_only=True)["module"]


def contents(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, by the format's own names, with stock readers."""
    match checkpoint.detect_format(folder):
        case "sat":
            tag = (folder / "latest").read_text().strip()
            files = sorted((folder / tag).glob("mp_rank_*.pt"))
            return {f"{file.stem[8:10]} {k}": t for file in files for k, t in load_sat(file).items()}
        case "diffusers":
            return {k: t for file in sorted(folder.rglob("*.safetensors")) for k, t in load_file(file).items()}
        case "megatron":
            latest = checkpoint.latest(folder)
            assert latest is not None
            return checkpoint.read_full_state(latest)
    raise AssertionError(f"{folder} is no checkpoint")


def assert_same(folder: Path, expected: Path) -> None:
    """The same tensors, bit for bit; tables that are computed in fp32, to its rounding."""
    ours, theirs = contents(folder), contents(expected)
    assert ours.keys() == theirs.keys()
    assert different(ours, theirs) == []


def different(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not the same."""
    return [name for name in theirs if not _same(name, ours[name], theirs[name])]


def _same(name: str, ours: Tensor, theirs: Tensor) -> bool:
    if not name.endswith(("freqs_sin", "freqs_cos")):
        return bits_equal(ours, theirs)
    # Upstream's and ours: sine or cosine, off by a last bit each (6e-8 below 1), of angles off by a last bit each.
    return ours.dtype == theirs.dtype and torch.allclose(ours, theirs, rtol=0, atol=4 * 2.0**-23)


PLAIN_STATE = "common.pt" if importlib.metadata.version("megatron-core") < "0.17" else None
"""The file with a run's plain state; later versions of megatron-core have it among the tensors' files."""
