"""Where the supported versions of megatron-core differ: 0.16.1 and 0.19.x."""

from importlib.metadata import version as installed_version
from typing import Any

from packaging.version import Version

MCORE_VERSION = Version(installed_version("megatron-core"))
AT_LEAST_0_19 = Version("0.19.0.dev0") <= MCORE_VERSION


def save_strategy() -> Any:
    """Strategy object or arguments for `dist_checkpointing.save(sharded_strategy=...)` in the torch_dist format."""
    if AT_LEAST_0_19:
        from megatron.core.dist_checkpointing.serialization import get_default_save_sharded_strategy

        return get_default_save_sharded_strategy("torch_dist")
    from megatron.core.dist_checkpointing.serialization import get_default_save_sharded_strategy

    return get_default_save_sharded_strategy("torch_dist", 1)


def save_arguments(async_save: bool) -> dict[str, Any]:
    """Keyword arguments of `dist_checkpointing.save` that only some versions know.

    From 0.19 on an asynchronous save asks for an implementation; "nvrx", the default, needs a package of its own.
    """
    return {"async_strategy": "mcore"} if AT_LEAST_0_19 and async_save else {}
