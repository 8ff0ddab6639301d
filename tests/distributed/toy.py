"""A small network on megatron-core's parallel layers, and what trains it: for tests below the models.

Shape letters: S tokens, B micro-batch, D features.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.enums import ModelType
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import Float16Module, MegatronModule

import vidtron.parallel  # noqa: F401  (adapts megatron-core to a CPU)
from vidtron.config.optimizer import OptimizerConfig as RunOptimizerConfig
from vidtron.config.parallel import ParallelConfig
from vidtron.config.precision import PrecisionConfig
from vidtron.config.run import RunConfig
from vidtron.config.training import TrainingConfig
from vidtron.parallel import Groups, named_generator, sample_generator, virtual_pipeline_size
from vidtron.training.optimizer import OPTIMIZERS, let_state_load

TOKENS, WIDTH, LAYERS, GLOBAL_BATCH = 4, 8, 4, 4


@dataclass(frozen=True)
class Layout:
    """How a test divides its ranks, and what trains the toy."""

    tp: int = 1
    pp: int = 1
    cp: int = 1
    dp: int = 1
    layers_per_chunk: int | None = None
    sequence_parallel: bool = False
    distributed_optimizer: bool = False
    overlap: bool = False
    bf16: bool = False
    optimizer: Any = "adam"

    @property
    def name(self) -> str:
        """What differs from the defaults, for the names of tests."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return "-".join(name if value is True else f"{name}={value}" for name, value in given.items()) or "one rank"

    @property
    def ranks(self) -> int:
        return self.tp * self.pp * self.cp * self.dp

    def run_config(self, lr: float = 1e-2) -> RunConfig:
        return RunConfig(
            model="toy",
            network=SimpleNamespace(num_layers=LAYERS),
            parallel=ParallelConfig(
                tensor_model_parallel_size=self.tp,
                pipeline_model_parallel_size=self.pp,
                context_parallel_size=self.cp,
                sequence_parallel=self.sequence_parallel,
                num_layers_per_virtual_pipeline_stage=self.layers_per_chunk,
                distributed_timeout_minutes=1,
            ),
            precision=PrecisionConfig(bf16=self.bf16),
            training=TrainingConfig(global_batch_size=GLOBAL_BATCH),
            optimizer=RunOptimizerConfig(
                lr=lr,
                optimizer=self.optimizer,
                use_distributed_optimizer=self.distributed_optimizer,
                overlap_grad_reduce=self.overlap,
                overlap_param_gather=self.overlap,
            ),
        )


class ToyLayer(MegatronModule):
    """Two parallel linears with a residual."""

    def __init__(self, config: TransformerConfig, groups: Groups) -> None:
        super().__init__(config)
        common = {"config": config, "init_method": lambda tensor: None, "skip_bias_add": False, "bias": True}
        self.up = ColumnParallelLinear(WIDTH, 2 * WIDTH, gather_output=False, tp_group=groups.tp, **common)
        self.down = RowParallelLinear(2 * WIDTH, WIDTH, input_is_parallel=True, tp_group=groups.tp, **common)

    def forward(self, hidden_SBD: torch.Tensor) -> torch.Tensor:
        return hidden_SBD + self.down(torch.tanh(self.up(hidden_SBD)[0]))[0]


class ToyChunk(MegatronModule):
    """The layers of one pipeline stage, named by their number in the whole network."""

    def __init__(self, config: TransformerConfig, groups: Groups, numbers: range) -> None:
        super().__init__(config)
        self.model_type = ModelType.encoder_or_decoder
        self.share_embeddings_and_output_weights = False
        self.input_tensor: torch.Tensor | None = None
        self.pre_process, self.post_process = numbers.start == 0, numbers.stop == LAYERS
        self.layers = torch.nn.ModuleDict({str(number): ToyLayer(config, groups) for number in numbers})
        for name, parameter in self.named_parameters():
            self._fill(name, parameter, groups)

    @staticmethod
    def _fill(name: str, parameter: torch.nn.Parameter, groups: Groups) -> None:
        shape, dim = list(parameter.shape), getattr(parameter, "partition_dim", -1)
        split = getattr(parameter, "tensor_model_parallel", False) and dim >= 0
        if split:
            shape[dim] *= groups.tp.size()
        full = torch.randn(shape, generator=named_generator(1, name)) * 0.3
        with torch.no_grad():
            parameter.copy_(full.chunk(groups.tp.size(), dim)[groups.tp.rank()] if split else full)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: tuple = (), metadata: Any = None) -> Any:
        return {
            key: tensor
            for number, layer in self.layers.items()
            for key, tensor in layer.sharded_state_dict(f"{prefix}layers.{number}.", sharded_offsets, metadata).items()
        }

    def set_input_tensor(self, tensor: Any) -> None:
        self.input_tensor = tensor[0] if isinstance(tensor, list) else tensor

    def forward(self, data_SBD: torch.Tensor) -> torch.Tensor:
        hidden_SBD = data_SBD if self.pre_process else self.input_tensor
        for layer in self.layers.values():
            hidden_SBD = layer(hidden_SBD)
        return hidden_SBD


class Toy:
    """Model, optimizer and schedule; `train` runs steps on data that depend on the step only."""

    def __init__(self, layout: Layout, config: RunConfig, groups: Groups) -> None:
        self.groups, self.layout = groups, layout
        self.stages = stages = virtual_pipeline_size(config)
        interleaved = stages is not None
        dtype = torch.bfloat16 if layout.bf16 else torch.float32
        self.config = TransformerConfig(
            num_layers=LAYERS,
            hidden_size=WIDTH,
            num_attention_heads=4,
            use_cpu_initialization=groups.device.type == "cpu",
            tensor_model_parallel_size=layout.tp,
            pipeline_model_parallel_size=layout.pp,
            virtual_pipeline_model_parallel_size=stages,
            context_parallel_size=layout.cp,
            overlap_p2p_comm=interleaved,
            batch_p2p_comm=not interleaved,
            params_dtype=dtype,
            pipeline_dtype=dtype,
            bf16=layout.bf16,
            gradient_accumulation_fusion=False,
        )
        per_chunk = LAYERS // (layout.pp * (stages or 1))
        starts = [per_chunk * (groups.pp.rank() + layout.pp * chunk) for chunk in range(stages or 1)]
        self.modules = [ToyChunk(self.config, groups, range(s, s + per_chunk)).to(groups.device) for s in starts]
        self.chunks = [
            DistributedDataParallel(
                config=self.config,
                ddp_config=DistributedDataParallelConfig(
                    grad_reduce_in_fp32=True,
                    use_distributed_optimizer=layout.distributed_optimizer,
                    overlap_grad_reduce=layout.overlap,
                    overlap_param_gather=layout.overlap,
                ),
                module=Float16Module(self.config, module) if layout.bf16 else module,
                pg_collection=groups.pg,
            )
            for module in self.modules
        ]
        optimizer = config.optimizer
        self.optimizer = get_megatron_optimizer(
            OptimizerConfig(
                optimizer=layout.optimizer,
                lr=optimizer.lr,
                min_lr=0.0,
                weight_decay=0.01,
                clip_grad=0.5,
                bf16=layout.bf16,
                params_dtype=dtype,
                use_distributed_optimizer=layout.distributed_optimizer,
                overlap_param_gather=layout.overlap,
            ),
            self.chunks,
            use_gloo_process_groups=False,
            pg_collection=groups.pg,
        )
        let_state_load(self.optimizer, OPTIMIZERS[layout.optimizer].state(optimizer))
        self.scheduler = OptimizerParamScheduler(
            self.optimizer, 0.0, optimizer.lr, 0.0, 2, 20, "cosine", 0.01, 0.01, 0, "constant",
            use_checkpoint_opt_param_scheduler=False, override_opt_param_scheduler=True,
        )  # fmt: skip
        self.config.finalize_model_grads_func = finalize_model_grads
        self.config.grad_scale_func = self.optimizer.scale_loss
        if layout.overlap:
            # One list entry each; megatron-core takes the bare function for a single chunk.
            syncs = [chunk.no_sync for chunk in self.chunks]
            gathers = [chunk.start_param_sync for chunk in self.chunks]
            self.config.no_sync_func = syncs[0] if len(syncs) == 1 else syncs
            self.config.param_sync_func = gathers[0] if len(gathers) == 1 else gathers

    def train(self, first_step: int, steps: int) -> list[tuple[float, float]]:
        """(loss of the global batch, gradient norm) of each step."""
        return [self._step(number) for number in range(first_step, first_step + steps)]

    @contextlib.contextmanager
    def complete_weights(self) -> Iterator[None]:
        """All weights are there; gathering them may otherwise wait for the next forward pass."""
        for chunk in self.chunks if self.layout.overlap else []:
            chunk.disable_forward_pre_hook(param_sync=True)
        yield
        for chunk in self.chunks if self.layout.overlap else []:
            chunk.enable_forward_pre_hook()

    def _step(self, number: int) -> tuple[float, float]:
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        per_replica = GLOBAL_BATCH // self.groups.dp_size
        first = number * GLOBAL_BATCH + self.groups.dp_rank * per_replica
        reports = get_forward_backward_func(pp_size=self.layout.pp, vp_size=self.stages)(
            forward_step_func=self._forward_step,
            data_iterator=[iter(range(first, first + per_replica)) for _ in self.chunks],
            model=self.chunks,
            num_microbatches=per_replica,
            seq_length=TOKENS * self.layout.cp,  # the toy holds all tokens on every context-parallel rank
            micro_batch_size=1,
            forward_only=False,
        )
        _, norm, _ = self.optimizer.step()
        self.scheduler.step(increment=1)
        loss = torch.tensor(sum(r["loss"] for r in reports) / GLOBAL_BATCH, device=self.groups.device)
        torch.distributed.all_reduce(loss, group=self.groups.dp)
        torch.distributed.broadcast(loss, torch.distributed.get_global_rank(self.groups.pp, self.layout.pp - 1),
                                    group=self.groups.pp)  # fmt: skip
        return loss.item(), float(norm)

    def _forward_step(self, positions: Any, chunk: Any) -> Any:
        draw = torch.randn(2, TOKENS, 1, WIDTH, generator=sample_generator(7, next(positions), "noise"))
        data_SBD, target_SBD = draw.to(self.groups.device, self.config.params_dtype)

        def loss(output_SBD: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
            mean = (output_SBD.float() - target_SBD.float()).square().mean()
            return mean, {"loss": mean.item()}

        return chunk(data_SBD), loss
