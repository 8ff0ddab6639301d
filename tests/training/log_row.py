"""A row of the log for tests."""

from typing import Any

from vidtron.training.log_rows import TrainRow


def train_row(**values: Any) -> TrainRow:
    """A step's row; `values` are fields of it."""
    numbers = {
        "iteration": 1, "consumed_samples": 8, "loss": 0.5, "grad_norm": 1.0, "learning_rate": 1e-4,
        "global_batch_size": 8, "bucket": "32x48-9f", "samples_digest": "a", "clips_digest": "b",
        "planned_digest": "a", "bad_samples": 0, "samples_per_second": 4.0, "tokens_per_second": 200.0,
        "model_tflops_per_device": 3.0, "memory_gib": 2.0, "step_seconds": 2.0, "stall_seconds": 0.02,
        "data_wait_seconds": 1.0, "encode_seconds": 0.5, "decode_seconds": 1.5, "read_seconds": 0.5,
        "data_percent": 1.0, "decode_percent": 50.0, "encode_percent": 25.0, "forward_backward_seconds": 1.5,
        "update_seconds": 0.25,
    }  # fmt: skip
    return TrainRow(**{**numbers, **values})
