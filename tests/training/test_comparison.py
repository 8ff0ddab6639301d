"""Recordings of runs, and how they are compared; the names of layouts."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from tests.training.small import small_run
from vidtron.config.world import World
from vidtron.training.comparison.differences import FP32, Comparison, told
from vidtron.training.comparison.layouts import Layout
from vidtron.training.comparison.recording import Name, Recording, Writer
from vidtron.training.comparison.runs import layout_errors, with_common_batch, without_files

ORDER = ["first.weight", "second.weight"]
ALONE = {"tensor": (0, 1), "pipeline stage": (0, 1)}


def tensors(steps: int = 1) -> dict[Name, torch.Tensor]:
    """What a run of two weights computes."""
    drawn = torch.Generator().manual_seed(0)
    names = [Name(0, "weights", key) for key in ORDER]
    for step in range(1, steps + 1):
        names += [Name(step, "states", f"decoder.layers.{layer}", sample) for layer in (0, 1) for sample in (0, 1)]
        names += [Name(step, kind, key) for kind in ("gradients", "weights") for key in ORDER]
    return {name: torch.randn(4, 6, generator=drawn) for name in names}


def recorded(folder: Path, content: dict[Name, torch.Tensor], *, ranks: int = 1, loss: float = 1.0) -> Recording:
    """Written by ranks that have a part of the rows each."""
    for rank in range(ranks):
        writer = Writer(folder, rank, {"tensor": (rank, ranks), "pipeline stage": (0, 1)})
        writer.note("chunk", {"number": 0, "order": ORDER, "modules": {"first.weight": "torch.nn.Linear"}})
        for name, tensor in content.items():
            rows = tensor.chunk(ranks)[rank]
            writer.write(name, rows, (rank * len(rows), 0), tensor.shape)
        if rank == 0:
            writer.note("step", {"loss": loss, "gradient_norm": 2.0})
        writer.close()
    return Recording(folder)


@pytest.fixture
def reference(tmp_path):
    return recorded(tmp_path / "reference", tensors())


def test_pieces_make_whole_tensors_again(tmp_path, reference):
    content = tensors()
    run = recorded(tmp_path / "run", content, ranks=2)
    for name, tensor in content.items():
        assert torch.equal(run.whole(name), tensor)
    comparison = Comparison(reference, run, FP32)
    assert comparison.first is None and set(comparison.largest.values()) == {0.0}
    assert comparison.tensors == len(content)


@pytest.mark.parametrize(
    ("changed", "first"),
    [
        (
            {Name(1, "states", "decoder.layers.1", 1), Name(1, "gradients", "first.weight")},
            "output of decoder.layers.1",
        ),
        ({Name(1, "gradients", key) for key in ORDER}, "gradient of second.weight"),
        ({Name(1, "weights", key) for key in ORDER}, "weight first.weight"),
        ({Name(0, "weights", "second.weight"), *tensors()}, "before the first step: weight first.weight"),
    ],
)
def test_the_first_difference_in_the_order_of_computation(tmp_path, reference, changed, first):
    content = {name: tensor.clone() for name, tensor in tensors().items()}
    for name in changed:
        content[name][3, 5] += 0.1
    comparison = Comparison(reference, recorded(tmp_path / "run", content, ranks=2), FP32)
    assert comparison.beyond == len(changed)
    head, *rest = told(comparison)
    assert first in head
    assert "on rank 1 (tensor 1 of 2)" in rest[0]


def test_numbers_of_a_step(tmp_path, reference):
    comparison = Comparison(reference, recorded(tmp_path / "run", tensors(), loss=1.1), FP32)
    assert comparison.largest["loss"] == pytest.approx(0.1)
    assert "step 1: the loss: 1.1 instead of 1" in told(comparison)[0]


def test_nan_missing_rows_missing_tensors_and_copies(tmp_path, reference):
    name = Name(1, "gradients", "second.weight")
    content = tensors()
    content[name] = content[name].clone()
    content[name][0, 0] = math.nan
    found = Comparison(reference, recorded(tmp_path / "nan", content), FP32)
    assert found.first.name == name and math.isnan(found.largest["gradients"])

    recorded(tmp_path / "rows", tensors(), ranks=2)
    for file in (tmp_path / "rows").glob("rank_1.*"):
        file.unlink()
    assert "no rank has written a part of it" in told(Comparison(reference, Recording(tmp_path / "rows"), FP32))[0]

    del content[name]
    found = Comparison(reference, recorded(tmp_path / "without", content), FP32)
    assert found.first.name == name and "this layout has no such tensor" in told(found)[0]

    folder = tmp_path / "copies"
    recorded(folder, tensors())
    writer = Writer(folder, 1, {"tensor": (1, 2)})
    writer.write(name, tensors()[name] + 1e-6, (0, 0), (4, 6), digest_only=True)
    writer.close()
    found = Comparison(reference, Recording(folder), FP32)
    assert found.beyond == 1 and "its copies on ranks 0 and 1 are not the same bits" in told(found)[0]


def test_a_weight_whose_gradient_is_rounding_is_not_judged(tmp_path):
    gradient, weight = (Name(1, kind, "first.weight") for kind in ("gradients", "weights"))
    content, other = tensors(), tensors()
    content[gradient], other[gradient] = torch.full((4, 6), 1e-9), torch.full((4, 6), -1e-9)
    other[weight] = content[weight] + 1
    found = Comparison(recorded(tmp_path / "one", content), recorded(tmp_path / "other", other), FP32)
    assert found.first is None and found.not_judged == {"first.weight"}


def test_names_of_layouts():
    layout = Layout.parse("tp2+SP+pp2+vpp2+CP4+dp3+all_gather")
    assert (layout.ranks, layout.samples_divisor) == (48, 6)
    applied = layout.applied(small_run(num_layers=8)).parallel
    assert dataclasses.asdict(applied) == {
        **dataclasses.asdict(applied),
        "tensor_model_parallel_size": 2,
        "sequence_parallel": True,
        "pipeline_model_parallel_size": 2,
        "num_layers_per_virtual_pipeline_stage": 2,
        "context_parallel_size": 4,
        "cp_comm_type": "all_gather",
    }
    for name, message in (
        ("", "an empty part"), ("TP0", "TP0: accepted"), ("TP2+TP2", "TP2: given twice"), ("EP2", "no model has"),
        ("TP1+SP", "beside TP2 or more"), ("VPP2", "beside PP2 or more"), ("a2a", "beside CP2 or more"),
        ("DP99999", "at most 4,096"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Layout.parse(name)


def test_ranks_that_do_not_fit_the_gpus():
    (error,) = layout_errors("--layouts", Layout.parse("TP2+CP2"), small_run(), World(1, 0, 0, has_cuda=True), 2)
    assert "needs 4 ranks, and this machine has 2 GPUs; accepted: layouts of at most 2 ranks" in error


def test_what_is_forced(tmp_path):
    run, left_out = without_files(small_run(save=tmp_path, eval_interval=5, exit_interval=1))
    assert (run.checkpoint.save, run.training.eval_interval, run.training.exit_interval) == (None, None, None)
    assert left_out == ["--save", "--eval-interval", "--exit-interval"]
    run, _ = without_files(small_run(save=tmp_path, load=tmp_path))  # as jobs that are queued again have it
    assert run.checkpoint.load is None
    layouts = [Layout.parse(name) for name in ("DP2", "DP3", "PP2+VPP2")]
    assert with_common_batch(small_run(global_batch_size=None), layouts).training.global_batch_size == 6
    assert with_common_batch(small_run(global_batch_size=4), layouts).training.global_batch_size == 4
