"""Every bad layout has one message that names the flag and what would be accepted."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vidtron.config.data import DataConfig
from vidtron.config.optimizer import OptimizerConfig
from vidtron.config.parallel import ParallelConfig
from vidtron.config.precision import PrecisionConfig
from vidtron.config.run import RunConfig
from vidtron.config.training import TrainingConfig
from vidtron.config.world import World
from vidtron.parallel import check, sequence_parallel, virtual_pipeline_size

CPU = World(size=4, rank=0, local_rank=0, has_cuda=False, packages=frozenset())
GPU = replace(CPU, has_cuda=True, packages=frozenset({"transformer_engine"}))


def run_config(layers: int = 12, **fields: Any) -> RunConfig:
    """A run with the given fields, wherever they belong."""
    config = RunConfig(model="toy", network=SimpleNamespace(num_layers=layers))
    sections = [config.parallel, config.training, config.optimizer, config.precision, config.data]
    for name, value in fields.items():
        (section,) = (section for section in sections if hasattr(section, name))
        setattr(section, name, value)
    return config


GOOD: list[tuple[World, dict[str, Any]]] = [
    (CPU, {}),
    (CPU, {"tensor_model_parallel_size": 2, "sequence_parallel": True, "global_batch_size": 6}),
    (CPU, {"sequence_parallel": True}),
    (CPU, {"pipeline_model_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 3, "global_batch_size": 8}),
    (CPU, {"pipeline_model_parallel_size": 4, "num_layers_per_virtual_pipeline_stage": 1, "global_batch_size": 4,
           "overlap_p2p_communication": False}),
    (CPU, {"context_parallel_size": 4, "cp_comm_type": "all_gather"}),
    (GPU, {"context_parallel_size": 2, "cp_comm_type": "a2a+p2p"}),
    (CPU, {"rampup_batch_size": (4, 4, 100), "global_batch_size": 16}),
    (CPU, {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}),
    (GPU, {"bf16": True, "fp8_format": "hybrid"}),
    (CPU, {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 12}),
    (CPU, {"recompute_granularity": "selective"}),
    (CPU, {"bucket_config": Path("buckets.yaml"), "pipeline_model_parallel_size": 2,
           "num_layers_per_virtual_pipeline_stage": 3}),  # the batch sizes are not the command line's
]  # fmt: skip


@pytest.mark.parametrize(("world", "fields"), GOOD, ids=[str(fields) for _, fields in GOOD])
def test_accepted(world: World, fields: dict[str, Any]) -> None:
    assert check(run_config(**fields), world) == []


BAD: list[tuple[World, dict[str, Any], str, str]] = [
    (CPU, {"tensor_model_parallel_size": 0}, "--tensor-model-parallel-size 0", "accepted: 1 to 65536"),
    (CPU, {"micro_batch_size": 0}, "--micro-batch-size 0", "accepted: 1 to 65536"),
    (CPU, {"tensor_model_parallel_size": 3}, "--tensor-model-parallel-size 3", "multiple of 3"),
    (CPU, {"tensor_model_parallel_size": 4, "context_parallel_size": 2}, "--tensor-model-parallel-size 4 x ",
     "whose product divides 4"),
    (CPU, {"pipeline_model_parallel_size": 4, "layers": 6}, "--pipeline-model-parallel-size 4",
     "accepted: 1, 2, 3, 6"),
    (CPU, {"num_layers_per_virtual_pipeline_stage": 2}, "--num-layers-per-virtual-pipeline-stage 2",
     "accepted: --pipeline-model-parallel-size of 2 or more"),
    (CPU, {"pipeline_model_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 4, "global_batch_size": 8},
     "--num-layers-per-virtual-pipeline-stage 4", "accepted: 1, 2, 3"),
    (CPU, {"pipeline_model_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 6, "global_batch_size": 8},
     "--num-layers-per-virtual-pipeline-stage 6", "accepted: 1, 2, 3"),
    (CPU, {"pipeline_model_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 3, "global_batch_size": 8,
           "overlap_p2p_communication": False}, "--no-overlap-p2p-communication", "3 or more stages"),
    (CPU, {"pipeline_model_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 3, "global_batch_size": 6},
     "--global-batch-size 6", "multiples of 4 = --micro-batch-size 1 x 2 replicas x 2 stages"),
    (CPU, {"global_batch_size": 6}, "--global-batch-size 6", "multiples of 4"),
    (CPU, {"rampup_batch_size": (4, 0, 10), "global_batch_size": 8}, "--rampup-batch-size 0", "accepted: 1 to"),
    (CPU, {"rampup_batch_size": (4, 8, 10), "global_batch_size": 16}, "--rampup-batch-size 4 8 10", "difference 12"),
    (CPU, {"rampup_batch_size": (8, 4, 10), "global_batch_size": 8}, "--rampup-batch-size 8 4 10", "START below it"),
    (CPU, {"rampup_batch_size": (2, 2, 10), "global_batch_size": 8}, "--rampup-batch-size 2 2 10", "multiples of 4"),
    (CPU, {"distributed_timeout_minutes": 0}, "--distributed-timeout-minutes 0", "0.001 to 525,600"),
    (CPU, {"distributed_backend": "nccl"}, "--distributed-backend nccl", "accepted: auto, gloo"),
    (GPU, {"distributed_backend": "gloo"}, "--distributed-backend gloo", "accepted: auto, nccl"),
    (CPU, {"cp_comm_type": "p2p"}, "--cp-comm-type p2p needs a GPU and the package transformer_engine",
     "auto, a2a, all_gather"),
    (GPU, {"cp_comm_type": "p2p", "transformer_impl": "local"}, "--cp-comm-type p2p", "auto, a2a, all_gather"),
    (CPU, {"overlap_param_gather": True},
     "--overlap-param-gather needs --use-distributed-optimizer and --overlap-grad-reduce", "accepted"),
    (CPU, {"overlap_param_gather": True, "overlap_grad_reduce": True},
     "--overlap-param-gather needs --use-distributed-optimizer;", "accepted"),
    (GPU, {"fp8_format": "hybrid"}, "--fp8-format hybrid needs --bf16", "accepted"),
    (GPU, {"fp8_format": "hybrid", "bf16": True, "transformer_impl": "local"}, "--fp8-format hybrid",
     "accepted: --transformer-impl auto, transformer_engine"),
    (CPU, {"fp8_format": "e4m3", "bf16": True}, "--fp8-format e4m3 needs a GPU and", "no --fp8-format"),
    (CPU, {"transformer_impl": "transformer_engine"}, "--transformer-impl transformer_engine needs a GPU",
     "auto, local"),
    (GPU, {"fp8_format": "hybrid", "bf16": True, "fp8_amax_history_len": 0}, "--fp8-amax-history-len 0", "1 to 65536"),
    (CPU, {"recompute_granularity": "full", "recompute_num_layers": 1}, "--recompute-granularity full needs "
     "--recompute-method", "uniform, block"),
    (CPU, {"recompute_granularity": "full", "recompute_method": "block"}, "--recompute-granularity full needs "
     "--recompute-num-layers", "1 to 12"),
    (CPU, {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 7,
           "pipeline_model_parallel_size": 2}, "--recompute-num-layers 7", "1 to 6"),
    (CPU, {"recompute_method": "block"}, "--recompute-method block", "with it, or not at all"),
    (CPU, {"recompute_granularity": "selective", "recompute_num_layers": 1}, "--recompute-num-layers 1",
     "--recompute-granularity full"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("world", "fields", "flag", "accepted"), BAD, ids=[f"{flag}: {fields}" for _, fields, flag, _ in BAD]
)
def test_refused(world: World, fields: dict[str, Any], flag: str, accepted: str) -> None:
    (message,) = check(run_config(**fields), world)
    assert message.startswith(flag)
    assert "accepted" in message and accepted in message


def test_all_errors_at_once() -> None:
    config = run_config(
        global_batch_size=6, distributed_backend="nccl", overlap_param_gather=True, recompute_method="block"
    )
    flags = ["--global-batch-size", "--distributed-backend", "--overlap-param-gather", "--recompute-method"]
    assert [message.split()[0] for message in check(config, CPU)] == flags


def test_sections_of_the_configuration() -> None:
    """`run_config` finds a field by its name: no two sections may share one."""
    names = [
        vars(section()).keys()
        for section in (ParallelConfig, TrainingConfig, OptimizerConfig, PrecisionConfig, DataConfig)
    ]
    assert sum(map(len, names)) == len(set().union(*names))


def test_virtual_stages() -> None:
    assert virtual_pipeline_size(run_config()) is None
    config = run_config(pipeline_model_parallel_size=2, num_layers_per_virtual_pipeline_stage=2)
    assert virtual_pipeline_size(config) == 3


def test_sequence_parallelism_of_one_rank_is_off() -> None:
    assert not sequence_parallel(run_config(sequence_parallel=True))
    assert sequence_parallel(run_config(sequence_parallel=True, tensor_model_parallel_size=2))
