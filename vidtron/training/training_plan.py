"""The order in which a run takes its samples."""

from vidtron.config.run import RunConfig
from vidtron.data.planning.blend import split_weights
from vidtron.data.planning.plan import Plan
from vidtron.data.shards.index import ShardIndex
from vidtron.data.shards.shard_cache import ShardCache
from vidtron.models.family import Family
from vidtron.training.clip_fit import clip_fit


def training_plan(config: RunConfig, family: Family) -> Plan:
    """The endless list of a run's samples, over the shards of `--data-path`.

    Raises:
        ShardError, ValueError: the data cannot be used.
    """
    paths, weights = split_weights(config.data.data_path)
    return Plan.from_config(
        ShardIndex.open(paths, ShardCache.from_config(config.data)),
        config.data,
        config.training.seed,
        clip_fit(family, config),
        weights=weights,
        fixed_windows=config.encoders.latent_cache is not None,
    )
