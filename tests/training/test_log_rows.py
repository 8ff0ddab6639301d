"""Rows of metrics.jsonl: their keys, their line on the console, their curves."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from tests.training.log_row import train_row
from vidtron.training.batches import Work
from vidtron.training.log_rows import EvalRow, SampleRow, TrainRow, logged
from vidtron.training.metrics import Costs, Peak, data_work, throughput

EVALUATION = EvalRow(
    iteration=3, consumed_samples=24, weights="model", loss=0.25, sigma_edges=[], sigma_losses=[], seconds=1.0
)
AVERAGE = EvalRow(
    iteration=3,
    consumed_samples=24,
    weights="power_0.1",
    loss=0.25,
    sigma_edges=[0.1, 0.25, 1.0],
    sigma_losses=[0.75, 0.5],
    seconds=1.0,
)
VIDEO = SampleRow(
    iteration=3, consumed_samples=24, weights="0.9", file="samples/a.mp4", prompt="a cat", number=0, seed=1,
    sampling_steps=5, guidance_scale=6.0, seconds=2.0,
)  # fmt: skip


def test_keys_of_the_file_and_their_order():
    """Whoever reads metrics.jsonl finds them as ever; `mfu` where a peak is known."""
    keys = (
        "kind iteration consumed_samples loss grad_norm learning_rate global_batch_size bucket samples_digest "
        "clips_digest planned_digest bad_samples samples_per_second tokens_per_second model_tflops_per_device mfu "
        "memory_gib step_seconds stall_seconds data_wait_seconds encode_seconds decode_seconds read_seconds "
        "data_percent decode_percent encode_percent forward_backward_seconds update_seconds"
    ).split()
    assert list(train_row(mfu=0.4).content()) == keys
    assert list(train_row().content()) == [key for key in keys if key != "mfu"]
    assert json.dumps(EVALUATION.content()) == (
        '{"kind": "eval", "iteration": 3, "consumed_samples": 24, "weights": "model", "loss": 0.25, '
        '"sigma_edges": [], "sigma_losses": [], "seconds": 1.0}'
    )
    assert json.dumps(VIDEO.content()) == (
        '{"kind": "sample", "iteration": 3, "consumed_samples": 24, "weights": "0.9", "file": "samples/a.mp4", '
        '"prompt": "a cat", "number": 0, "seed": 1, "sampling_steps": 5, "guidance_scale": 6.0, "seconds": 2.0}'
    )


def test_line_of_a_step():
    measured = {
        **data_work(Work(1.0, 0.5, 1.5, 0.5), stalled=0.02, step_seconds=2.0, workers=2),
        **throughput(Costs(3e12, 50, 4, Peak(30.0, "x")), 8, 2.0),
    }
    assert train_row(iteration=3, **measured).line(10) == (
        "step 3/10 | loss 0.5000 | grad norm 1.0000 | lr 0.0001 | 4 samples/s | 200 tokens/s | "
        "3 TFLOP/s per device | MFU 10.0 % | 2.00 GiB | data 1 % decode 50 % encode 25 % | 32x48-9f"
    )
    assert "MFU" not in train_row().line(10)
    assert train_row(bad_samples=3).line(10).endswith(" | 32x48-9f | 3 bad samples")


def test_lines_of_evaluations_and_videos():
    assert EVALUATION.line(10) == "evaluation after step 3 | loss 0.2500 | 1.0 s"
    assert AVERAGE.line(10) == "evaluation of EMA power_0.1 after step 3 | loss 0.2500 | 1.0 s"
    assert VIDEO.line(10) == "sample of EMA 0.9 after step 3 | samples/a.mp4 | a cat"


def test_curves():
    assert EVALUATION.curves() == {"eval/consumed_samples": 24, "eval/loss": 0.25, "eval/seconds": 1.0}
    assert AVERAGE.curves() == {
        "eval_power_0.1/consumed_samples": 24,
        "eval_power_0.1/loss": 0.25,
        "eval_power_0.1/seconds": 1.0,
        "eval_power_0.1/loss_sigma_0.1_0.25": 0.75,
        "eval_power_0.1/loss_sigma_0.25_1": 0.5,
    }
    curves = train_row().curves()
    assert curves["train/loss"] == 0.5 and curves["train/consumed_samples"] == 8
    assert not {"train/iteration", "train/bucket", "train/mfu", "train/kind"} & curves.keys()


def test_one_more_metric_is_one_field():
    @dataclass(frozen=True, kw_only=True)
    class Row(TrainRow):
        queue: int = logged("{} queued".format, curve="data/queue")

    row = Row(**{one.name: getattr(train_row(), one.name) for one in fields(TrainRow)}, queue=7)
    assert row.content()["queue"] == 7
    assert " | 7 queued | 32x48-9f" in row.line(10)
    assert row.curves()["train/data/queue"] == 7


def test_the_page_has_every_entry():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    missing = [one.name for row in (TrainRow, EvalRow) for one in fields(row) if f"`{one.name}`" not in page]
    assert not missing
