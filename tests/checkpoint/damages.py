"""Ways to damage a checkpoint's files, drawn at random."""

import random
import shutil
from pathlib import Path

import torch

from vidtron.checkpoint.manifest import MANIFEST_KEY

KINDS = ("overwritten", "truncated", "longer", "emptied", "gone")


def damage(file: Path, draw: random.Random, kind: str | None = None) -> str:
    """Damage a file; returns how."""
    kind = draw.choice(KINDS) if kind is None else kind
    content = file.read_bytes()
    if kind == "gone":
        file.unlink()
        return kind
    if kind == "overwritten":
        at = draw.randrange(len(content))
        old = content[at : at + draw.randint(1, 400)]
        new = draw.randbytes(len(old))
        while new == old:
            new = draw.randbytes(len(old))
        content = content[:at] + new + content[at + len(old) :]
        kind = f"{len(old)} bytes overwritten at {at}"
    elif kind == "truncated":
        content = content[: draw.randrange(1, len(content))]
    elif kind == "longer":
        content += draw.randbytes(draw.randint(1, 400))
    else:
        content = b""
    file.write_bytes(content)
    return kind


def damaged_copy(folder: Path, target: Path, name: str, draw: random.Random, kind: str | None = None) -> Path:
    """A copy of a checkpoint, or of a run folder (then of its newest checkpoint), with one damaged file.

    Returns:
        That file.
    """
    shutil.copytree(folder, target)
    home = target if target.name.startswith("iter_") else max(target.glob("iter_*"))
    damage(home / name, draw, kind)
    return home / name


def without_checksums(path: Path) -> None:
    """Make a checkpoint what an earlier version would have written."""
    (path / "checksums.json").unlink()
    common = torch.load(path / "common.pt", weights_only=False)
    del common[MANIFEST_KEY]
    torch.save(common, path / "common.pt")
