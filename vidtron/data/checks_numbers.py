"""Numbers and combinations of the data's flags that need no look at files."""

from collections.abc import Iterator

from vidtron.config.data import DataConfig
from vidtron.config.ranges import refusals
from vidtron.config.run import RunConfig

BUCKET_CONFIG = "accepted: with --bucket-config"


def check_numbers(config: RunConfig) -> Iterator[str]:
    """One message for each error, starting with the flag."""
    data = config.data
    yield from (refusal.message for refusal in refusals(data))
    if data.fps is not None and data.frame_interval > 1:
        yield f"--frame-interval {data.frame_interval} with --fps: accepted: one of the two"
    yield from _check_sat(data)
    yield from _check_batches(data)
    yield from _check_with_buckets(config) if data.bucket_config is not None else _check_without(data)


def _check_sat(data: DataConfig) -> Iterator[str]:
    if data.clip_window != "sat":
        return
    if data.fps is None:
        yield "--clip-window sat: needs a rate; accepted: with --fps, 8 for CogVideoX and 16 for CogVideoX 1.5"
    if data.short_clip != "pad":
        yield f"--short-clip {data.short_clip} with --clip-window sat, whose short clips are padded: accepted: pad"
    if data.bucket_config is not None:
        yield f"--bucket-config {data.bucket_config} with --clip-window sat, which has none: accepted: one of the two"


def _check_batches(data: DataConfig) -> Iterator[str]:
    tokens = data.global_batch_tokens
    if data.bucket_batch == "tokens" and tokens is None:
        yield "--bucket-batch tokens: accepted: with --global-batch-tokens"
    if data.bucket_batch != "tokens" and tokens is not None:
        yield f"--global-batch-tokens {tokens}: accepted: with --bucket-batch tokens"
    if data.bucket_batch == "given" and data.bucket_batch_multiple > 1:
        yield f"--bucket-batch-multiple {data.bucket_batch_multiple}: accepted: with --bucket-batch tokens or compute"


def _check_with_buckets(config: RunConfig) -> Iterator[str]:
    training, data = config.training, config.data
    sizes = "the global batch sizes stand in --bucket-config"
    if training.global_batch_size is not None:
        yield f"--global-batch-size {training.global_batch_size}: {sizes}; accepted: one of the two"
    if training.rampup_batch_size is not None:
        ramp = " ".join(map(str, training.rampup_batch_size))
        yield f"--rampup-batch-size {ramp}: {sizes}; accepted: without --bucket-config"
    if data.bucket_rule == "opensora" and data.fps is not None:
        yield f"--fps {data.fps:g} with --bucket-rule opensora, which counts frames: accepted: --frame-interval"


def _check_without(data: DataConfig) -> Iterator[str]:
    if data.bucket_rule != "hash":
        yield f"--bucket-rule {data.bucket_rule}: {BUCKET_CONFIG}"
    if data.bucket_batch != "given":
        yield f"--bucket-batch {data.bucket_batch}: {BUCKET_CONFIG}"
