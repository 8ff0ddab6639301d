"""What a run looks at every `--eval-interval` steps: losses on held-out clips, and sampled videos.

All ranks take part in the layout of the training. Nothing of the training is changed by it.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from torch import Tensor

from vidtron.config.run import RunConfig
from vidtron.parallel import Groups
from vidtron.training.assembly import TrainedModel
from vidtron.training.bad_samples import BadSamples
from vidtron.training.batches import StepBatch
from vidtron.training.evaluate import evaluate, read_batches, sigma_curve, undisturbed
from vidtron.training.log_rows import MODEL, EvalRow, SampleRow
from vidtron.training.resume import Progress
from vidtron.training.run_data import RunData
from vidtron.training.signals import Interrupted, StopRequests
from vidtron.training.step_report import StepReport
from vidtron.training.validation_samples import ValidationSamples, prompts_of


class Validation:
    """Losses of the weights and of each of their averages; videos from the first average, or from the weights."""

    def __init__(
        self,
        config: RunConfig,
        groups: Groups,
        model: TrainedModel,
        data: RunData,
        forward: Callable[[StepBatch], StepReport],
        sigma_of: Callable[[Tensor], Tensor],
        say: Callable[[str], None],
        requests: StopRequests,
    ) -> None:
        """
        Args:
            config: the run.
            groups: the run's process groups.
            model: as it is being trained.
            data: gives the held-out clips, and has the encoders.
            forward: step batch -> report of a pass without gradients, on all ranks.
            sigma_of: timesteps -> noise levels.
            say: told of each held-out clip that could not be read.
            requests: looked at between batches, denoising steps and videos.
        """
        self.config = config
        self.groups = groups
        self.model = model
        self.data = data
        self.forward = forward
        self.requests = requests
        self.bad_samples: BadSamples | None = None
        if data.held_out is not None:
            held_out = data.held_out
            self.bad_samples = BadSamples(
                held_out.plan, config.data.max_bad_samples, groups, lambda message: say(f"held-out clips: {message}")
            )
            timesteps = held_out.timesteps(range(held_out.samples))
            self.sigmas = sigma_of(timesteps.to(groups.device)).cpu()
        self.weights = [MODEL, *model.averages.names]
        prompts = prompts_of(config.validation) if config.training.eval_interval is not None else []
        self.samples = ValidationSamples(config, groups, model.modules, data, prompts, requests) if prompts else None
        self.sampled_weights = self.weights[min(1, len(self.weights) - 1)]

    def run(self, progress: Progress) -> list[EvalRow | SampleRow]:
        """The rows of the log after the steps so far; the same on all ranks.

        Raises:
            TooManyBadSamplesError: more held-out clips than `--max-bad-samples` cannot be decoded.
            Interrupted: the ranks have agreed to leave; nothing of this evaluation counts.
        """
        rows: list[EvalRow | SampleRow] = []
        with self.model.complete_weights(), undisturbed(self.model.modules):
            batches = self._held_out()
            for weights in self.weights:
                sampled = self.samples if weights == self.sampled_weights else None
                if not batches and sampled is None:
                    continue
                with self._in_model(weights):
                    if batches:
                        rows.append(self._evaluate(batches, weights, progress))
                    if sampled is not None:
                        rows += sampled.write(weights, progress)
        return rows

    def _held_out(self) -> list[StepBatch]:
        if self.bad_samples is None:
            return []
        return read_batches(self.data.evaluation_batches(self.bad_samples.rows), self._look)

    def _look(self) -> None:
        reason = self.requests.agreed(self.groups)
        if reason is not None:
            raise Interrupted(reason)

    def _forward_losses(self, batch: StepBatch) -> Tensor:
        """Losses of a global batch, on all ranks [global batch]."""
        outcome = self.forward(batch)
        assert self.bad_samples is not None
        self.bad_samples.count(batch.step.consumed, outcome.rows, batch.tried)
        if outcome.stop is not None:
            raise Interrupted(outcome.stop)
        return outcome.losses

    def _evaluate(self, batches: list[StepBatch], weights: str, progress: Progress) -> EvalRow:
        start = time.perf_counter()
        losses = evaluate(batches, self._forward_losses, self.groups.device)
        curve = sigma_curve(self.sigmas, losses, self.config.validation.eval_sigma_bins)
        return EvalRow(
            iteration=progress.iteration,
            consumed_samples=progress.consumed_samples,
            weights=weights,
            loss=losses.mean().item(),
            sigma_edges=curve.edges,
            sigma_losses=curve.losses,
            seconds=time.perf_counter() - start,
        )

    @contextlib.contextmanager
    def _in_model(self, weights: str) -> Iterator[None]:
        with contextlib.nullcontext() if weights == MODEL else self.model.averages.in_model(weights):
            yield
