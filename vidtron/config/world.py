"""What a configuration is checked against: the machine the run was started on."""

import importlib.util
import os
from dataclasses import dataclass, field

OPTIONAL_PACKAGES = ("transformer_engine", "apex", "nvidia.dali", "wandb", "tensorboard", "diffusers", "transformers")


def installed_packages() -> frozenset[str]:
    """Names of the optional packages that are installed, without importing them."""

    def found(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:  # the parent of a dotted name is missing
            return False

    return frozenset(name for name in OPTIONAL_PACKAGES if found(name))


@dataclass(frozen=True)
class World:
    """Ranks and equipment of a run, as the launcher gives them."""

    size: int
    rank: int
    local_rank: int
    has_cuda: bool
    packages: frozenset[str] = field(default_factory=installed_packages)

    @classmethod
    def from_environment(cls) -> "World":
        """The world torchrun describes; one rank under plain `python`."""
        import torch

        return cls(
            size=int(os.environ.get("WORLD_SIZE", "1")),
            rank=int(os.environ.get("RANK", "0")),
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            has_cuda=torch.cuda.is_available(),
        )
