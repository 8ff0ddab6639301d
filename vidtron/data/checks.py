"""What is wrong with the data of a configuration."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.data.checks_numbers import check_numbers
from vidtron.data.decoding import dali
from vidtron.data.decoding.decode import DALI_PACKAGE
from vidtron.data.fit import ClipFit
from vidtron.data.planning.blend import split_weights
from vidtron.data.planning.buckets import Bucket, BucketError, read_buckets
from vidtron.data.planning.plan import Plan
from vidtron.data.shards.index import ShardError, ShardIndex
from vidtron.data.shards.shard_cache import ShardCache


@dataclass(frozen=True)
class _Folders:
    """What one flag says of folders."""

    flag: str
    paths: Sequence[str]
    weights: list[float] | None
    sequential: bool


def check(config: RunConfig, world: World, fit: ClipFit) -> list[str]:
    """One message for each error, starting with the flag. Reads the indexes of all shards and, with buckets, finds
    the bucket of every clip."""
    errors = list(check_numbers(config))
    numbers_are_good = not errors
    if not config.data.data_path:
        errors.append("--data-path: missing; accepted: a folder of shards made by tools/build_shards.py")
    if config.data.decoder == "dali" and DALI_PACKAGE not in world.packages:
        errors.append("--decoder dali: DALI is not installed (nvidia-dali-cuda130); accepted: auto, pyav")
    bucket_errors = list(_check_buckets(config, world, fit)) if numbers_are_good else []
    errors += bucket_errors
    try:
        paths, weights = split_weights(config.data.data_path)
        flags = [_Folders("--data-path", paths, weights, sequential=False)]
    except ValueError as error:
        errors.append(f"--data-path: {error}")
        flags = []
    flags.append(_Folders("--valid-data-path", config.data.valid_data_path, None, sequential=True))
    for folders in flags:
        index = _open(config, folders, errors)
        if index is None:
            continue
        if numbers_are_good and (folders.sequential or not bucket_errors):
            errors += _check_plan(config, fit, folders, index)
        if config.data.decoder == "dali":
            errors += _check_codecs(world, folders.flag, index)
    return errors


def _open(config: RunConfig, folders: _Folders, errors: list[str]) -> ShardIndex | None:
    """The index of all folders; None where there are none or one is unusable, which is added to the errors."""
    cache = ShardCache.from_config(config.data)
    readable = 0
    for path in folders.paths:
        try:
            ShardIndex.open([path], cache)
            readable += 1
        except ShardError as error:
            errors.append(f"{folders.flag} {error}")
    if not folders.paths or readable < len(folders.paths):
        return None
    return ShardIndex.open(folders.paths, cache, check_shards=False)


def _check_buckets(config: RunConfig, world: World, fit: ClipFit) -> Iterator[str]:
    if config.data.bucket_config is None:
        return
    try:
        buckets = read_buckets(config.data, fit).buckets
    except BucketError as error:
        yield from error.errors
        return
    # Late, because building shards needs no megatron-core.
    from vidtron.parallel import model_parallel_size

    ranks = model_parallel_size(config)
    if ranks < 1 or world.size % ranks:  # the parallel room says so
        return
    replicas = world.size // ranks
    hint = "" if config.data.bucket_batch == "given" else f" (--bucket-batch-multiple {replicas})"

    def shared(bucket: Bucket) -> tuple[str, int | None]:
        return bucket.name.rpartition("-")[0], bucket.batch_size

    for (name, size), _ in groupby(buckets, shared):
        assert size is not None
        if size % replicas:
            yield (
                f"--bucket-config {config.data.bucket_config}: bucket {name}: {size} samples of a global batch do not "
                f"divide among {replicas} data-parallel replicas; accepted: multiples of {replicas}{hint}"
            )


def _check_plan(config: RunConfig, fit: ClipFit, folders: _Folders, index: ShardIndex) -> Iterator[str]:
    try:
        plan = Plan.from_config(
            index,
            config.data,
            config.training.seed,
            fit,
            sequential=folders.sequential,
            weights=folders.weights,
        )
    except ValueError as error:
        yield str(error)
        return
    bucketed = config.data.bucket_config is not None and not folders.sequential
    remedy = (
        "smaller batches or more of the clips; see tools/inspect_buckets.py"
        if bucketed
        else "another --fps, or --clip-window random"
        if config.data.clip_window == "sat"
        else "--short-clip pad or loop, or fewer --num-frames"
    )
    for message in plan.errors():
        yield f"{folders.flag}: {message}; accepted with {remedy}"


def _check_codecs(world: World, flag: str, index: ShardIndex) -> Iterator[str]:
    device = torch.device("cuda" if world.has_cuda else "cpu")
    unreadable: Counter[str] = Counter()
    for row, count in index.kinds():
        clip = index[row].clip
        if not dali.readable(clip, device):
            unreadable[clip.codec] += count
    if unreadable:
        codecs = ", ".join(f"{codec} ({count} clips)" for codec, count in sorted(unreadable.items()))
        accepted = ", ".join(sorted(dali.GPU_CODECS if world.has_cuda else dali.CPU_CODECS))
        where = "a GPU" if world.has_cuda else "a CPU"
        yield (
            f"--decoder dali: cannot read {codecs} of {flag} on {where}; accepted: {accepted} "
            f"(tools/build_shards.py --codec vp9 makes them), or --decoder auto"
        )
