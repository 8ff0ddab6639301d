"""A rank's part of a model."""

from megatron.core.transformer.module import MegatronModule

from vidtron.config.run import RunConfig
from vidtron.models.family import Family
from vidtron.parallel import Groups, virtual_pipeline_size


def build_chunks(family: Family, run: RunConfig, groups: Groups) -> list[MegatronModule]:
    """The chunks of this rank's pipeline stage: one, or one for each virtual stage."""
    stages = virtual_pipeline_size(run)
    count = stages or 1
    return [
        family.build(
            run,
            groups,
            pre_process=groups.is_first_stage and stage == 0,
            post_process=groups.is_last_stage and stage == count - 1,
            vp_stage=None if stages is None else stage,
        )
        for stage in range(count)
    ]
