"""What a configuration is checked against: the machine the run was started on."""

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path

from vidtron.config.errors import ConfigurationError, exit_with
from vidtron.config.launcher import launched, launched_rank

OPTIONAL_PACKAGES = (
    "transformer_engine",
    "apex",
    "nvidia.dali",
    "wandb",
    "tensorboard",
    "diffusers",
    "transformers",
    "ftfy",
)

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def installed_packages() -> frozenset[str]:
    """Names of the optional packages that are installed, without importing them."""

    def found(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:  # the parent of a dotted name is missing
            return False

    return frozenset(name for name in OPTIONAL_PACKAGES if found(name))


def machine_memory() -> int:
    """Bytes of the machine's memory, or of what its control group leaves this process."""
    least = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _LIMITS:
        try:
            least = min(least, int(limit.read_text()))
        except (OSError, ValueError):  # another version of control groups, or "max"
            continue
    return least


@dataclass(frozen=True)
class World:
    """Ranks and equipment of a run, as the launcher gives them."""

    size: int
    rank: int
    local_rank: int
    has_cuda: bool
    packages: frozenset[str] = field(default_factory=installed_packages)
    memory: int = field(default_factory=machine_memory)
    """Bytes that this rank may fill: its GPU's, or its share of the machine's."""

    @classmethod
    def from_environment(cls) -> "World":
        """The world torchrun describes; one rank under plain `python`.

        Raises ConfigurationError with a message for each environment variable that is wrong.
        """
        found, errors = launched()
        if errors:
            raise ConfigurationError(errors)
        import torch

        has_cuda = torch.cuda.is_available()
        if has_cuda and found.local_rank >= torch.cuda.device_count():
            raise ConfigurationError(
                [
                    f"LOCAL_RANK={found.local_rank} in the environment: this machine has {torch.cuda.device_count()} "
                    "GPUs; accepted: one process for each at most (torchrun --nproc-per-node)"
                ]
            )
        memory = machine_memory() // found.local_size
        if has_cuda:
            memory = torch.cuda.get_device_properties(found.local_rank).total_memory
        return cls(found.size, found.rank, found.local_rank, has_cuda, memory=memory)

    @classmethod
    def of_launcher(cls) -> "World":
        """`from_environment` for programs: what is wrong with it is printed, and the process exits with status 2."""
        try:
            return cls.from_environment()
        except ConfigurationError as error:
            exit_with(error.errors, launched_rank())
