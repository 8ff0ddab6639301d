"""Puts megatron-core's parts around the model: DDP, optimizer, parameter scheduler, and the hooks between them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from megatron.core import tensor_parallel
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.module import Float16Module, MegatronModule

from vidtron.config.run import RunConfig
from vidtron.models import freezing
from vidtron.models.build import build_chunks
from vidtron.models.family import Family
from vidtron.parallel.groups import Groups
from vidtron.training.ema import WeightAverages, rules
from vidtron.training.learning_rate import make_scheduler
from vidtron.training.optimizer import clip_and_step, gradient_norm, make_optimizer


@dataclass
class TrainedModel:
    """A model and what trains it, on one rank."""

    modules: list[MegatronModule]
    """The bare chunks of this rank: one, or one for each virtual pipeline stage."""
    chunks: list[DistributedDataParallel]
    """The chunks wrapped for data parallelism (and half precision), in the same order."""
    optimizer: MegatronOptimizer
    scheduler: OptimizerParamScheduler
    averages: WeightAverages
    clip_grad: float

    def zero_grad(self) -> None:
        """Empty the gradient buffers; called before each forward-backward pass."""
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()

    def gradient_norm(self) -> float:
        """L2 norm of the whole model's gradient, the same on all ranks; makes the gradients ready for `update`."""
        return gradient_norm(self.optimizer)

    def update(self, gradient_norm: float) -> None:
        """Clip the gradients, step the optimizer and the scheduler, and count the new weights in their averages.

        Args:
            gradient_norm: of the whole model, which the trainer looks at before it lets the weights change.
        """
        clip_and_step(self.optimizer, self.clip_grad, gradient_norm)
        self.scheduler.step(increment=1)
        self.averages.update()

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next update."""
        return float(self.optimizer.param_groups[0]["lr"])

    @contextlib.contextmanager
    def complete_weights(self) -> Iterator[None]:
        """All weights are gathered while this is open (--overlap-param-gather leaves it to the next forward pass)."""
        overlapping = [chunk for chunk in self.chunks if chunk.use_forward_hook]
        for chunk in overlapping:
            chunk.disable_forward_pre_hook(param_sync=True)
        try:
            yield
        finally:
            for chunk in overlapping:
                chunk.enable_forward_pre_hook()


def assemble(family: Family, config: RunConfig, groups: Groups) -> TrainedModel:
    """Build this rank's part of the model with everything that trains it.

    Args:
        family: the model family (`vidtron.models.registry`).
        config: the run.
        groups: the run's process groups.
    """
    modules = build_chunks(family, config, groups)
    for module in modules:
        module.to(groups.device)
        freezing.freeze(module, config.adaptation)
        for parameter in module.parameters():
            tensor_parallel.set_defaults_if_not_set_tensor_model_parallel_attributes(parameter)
    models: list[Any] = modules
    if config.precision.bf16:
        models = [Float16Module(module.config, module) for module in modules]
    chunks = [
        DistributedDataParallel(
            config=module.config,
            ddp_config=_ddp_config(config),
            module=model,
            # Only the first chunk's communication can hide behind the backward passes of the others.
            disable_bucketing=index > 0,
            pg_collection=groups.pg,
        )
        for index, (module, model) in enumerate(zip(modules, models, strict=True))
    ]
    if groups.device.type == "cpu" and not config.optimizer.overlap_grad_reduce:
        _accumulate_in_the_product(modules)
    optimizer = make_optimizer(config, chunks, groups)
    _connect(config, chunks, optimizer)
    return TrainedModel(
        modules=modules,
        chunks=chunks,
        optimizer=optimizer,
        scheduler=make_scheduler(config, optimizer),
        averages=WeightAverages(rules(config.ema), chunks, optimizer),
        clip_grad=config.optimizer.clip_grad,
    )


def _accumulate_in_the_product(modules: list[MegatronModule]) -> None:
    """Weight gradients of mcore's linear layers are added to DDP's buffers by the matrix product that makes them.

    Set after DDP has made the buffers, for without them such a layer has nowhere to put its gradient. Not with
    overlapped reduction: it wants to see a gradient, and a weight that comes back from a saved-tensor hook
    (`models/layers/recompute.py`) has lost the mark by which mcore would show it one (layers.py line 581, 0.16.1).
    """
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, ColumnParallelLinear | RowParallelLinear):
                layer.gradient_accumulation_fusion = True


def _ddp_config(config: RunConfig) -> DistributedDataParallelConfig:
    optimizer = config.optimizer
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=config.precision.accumulate_allreduce_grads_in_fp32,
        overlap_grad_reduce=optimizer.overlap_grad_reduce,
        overlap_param_gather=optimizer.overlap_param_gather,
        align_param_gather=_aligned_gather(config),
        use_distributed_optimizer=optimizer.use_distributed_optimizer,
    )


def _aligned_gather(config: RunConfig) -> bool:
    """Gather weights when the interleaved schedule says so, at the same time on all stages."""
    return config.optimizer.overlap_param_gather and config.parallel.num_layers_per_virtual_pipeline_stage is not None


def _connect(config: RunConfig, chunks: list[DistributedDataParallel], optimizer: MegatronOptimizer) -> None:
    """Tell the schedules how to scale the loss, when to reduce gradients and when to gather weights.

    The schedules read the first chunk's config; chunks may or may not share one object.
    """

    def one_or_all(functions: list[Any]) -> Any:
        return functions[0] if len(functions) == 1 else functions

    hooks: dict[str, Any] = {
        "grad_scale_func": optimizer.scale_loss,
        "finalize_model_grads_func": finalize_model_grads,
    }
    if config.optimizer.overlap_grad_reduce:
        hooks["no_sync_func"] = one_or_all([chunk.no_sync for chunk in chunks])
        if config.parallel.pipeline_model_parallel_size > 1:
            hooks["grad_sync_func"] = one_or_all([chunk.start_grad_sync for chunk in chunks])
    if _aligned_gather(config):
        hooks["param_sync_func"] = one_or_all([chunk.start_param_sync for chunk in chunks])
    for chunk in chunks:
        for name, hook in hooks.items():
            setattr(chunk.config, name, hook)
