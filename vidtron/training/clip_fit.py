"""What a run's model tells the data room of the clips that it takes."""

from functools import partial

from vidtron.config.run import RunConfig
from vidtron.data.fit import ClipFit
from vidtron.models.family import Family


def clip_fit(family: Family, config: RunConfig) -> ClipFit:
    """The family's answers for one run."""
    return ClipFit(
        rounded_size=partial(family.rounded_size, config),
        nearest_frames=partial(family.nearest_frames, config),
        tokens=partial(family.tokens_per_sample, config),
        flops=partial(family.flops_per_sample, config),
        errors=partial(family.size_errors, config),
    )
