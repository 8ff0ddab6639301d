"""The training loop."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vidtron.config.data import ClipSize
from vidtron.config.run import RunConfig
from vidtron.config.storage import StorageError
from vidtron.models.family import Family
from vidtron.parallel import Groups, gather_objects
from vidtron.parallel.pipeline import PipelineSchedule
from vidtron.training import health, metrics, step_report
from vidtron.training.assembly import TrainedModel
from vidtron.training.bad_samples import BadSamples
from vidtron.training.batches import StepBatch, TrainingBatches
from vidtron.training.digest import clips_digest, digest
from vidtron.training.forward_step import ForwardStep
from vidtron.training.log_rows import MODEL, EvalRow, Row, TrainRow
from vidtron.training.logging import Logger
from vidtron.training.observation import Observer
from vidtron.training.resume import Progress, Saver
from vidtron.training.run_data import RunData
from vidtron.training.signals import Interrupted, StopRequests
from vidtron.training.validation import Validation


@dataclass
class TrainingResult:
    """What a run has done; the same on all ranks."""

    iteration: int
    """Optimizer steps of the run, those before a resumption included."""
    consumed_samples: int
    stopped_by: str
    """done, signal, duration, interval or what an observer has said."""
    losses: list[float] = field(default_factory=list)
    """Mean loss of the global batch in each step of this process."""
    gradient_norms: list[float] = field(default_factory=list)
    """Before clipping, in each step of this process."""
    evaluations: dict[int, float] = field(default_factory=dict)
    """Iteration -> loss on the held-out clips."""
    run_folder: Path | None = None


class Moments(NamedTuple):
    """Times within a step, seconds (time.perf_counter)."""

    start: float
    ready: float
    """The batch is there."""
    computed: float
    """Forward and backward passes are done, on all ranks."""
    end: float


class Trainer:
    """Runs steps until the run is done or asked to stop. Built by `run.run`."""

    def __init__(
        self,
        config: RunConfig,
        groups: Groups,
        family: Family,
        model: TrainedModel,
        data: RunData,
        forward_step: ForwardStep,
        saver: Saver,
        logger: Logger,
        bad_samples: BadSamples,
        requests: StopRequests,
        progress: Progress,
        observer: Observer,
    ) -> None:
        self.config = config
        self.groups = groups
        self.model = model
        self.data = data
        self.forward_step = forward_step
        self.saver = saver
        self.logger = logger
        self.bad_samples = bad_samples
        self.requests = requests
        self.progress = progress
        self.observer = observer
        self.family = family
        self.costs_of = cache(self._costs)
        self.schedule = PipelineSchedule(groups, model.chunks)
        self.validation = Validation(
            config, groups, model, data, self._forward, forward_step.schedule.sigma, logger.say, requests
        )
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
            StorageError: something cannot be written, on all ranks; what could be saved before is.
        """
        training, result = self.config.training, self.result
        left = training.train_iters - self.progress.iteration
        self.observer.before_training(self.model, self.groups)
        batches = self.data.training_batches(self.progress.consumed_samples, left, self.bad_samples.rows)
        try:
            result.stopped_by = self._steps(batches)
            self.saver.finish()
        except BaseException:
            self.saver.abandon()
            raise
        finally:
            batches.close()
        if result.stopped_by != "done":
            self.logger.say(self._farewell())
        result.iteration, result.consumed_samples = self.progress.iteration, self.progress.consumed_samples
        self._raise_failures()
        return result

    def _steps(self, batches: TrainingBatches) -> str:
        """All steps with what belongs between them; returns why the run ends."""
        training = self.config.training
        interval = training.eval_interval
        stop = self._validate() if interval is not None and self.progress.evaluation_due else None
        while stop is None and self.progress.iteration < training.train_iters:
            try:
                stop = self._step(batches)
            except Interrupted as interruption:  # before its first step
                return interruption.reason
            iteration = self.progress.iteration
            if interval is not None and iteration % interval == 0:
                self.progress.evaluation_due = True
                stop = stop or self._validate()
            if stop is None and self.requests.at_interval(iteration):
                stop = "interval"
            if iteration == training.train_iters:
                stop = stop or "done"
            saves = self.saver.is_due(iteration, last=stop is not None)
            if saves:
                self.data.sync()
            self.saver.after_step(self.model, self.progress, self.bad_samples.state(), last=stop is not None)
            if saves and stop is None:  # it may have taken long
                stop = self.requests.agreed(self.groups)
        return stop or "done"

    def _step(self, batches: TrainingBatches) -> str | None:
        """One optimizer step; returns why the run is to stop after it."""
        start = time.perf_counter()
        batch = next(batches)
        step = batch.step
        assert step.consumed == self.progress.consumed_samples
        ready = time.perf_counter()
        if not self.result.losses:  # it may have taken long until the first batch was there
            self.requests.before_first_step(self.groups)
        outcome = health.checked(
            attempt=lambda: self._attempt(batch),
            describe=lambda outcome: self._describe(outcome, batch),
            warn=self.logger.say,
        )
        computed = time.perf_counter()
        self.observer.after_backward(self.model)
        self.bad_samples.count(step.consumed, outcome.rows, batch.tried)
        learning_rate = self.model.learning_rate
        self.model.update(outcome.gradient_norm)
        self.progress.iteration += 1
        self.progress.consumed_samples += step.size
        moments = Moments(start, ready, computed, time.perf_counter())
        self.result.losses.append(outcome.loss)
        self.result.gradient_norms.append(outcome.gradient_norm)
        self._log(self._row(batch, outcome, learning_rate, moments))
        return outcome.stop or self.observer.after_update(self.model, outcome)

    def _attempt(self, batch: StepBatch) -> step_report.StepReport:
        """Forward and backward pass over a global batch; the weights stay."""
        self.model.zero_grad()
        losses = self._run_schedule(batch, forward_only=False)
        norm = self.model.gradient_norm()
        wish = self.requests.wish()
        return step_report.combine(losses, batch.rows, batch.codes, batch.step.size, self.groups, norm, wish)

    def _run_schedule(self, batch: StepBatch, *, forward_only: bool) -> Sequence[dict[str, Any]]:
        """mcore's schedule over the micro-batches; what the last stage's loss function reported."""
        return self.schedule(
            self.forward_step,
            batch.micro_batches,
            count=len(batch.micro_batches),
            sequence_length=self.family.sequence_length(self.config, batch.step.clip_size),
            micro_batch_size=len(batch.micro_batches[0].positions),
            forward_only=forward_only,
        )

    def _validate(self) -> str | None:
        """Evaluate; returns why the run is to stop, and leaves the evaluation due where it was interrupted."""
        try:
            rows = self.validation.run(self.progress)
        except Interrupted as interruption:
            return interruption.reason
        for row in rows:
            if isinstance(row, EvalRow) and row.weights == MODEL:
                self.result.evaluations[row.iteration] = row.loss
            self._log(row)
        self.progress.evaluation_due = False
        return self.requests.agreed(self.groups)

    def _forward(self, batch: StepBatch) -> step_report.StepReport:
        """A pass over a global batch without gradients."""
        losses = self._run_schedule(batch, forward_only=True)
        wish = self.requests.wish()
        return step_report.combine(losses, batch.rows, batch.codes, batch.step.size, self.groups, stop=wish)

    def _row(
        self, batch: StepBatch, outcome: step_report.StepReport, learning_rate: float, moments: Moments
    ) -> TrainRow:
        """What is logged of the step just done."""
        step, index = batch.step, self.data.plan.index
        start, ready, computed, end = moments
        return TrainRow(
            iteration=self.progress.iteration,
            consumed_samples=self.progress.consumed_samples,
            loss=outcome.loss,
            grad_norm=outcome.gradient_norm,
            learning_rate=learning_rate,
            global_batch_size=step.size,
            bucket=step.bucket.name,
            samples_digest=digest(index, outcome.rows),
            clips_digest=clips_digest(outcome.codes),
            planned_digest=digest(index, self.data.plan.rows(step.consumed, step.size)),
            bad_samples=len(self.bad_samples),
            **metrics.throughput(self.costs_of(step.clip_size), step.size, end - start),
            memory_gib=metrics.memory_gib(self.groups.device),
            step_seconds=end - start,
            **metrics.data_work(batch.work, ready - start, end - start, self.config.data.num_workers),
            forward_backward_seconds=computed - ready,
            update_seconds=end - computed,
        )

    def _costs(self, size: ClipSize) -> metrics.Costs:
        return metrics.Costs(
            flops_per_sample=self.family.flops_per_sample(self.config, size),
            tokens_per_sample=self.family.tokens_per_sample(self.config, size),
            devices=self.groups.world_size,
            peak=metrics.peak(self.config.logging.peak_tflops, metrics.device_name(self.groups.device)),
        )

    def _log(self, row: Row) -> None:
        try:
            self.logger.write(row)
        except StorageError as error:  # the other ranks know nothing of it yet
            self.requests.fail(error)

    def _describe(self, outcome: step_report.StepReport, batch: StepBatch) -> str:
        step = batch.step

        def timestep_of(position: int) -> float:
            return self.data.timesteps(step, [position]).item()

        def sigma_of(timestep: float) -> float:
            return self.forward_step.schedule.sigma(torch.tensor([timestep], device=self.groups.device)).item()

        def key_of(position: int) -> str:
            return self.data.plan.index[outcome.rows[position - step.consumed]].key

        return health.describe_samples(
            outcome, self.progress.iteration + 1, step.consumed, key_of, timestep_of, sigma_of
        )

    def _farewell(self) -> str:
        done, reason = self.progress.iteration, self.result.stopped_by
        if not self.result.losses:
            return f"leaving before the first step ({reason}); there is nothing to save"
        evaluation = "; its evaluation is left to the run that continues" if self.progress.evaluation_due else ""
        return f"leaving after step {done} ({reason}){evaluation}"

    def _raise_failures(self) -> None:
        """Raises StorageError on all ranks, if one of them had to stop because it could not write."""
        told = gather_objects(self.requests.failure, self.groups.world)
        failure = next((one for one in told if one is not None), None)
        if failure is not None:
            raise StorageError(failure)
