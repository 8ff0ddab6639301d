"""What can be wrong with shards and the samples in them."""


class ShardError(ValueError):
    """Shards that cannot be used at all: a folder that is no folder of shards, or reading that failed again and
    again. The message names the folder or shard and what to do."""


class BadSampleError(ValueError):
    """A sample that can never be used, while others can. `shard`, `key` and `reason` say which and why."""

    failure = "cannot be used"

    def __init__(self, shard: str, key: str, reason: str) -> None:
        super().__init__(shard, key, reason)  # as they are, so that the error can go from one process to another
        self.shard = shard
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"sample {self.key} of {self.shard} {self.failure}: {self.reason}"


class DamagedSampleError(BadSampleError):
    """Its bytes or its caption are gone or damaged."""

    failure = "cannot be read"


class BadClipError(BadSampleError):
    """No decoder can read it."""

    failure = "cannot be decoded"
