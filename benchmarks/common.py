"""What the benchmarks share: a synthetic training step under any layout, and a description of the machine."""

import dataclasses
import importlib.metadata
import os
import platform
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from vidtron.config.run import RunConfig
from vidtron.diffusion.loss import mean_squared_error
from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.inputs import ModelInput
from vidtron.models.registry import family_of
from vidtron.training.assembly import TrainedModel

FAMILY = "cogvideox-tiny"


def run_config(network: CogVideoXConfig, *, frames: int, height: int, width: int, **parallel: Any) -> RunConfig:
    """A run of `network` on clips of that size; `parallel` holds fields of the parallel, precision, optimizer
    and adaptation sections."""
    run = RunConfig(model=FAMILY, network=network)
    run.data.num_frames, run.data.height, run.data.width = frames, height, width
    for name, value in parallel.items():
        section = next(s for s in (run.parallel, run.precision, run.optimizer, run.adaptation) if hasattr(s, name))
        setattr(section, name, value)
    return run


@dataclasses.dataclass(frozen=True)
class SyntheticBatch:
    """Random inputs of one micro-batch; the same on all ranks."""

    noisy: Tensor
    timesteps: Tensor
    text: Tensor
    target: Tensor

    @classmethod
    def of(cls, run: RunConfig, samples: int, device: torch.device | str = "cpu") -> "SyntheticBatch":
        generator = torch.Generator().manual_seed(0)
        shape = (samples, *family_of(FAMILY).latent_shape(run))
        text = (samples, run.network.text_length, run.network.text_width)
        drawn = [torch.randn(s, generator=generator) for s in (shape, text, shape)]
        timesteps = torch.randint(0, 1000, (samples,), generator=generator)
        noisy, text, target = (x.to(device) for x in drawn)
        return cls(noisy, timesteps.to(device), text, target)


def forward_backward(model: TrainedModel, run: RunConfig, batch: SyntheticBatch, micro_batches: int = 1) -> None:
    """mcore's schedule over `micro_batches` copies of the batch."""

    def forward_step(_: Any, chunk: torch.nn.Module) -> tuple[Tensor, Any]:
        output = chunk(
            inputs=ModelInput.of(batch.noisy, batch.timesteps, batch.text, positions=tuple(range(len(batch.noisy))))
        )

        def loss(result: Tensor) -> tuple[Tensor, dict]:
            return mean_squared_error(result, batch.target).mean(), {}

        return output, loss

    model.zero_grad()
    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(()) for _ in model.chunks],
        model=list(model.chunks),
        num_microbatches=micro_batches,
        seq_length=family_of(FAMILY).sequence_length(run),
        micro_batch_size=batch.noisy.shape[0],
        forward_only=False,
    )


def launch(job: Callable[..., Any], world_size: int, *arguments: Any) -> Any:
    """Run module-level `job(*arguments)` on ranks of this machine, as under torchrun; rank 0's result."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(_rank, (job, world_size, port, results, arguments), nprocs=world_size)
    return results.get()


def _rank(rank: int, job: Callable[..., Any], world_size: int, port: int, results: Any, arguments: tuple) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    result = job(*arguments)
    if rank == 0:
        results.put(result)


def describe_machine() -> str:
    """Hardware, versions and commit, as a Markdown list."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "megatron-core", "diffusers")
    )
    return (
        f"- CPU: {cpu}, {os.cpu_count()} cores; GPU: {gpu}\n"
        f"- Python {platform.python_version()}, {versions}\n"
        f"- commit {commit}\n"
    )
