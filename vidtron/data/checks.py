"""What is wrong with the data of a configuration."""

from collections import Counter
from collections.abc import Iterator

import torch

from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.data import dali
from vidtron.data.decode import DALI_PACKAGE
from vidtron.data.fit import ClipFit
from vidtron.data.index import ShardError, ShardIndex
from vidtron.data.plan import Plan
from vidtron.data.shard_cache import ShardCache


def check(config: RunConfig, world: World, fit: ClipFit) -> list[str]:
    """One message for each error, starting with the flag. Reads the indexes of all shards."""
    errors = list(_check_numbers(config))
    if not config.data.data_path:
        errors.append("--data-path: missing; accepted: a folder of shards made by tools/build_shards.py")
    if config.data.decoder == "dali" and DALI_PACKAGE not in world.packages:
        errors.append("--decoder dali: DALI is not installed (nvidia-dali-cuda130); accepted: auto, pyav")
    cache = ShardCache.from_config(config.data)
    sizes_are_good = not errors or (config.data.num_frames > 0 and (config.data.fps is None or config.data.fps > 0))
    for flag, folders in (("--data-path", config.data.data_path), ("--valid-data-path", config.data.valid_data_path)):
        readable = []
        for folder in folders:
            try:
                readable.append(ShardIndex.open([folder], cache))
            except ShardError as error:
                errors.append(f"{flag} {error}")
        if folders and len(readable) == len(folders) and sizes_are_good:
            errors += _check_clips(config, world, flag, ShardIndex.open(folders, cache, check_shards=False))
    return errors


def _check_numbers(config: RunConfig) -> Iterator[str]:
    data = config.data
    for flag, value in (("--num-frames", data.num_frames), ("--height", data.height), ("--width", data.width)):
        if value < 1:
            yield f"{flag} {value}: accepted: 1 or more"
    for flag, value in (("--num-workers", data.num_workers), ("--prefetch-samples", data.prefetch_samples)):
        if value < 0:
            yield f"{flag} {value}: accepted: 0 or more"
    if not data.data_cache_gib > 0:
        yield f"--data-cache-gib {data.data_cache_gib:g}: accepted: more than 0"
    if data.fps is not None and not data.fps > 0:
        yield f"--fps {data.fps:g}: accepted: more than 0"


def _check_clips(config: RunConfig, world: World, flag: str, index: ShardIndex) -> Iterator[str]:
    data = config.data
    try:
        Plan.from_config(index, data, config.training.seed)
    except ValueError as error:
        yield f"{flag}: {error}; accepted with --short-clip pad or loop, or with fewer --num-frames"
    if data.decoder == "dali":
        device = torch.device("cuda" if world.has_cuda else "cpu")
        unreadable: Counter[str] = Counter()
        for row, count in index.kinds():
            sample = index[row]
            if not dali.readable(sample.clip, device):
                unreadable[sample.clip.codec] += count
        if unreadable:
            codecs = ", ".join(f"{codec} ({count} clips)" for codec, count in sorted(unreadable.items()))
            accepted = ", ".join(sorted(dali.GPU_CODECS if world.has_cuda else dali.CPU_CODECS))
            where = "a GPU" if world.has_cuda else "a CPU"
            yield (
                f"--decoder dali: cannot read {codecs} of {flag} on {where}; accepted: {accepted} "
                f"(tools/build_shards.py --codec vp9 makes them), or --decoder auto"
            )
