"""Where the supported versions of megatron-core differ: 0.16.1 and 0.19.x."""

from importlib.metadata import version as installed_version
from typing import Any

from packaging.version import Version

MCORE_VERSION = Version(installed_version("megatron-core"))
AT_LEAST_0_19 = Version("0.19.0.dev0") <= MCORE_VERSION


def async_save_arguments() -> dict[str, Any]:
    """Keyword arguments of `dist_checkpointing.save` that only some versions know.

    From 0.19 on there are two implementations of background saves; "nvrx", the default, needs a package of its own.
    """
    return {"async_strategy": "mcore"} if AT_LEAST_0_19 else {}
