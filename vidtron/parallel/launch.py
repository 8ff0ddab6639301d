"""From separate processes to ranks that know each other, and back."""

import contextlib
import logging
import os
import random
from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import num_microbatches_calculator, parallel_state, rerun_state_machine
from megatron.core.tensor_parallel.random import initialize_rng_tracker, model_parallel_cuda_manual_seed

from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.parallel.check import sequence_parallel, virtual_pipeline_size
from vidtron.parallel.gloo_groups import shared_groups
from vidtron.parallel.groups import Groups, current_groups

logger = logging.getLogger(__name__)
_store: tuple[str, dist.Store] | None = None
_runs = 0


@contextlib.contextmanager
def initialized(config: RunConfig, world: World) -> Iterator[Groups]:
    """Process groups, seeds and megatron-core's global state for one run; on exit all of it is gone.

    May be used many times in one process, one after the other. Under torchrun it reads RANK, WORLD_SIZE, MASTER_ADDR
    and MASTER_PORT; a world of one rank needs none of them.
    """
    parallel = config.parallel
    device = torch.device("cuda", world.local_rank) if world.has_cuda else torch.device("cpu")
    timeout = timedelta(minutes=parallel.distributed_timeout_minutes)
    with contextlib.ExitStack() as cleanup:
        if world.has_cuda:
            torch.cuda.set_device(device)
        if config.training.deterministic_mode:
            cleanup.enter_context(_deterministic_kernels())
        if world.rank == 0:
            _tell_what_is_not_used(config, world)
        cleanup.callback(_forget_global_state)
        backend = choose_backend(config, world)
        dist.init_process_group(
            backend,
            store=_meeting_point(world, timeout),
            rank=world.rank,
            world_size=world.size,
            timeout=timeout,
            device_id=device if world.has_cuda else None,
        )
        with shared_groups(backend):
            parallel_state.initialize_model_parallel(
                tensor_model_parallel_size=parallel.tensor_model_parallel_size,
                pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
                virtual_pipeline_model_parallel_size=virtual_pipeline_size(config),
                context_parallel_size=parallel.context_parallel_size,
                distributed_timeout_minutes=parallel.distributed_timeout_minutes,  # type: ignore[arg-type]
                # Only megatron-core's older checkpoint formats need gloo twins of the NCCL groups.
                create_gloo_process_groups=False,
            )
        _seed_everything(config.training.seed)
        yield current_groups(device, timeout)


def choose_backend(config: RunConfig, world: World) -> str:
    """The torch.distributed backend of a run: NCCL where there are GPUs, else gloo."""
    wanted = config.parallel.distributed_backend
    return wanted if wanted != "auto" else "nccl" if world.has_cuda else "gloo"


def _tell_what_is_not_used(config: RunConfig, world: World) -> None:
    if config.parallel.sequence_parallel and not sequence_parallel(config):
        logger.warning("--sequence-parallel is off: with --tensor-model-parallel-size 1 there is nothing to split")
    if world.has_cuda and "transformer_engine" not in world.packages:
        logger.warning("transformer_engine is not installed: the layers are torch's, and so is the optimizer")


def _meeting_point(world: World, timeout: timedelta) -> dist.Store:
    """Store through which the ranks find each other, with fresh keys for every run of this process.

    The store of an address is kept: closed and opened again at once, some ranks could still meet the old one.
    """
    global _store, _runs
    if world.size == 1:
        return dist.HashStore()
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if _store is None or _store[0] != address:
        store, _, _ = next(dist.rendezvous("env://", world.rank, world.size, timeout=timeout))
        _store, _runs = (address, store), 0
    _runs += 1
    return dist.PrefixStore(f"vidtron/{_runs}", _store[1])


def _seed_everything(seed: int) -> None:
    """Seed the global generators, the same on all ranks.

    Nothing a run computes is drawn from these generators; they make third-party code repeatable, and recomputation
    needs megatron-core's tracker to exist, since it saves the tracker's states.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed, force_reset_rng=True)


@contextlib.contextmanager
def _deterministic_kernels() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    # cuBLAS and Transformer Engine read theirs when they start.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "0"
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _forget_global_state() -> None:
    num_microbatches_calculator.unset_num_microbatches_calculator()
    rerun_state_machine.destroy_rerun_state_machine()
    initialize_rng_tracker(force_reset=True)
    parallel_state.destroy_model_parallel()  # also the global memory buffer
    if dist.is_initialized():
        dist.destroy_process_group()
