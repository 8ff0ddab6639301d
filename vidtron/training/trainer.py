"""The training loop."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from torch import Tensor

from vidtron.config.run import RunConfig
from vidtron.parallel import Groups, virtual_pipeline_size
from vidtron.training import health, metrics, report
from vidtron.training.assembly import TrainedModel
from vidtron.training.batch_size import batch_size_at
from vidtron.training.batches import BatchSource, StepBatch
from vidtron.training.logging import Logger
from vidtron.training.resume import Saver
from vidtron.training.signals import StopRequests
from vidtron.training.sources import DataRoom
from vidtron.training.step import ForwardStep
from vidtron.training.validation import Validation


@dataclass
class Progress:
    """How far a run is."""

    iteration: int = 0
    """Optimizer steps done."""
    consumed_samples: int = 0


@dataclass
class TrainingResult:
    """What a run has done; the same on all ranks."""

    iteration: int
    """Optimizer steps of the run, those before a resumption included."""
    consumed_samples: int
    stopped_by: str
    """done, signal, duration or interval."""
    losses: list[float] = field(default_factory=list)
    """Mean loss of the global batch in each step of this process."""
    gradient_norms: list[float] = field(default_factory=list)
    """Before clipping, in each step of this process."""
    evaluations: dict[int, float] = field(default_factory=dict)
    """Iteration -> loss on the held-out clips."""
    run_folder: Path | None = None


class Trainer:
    """Runs steps until the run is done or asked to stop. Built by `run.run`."""

    def __init__(
        self,
        config: RunConfig,
        groups: Groups,
        family: Any,
        model: TrainedModel,
        data: DataRoom,
        forward_step: ForwardStep,
        saver: Saver,
        logger: Logger,
        requests: StopRequests,
        progress: Progress,
    ) -> None:
        self.config = config
        self.groups = groups
        self.model = model
        self.data = data
        self.forward_step = forward_step
        self.saver = saver
        self.logger = logger
        self.requests = requests
        self.progress = progress
        self.sequence_length = family.sequence_length(config)
        self.batch_size_at = batch_size_at(config, groups.world_size)
        self.costs = metrics.Costs(
            flops_per_sample=family.flops_per_sample(config),
            tokens_per_sample=family.tokens_per_sample(config),
            devices=groups.world_size,
            peak=metrics.peak(config.logging.peak_tflops, metrics.device_name(groups.device)),
        )
        stages = config.parallel.pipeline_model_parallel_size
        self.schedule = get_forward_backward_func(pp_size=stages, vp_size=virtual_pipeline_size(config))
        self.communicator = P2PCommunicator(groups.pp, model.chunks[0].config) if stages > 1 else None
        self.validation = Validation(config, groups, model, data, self._forward_losses, forward_step.schedule.sigma)
        self.result = TrainingResult(
            iteration=progress.iteration,
            consumed_samples=progress.consumed_samples,
            stopped_by="done",
            run_folder=config.checkpoint.save,
        )

    def train(self) -> TrainingResult:
        """Run the remaining steps.

        Raises:
            health.NonFiniteStepError: loss or gradient norm is not finite, twice.
        """
        training, result = self.config.training, self.result
        source = self.data.training_source(self.progress.consumed_samples)
        try:
            while self.progress.iteration < training.train_iters:
                stop = self._step(source)
                iteration = self.progress.iteration
                if training.eval_interval is not None and iteration % training.eval_interval == 0:
                    self._validate()
                if stop is None and self.requests.at_interval(iteration):
                    stop = "interval"
                if iteration == training.train_iters:
                    stop = stop or "done"
                self.saver.after_step(self.model, iteration, self.progress.consumed_samples, last=stop is not None)
                if stop is not None:
                    result.stopped_by = stop
                    break
        finally:
            source.close()
        self.saver.finish()
        if result.stopped_by != "done":
            self.logger.say(f"leaving after step {self.progress.iteration} ({result.stopped_by})")
        result.iteration, result.consumed_samples = self.progress.iteration, self.progress.consumed_samples
        return result

    def _step(self, source: BatchSource) -> str | None:
        """One optimizer step; returns why the run is to stop after it."""
        start = time.perf_counter()
        size = self.batch_size_at(self.progress.consumed_samples)
        batch = source.step_batch(self.progress.consumed_samples, size)
        ready = time.perf_counter()
        outcome = health.checked(
            attempt=lambda: self._attempt(batch),
            describe=lambda outcome: self._describe(outcome, batch),
            warn=self.logger.say,
        )
        computed = time.perf_counter()
        learning_rate = self.model.learning_rate
        self.model.update(outcome.gradient_norm)
        self.progress.iteration += 1
        self.progress.consumed_samples += size
        end = time.perf_counter()
        self.result.losses.append(outcome.loss)
        self.result.gradient_norms.append(outcome.gradient_norm)
        self.logger.write(
            {
                "kind": "train",
                "iteration": self.progress.iteration,
                "consumed_samples": self.progress.consumed_samples,
                "loss": outcome.loss,
                "grad_norm": outcome.gradient_norm,
                "learning_rate": learning_rate,
                "global_batch_size": size,
                **metrics.throughput(self.costs, size, end - start),
                "memory_gib": metrics.memory_gib(self.groups.device),
                "step_seconds": end - start,
                "data_wait_seconds": batch.wait_seconds,
                "encode_seconds": batch.encode_seconds,
                "forward_backward_seconds": computed - ready,
                "update_seconds": end - computed,
            }
        )
        return outcome.stop

    def _attempt(self, batch: StepBatch) -> report.StepReport:
        """Forward and backward pass over a global batch; the weights stay."""
        self.model.zero_grad()
        losses = self._run_schedule(batch, forward_only=False)
        norm = self.model.gradient_norm()
        return report.exchange(losses, batch.global_batch_size, self.groups, norm, self.requests.wish())

    def _run_schedule(self, batch: StepBatch, *, forward_only: bool) -> Sequence[dict[str, Any]]:
        """mcore's schedule over the micro-batches; what the last stage's loss function reported."""
        chunks = self.model.chunks
        arguments: dict[str, Any] = {"pg_collection": self.groups.pg}
        if self.communicator is not None:
            arguments["p2p_communicator"] = self.communicator
        return self.schedule(
            forward_step_func=self.forward_step,
            data_iterator=[iter(batch.micro_batches) for _ in chunks],
            model=list(chunks),
            num_microbatches=len(batch.micro_batches),
            seq_length=self.sequence_length,
            micro_batch_size=self.config.training.micro_batch_size,
            forward_only=forward_only,
            **arguments,
        )

    def _forward_losses(self, batch: StepBatch) -> Tensor:
        """Losses of a global batch without gradients, on all ranks [global batch]."""
        losses = self._run_schedule(batch, forward_only=True)
        return report.exchange(losses, batch.global_batch_size, self.groups).losses

    def _validate(self) -> None:
        where = {"iteration": self.progress.iteration, "consumed_samples": self.progress.consumed_samples}
        for row in self.validation.run(self.progress.iteration):
            if row["kind"] == "eval" and row["weights"] == metrics.MODEL:
                self.result.evaluations[self.progress.iteration] = row["loss"]
            self.logger.write({"kind": row["kind"], **where, **row})

    def _describe(self, outcome: report.StepReport, batch: StepBatch) -> str:
        def timestep_of(position: int) -> float:
            return self.data.timesteps(batch.consumed, batch.global_batch_size, [position]).item()

        def sigma_of(timestep: float) -> float:
            return self.forward_step.schedule.sigma(torch.tensor([timestep], device=self.groups.device)).item()

        return health.describe_samples(
            outcome, self.progress.iteration + 1, batch.consumed, self.data.key_of, timestep_of, sigma_of
        )
