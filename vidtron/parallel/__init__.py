"""Ranks, process groups, devices, seeds, tokens over ranks; and what megatron-core needs to run on a CPU.

Importing this package adapts megatron-core to the machine (`cpu.py`) and mends it (`torch_adam.py`,
`bucket_padding.py`).
"""

from vidtron.parallel import bucket_padding, torch_adam
from vidtron.parallel.cpu import adapt

adapt()
torch_adam.repair()
bucket_padding.repair()

from vidtron.parallel.agreement import (  # noqa: E402
    PatientBarrier,
    any_rank,
    barrier,
    broadcast_object,
    broadcast_tensor,
    gather_objects,
    gather_tensors,
    memory_statistics,
    on_first_rank,
    synchronize,
)
from vidtron.parallel.check import (  # noqa: E402
    check,
    model_parallel_size,
    sequence_parallel,
    virtual_pipeline_size,
)
from vidtron.parallel.groups import Groups  # noqa: E402
from vidtron.parallel.launch import choose_backend, initialized  # noqa: E402
from vidtron.parallel.randomness import STREAMS, named_generator, sample_generator, sample_random  # noqa: E402
from vidtron.parallel.teams import Team, pair_of  # noqa: E402

__all__ = [
    "STREAMS",
    "Groups",
    "PatientBarrier",
    "Team",
    "any_rank",
    "barrier",
    "broadcast_object",
    "broadcast_tensor",
    "check",
    "choose_backend",
    "gather_objects",
    "gather_tensors",
    "initialized",
    "memory_statistics",
    "model_parallel_size",
    "named_generator",
    "on_first_rank",
    "pair_of",
    "sample_generator",
    "sample_random",
    "sequence_parallel",
    "synchronize",
    "virtual_pipeline_size",
]
