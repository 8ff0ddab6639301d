"""Clips: index of shards, plan, decoders, loader; and how shards are made.

Modules are imported by name (`from vidtron.data.planning.plan import Plan`): writing shards needs neither torch nor
megatron-core.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidtron.config.run import RunConfig
    from vidtron.config.world import World
    from vidtron.data.fit import ClipFit


def check(config: "RunConfig", world: "World", fit: "ClipFit") -> list[str]:
    """What is wrong with the data of a configuration; see `vidtron.data.checks`."""
    from vidtron.data.checks import check as check_data

    return check_data(config, world, fit)
