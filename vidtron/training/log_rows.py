"""What a run logs: the rows of metrics.jsonl, a dataclass for each kind.

One more metric is one more field of a row: `logged` says how it looks in a line on the console, and what its curve in
tensorboard and Weights & Biases is called.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from itertools import pairwise
from typing import Any, ClassVar

MODEL = "model"
"""In rows, the weights themselves among their averages."""


def logged(
    console: Callable[[Any], str] | None = None,
    *,
    curve: str | None = None,
    joined: bool = False,
    last: bool = False,
    default: Any = MISSING,
) -> Any:
    """A field of a row.

    Args:
        console: its value -> words of the line on the console, none where empty; unset: it is not in the line.
        curve: name of its curve; unset: the field's. Only numbers have one.
        joined: no bar in the line between it and what stands before.
        last: it stands at the end of the line.
        default: None makes a field that is left out of the file where it has no value.
    """
    return field(default=default, metadata={"console": console, "curve": curve, "joined": joined, "last": last})


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of metrics.jsonl, whose keys are the fields in their order."""

    kind: ClassVar[str]

    iteration: int
    """Optimizer steps of the run so far."""
    consumed_samples: int
    """Samples of the run so far."""

    def content(self) -> dict[str, Any]:
        """The row as JSON has it."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if self._has(one)}
        return {"kind": self.kind, **values}

    def curves(self) -> dict[str, float]:
        """The row's numbers by the names of their curves: `train/loss`."""
        found = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "iteration" and isinstance(value, int | float):
                found[f"{self._group}/{one.metadata.get('curve') or one.name}"] = value
        return found

    def line(self, train_iters: int) -> str:
        """One line for a terminal or a log."""
        parts = [f"step {self.iteration}/{train_iters}"]
        for one in sorted(fields(self), key=lambda one: bool(one.metadata.get("last"))):
            console = one.metadata.get("console")
            words = console(getattr(self, one.name)) if console and self._has(one) else ""
            if words and one.metadata["joined"]:
                parts[-1] += f" {words}"
            elif words:
                parts.append(words)
        return " | ".join(parts)

    @property
    def _group(self) -> str:
        """Group of the row's curves."""
        return self.kind

    def _has(self, one: Any) -> bool:
        return one.default is not None or getattr(self, one.name) is not None


@dataclass(frozen=True, kw_only=True)
class TrainRow(Row):
    """An optimizer step."""

    kind: ClassVar[str] = "train"

    loss: float = logged("loss {:.4f}".format)
    """Mean over the global batch."""
    grad_norm: float = logged("grad norm {:.4f}".format)
    """L2 norm of the whole model's gradient before clipping."""
    learning_rate: float = logged("lr {:.3g}".format)
    """In this step."""
    global_batch_size: int
    """Samples of the step over all replicas."""
    bucket: str = logged(str, last=True)
    """Name of the bucket that all its samples are of."""
    samples_digest: str
    """Hash of the keys of the samples that were trained on, in their order."""
    clips_digest: str
    """Hash of these keys and of the numbers of the frames that were shown."""
    planned_digest: str
    """Hash of the keys as planned; another one where bad samples were replaced."""
    bad_samples: int = logged(lambda count: f"{count} bad samples" if count else "", last=True)
    """Samples of the run so far that could not be decoded."""
    samples_per_second: float = logged("{:.3g} samples/s".format)
    """Over all replicas."""
    tokens_per_second: float = logged("{:.4g} tokens/s".format)
    """Over all replicas."""
    model_tflops_per_device: float = logged("{:.3g} TFLOP/s per device".format)
    """Forward and backward pass, without what is recomputed."""
    mfu: float | None = logged(lambda mfu: f"MFU {100 * mfu:.1f} %", default=None)
    """These TFLOP/s over the device's peak, 0 to 1; None where no peak is known."""
    memory_gib: float = logged("{:.2f} GiB".format)
    """Most that the device (on a CPU: the process) has held since the start."""
    step_seconds: float
    """The whole step."""
    stall_seconds: float
    """The training stood still for its data."""
    data_wait_seconds: float
    """Waiting for decoded clips, beside earlier steps where batches are made ahead."""
    encode_seconds: float
    """In the encoders and in the exchange inside the replica."""
    decode_seconds: float
    """Decoding, summed over the workers."""
    read_seconds: float
    """Reading shards, summed over the workers."""
    data_percent: float = logged("data {:.0f} %".format)
    """`stall_seconds` as a part of the step."""
    decode_percent: float = logged("decode {:.0f} %".format, joined=True)
    """How busy the workers were."""
    encode_percent: float = logged("encode {:.0f} %".format, joined=True)
    """`encode_seconds` as a part of the step."""
    forward_backward_seconds: float
    """Forward and backward passes over all micro-batches, and the ranks' agreement on them."""
    update_seconds: float
    """Clipping, optimizer step, gathering of weights and their averages."""


@dataclass(frozen=True, kw_only=True)
class WeightsRow(Row):
    """A row about the model's weights or one of their averages."""

    weights: str
    """`MODEL`, or the name of an average."""

    @property
    def _group(self) -> str:
        return self.kind if self.weights == MODEL else f"{self.kind}_{self.weights}"

    @property
    def _of(self) -> str:
        return "" if self.weights == MODEL else f" of EMA {self.weights}"


@dataclass(frozen=True, kw_only=True)
class EvalRow(WeightsRow):
    """The loss of some weights on held-out clips."""

    kind: ClassVar[str] = "eval"

    loss: float
    """Mean over the evaluation's samples."""
    sigma_edges: list[float]
    """n + 1 noise levels."""
    sigma_losses: list[float]
    """n losses between them."""
    seconds: float
    """The evaluation of these weights took."""

    def curves(self) -> dict[str, float]:
        """`eval/loss`, `eval_0.9999/loss` of an average, `eval/loss_sigma_0.12_0.35` between two noise levels."""
        found = super().curves()
        for (low, high), loss in zip(pairwise(self.sigma_edges), self.sigma_losses, strict=True):
            found[f"{self._group}/loss_sigma_{low:.3g}_{high:.3g}"] = loss
        return found

    def line(self, train_iters: int) -> str:
        return f"evaluation{self._of} after step {self.iteration} | loss {self.loss:.4f} | {self.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class SampleRow(WeightsRow):
    """A video sampled from some weights."""

    kind: ClassVar[str] = "sample"

    file: str
    """In the run folder."""
    prompt: str
    number: int
    """Place of the prompt among the validation prompts."""
    seed: int
    """Seed of the noise."""
    sampling_steps: int
    guidance_scale: float
    seconds: float
    """All videos of this evaluation took."""

    def line(self, train_iters: int) -> str:
        return f"sample{self._of} after step {self.iteration} | {self.file} | {self.prompt}"
