"""megatron-core's pipeline schedules over a rank's chunks of a model, with the run's groups."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator

from vidtron.parallel.groups import Groups


class PipelineSchedule:
    """Runs micro-batches through the model; all ranks of a replica call it together."""

    def __init__(self, groups: Groups, chunks: Sequence[Any]) -> None:
        """
        Args:
            groups: the run's process groups.
            chunks: this rank's chunks of the model, bare or in their DDP wrappers.
        """
        self.groups, self.chunks = groups, list(chunks)
        stages, config = groups.pp.size(), self.chunks[0].config
        self._run = get_forward_backward_func(pp_size=stages, vp_size=config.virtual_pipeline_model_parallel_size)
        self._groups: dict[str, Any] = {"pg_collection": groups.pg}
        if stages > 1:
            self._groups["p2p_communicator"] = P2PCommunicator(groups.pp, config)

    def __call__(
        self,
        forward_step: Callable[..., Any],
        micro_batches: Sequence[Any],
        *,
        count: int,
        sequence_length: int,
        micro_batch_size: int,
        forward_only: bool,
    ) -> Sequence[dict[str, Any]]:
        """Run the micro-batches; gives the reports of the last stage's loss function, and on other stages nothing.

        Args:
            forward_step: mcore's `forward_step_func`.
            micro_batches: iterated once for each chunk.
            count: how many micro-batches there are.
            sequence_length: tokens of one sample, padded.
            micro_batch_size: samples of one micro-batch.
            forward_only: no gradients.
        """
        iterators: list[Iterator[Any]] = [iter(micro_batches) for _ in self.chunks]
        return self._run(
            forward_step_func=forward_step,
            data_iterator=iterators,
            model=self.chunks,
            num_microbatches=count,
            seq_length=sequence_length,
            micro_batch_size=micro_batch_size,
            forward_only=forward_only,
            **self._groups,
        )
