"""The optimizer of a run: how each is made, what it keeps of a weight, and how it steps.

megatron-core wraps torch's optimizer for fp32, for bf16 with fp32 masters, and for splitting both over data-parallel
ranks (`--use-distributed-optimizer`); nothing else of vidtron knows one from another. To add one: an entry in
`OPTIMIZERS`, its name in `--optimizer`, and its flags in `config/optimizer.py`.

Line numbers are those of megatron-core 0.16.1.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, clip_grads, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as McoreOptimizerConfig
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params, FP32Optimizer
from torch import Tensor

from vidtron.config.optimizer import OptimizerConfig
from vidtron.config.run import RunConfig
from vidtron.parallel.groups import Groups

ParameterGroups = list[dict[str, Any]]
"""What torch's optimizers take: weights (`params`) with `lr`, `weight_decay` and megatron-core's own entries."""


@dataclass(frozen=True)
class OptimizerKind:
    """One choice of `--optimizer`."""

    state: Callable[[OptimizerConfig], tuple[str, ...]]
    """Flags -> the keys in torch's state of the fp32 tensors that it keeps of each weight, in the weight's shape."""
    settings: Callable[[OptimizerConfig], Mapping[str, Any]] = lambda flags: {}
    """Flags -> what megatron-core's own `OptimizerConfig` is told besides learning rates and weight decay."""
    make: Callable[[ParameterGroups, OptimizerConfig], torch.optim.Optimizer] | None = None
    """Makes one that megatron-core does not have, of groups and flags; None: megatron-core makes it, by its name."""
    distributed: bool = False
    """Whether megatron-core can split its state over data-parallel ranks and save it."""

    def state_bytes(self, flags: OptimizerConfig) -> int:
        """Bytes of the state of one element of the weights, without its fp32 master."""
        return 4 * len(self.state(flags))


OPTIMIZERS: dict[str, OptimizerKind] = {
    "adam": OptimizerKind(
        state=lambda flags: ("exp_avg", "exp_avg_sq"),
        settings=lambda flags: {
            "adam_beta1": flags.adam_beta1,
            "adam_beta2": flags.adam_beta2,
            "adam_eps": flags.adam_eps,
        },
        distributed=True,
    ),
    "sgd": OptimizerKind(
        state=lambda flags: ("momentum_buffer",) if flags.sgd_momentum else (),
        settings=lambda flags: {"sgd_momentum": flags.sgd_momentum},
    ),
}
"""The choices of `--optimizer` by name."""


def check_optimizer(flags: OptimizerConfig) -> Iterator[str]:
    """What cannot work of the optimizer's flags, one message each."""
    if flags.use_distributed_optimizer and not OPTIMIZERS[flags.optimizer].distributed:
        accepted = ", ".join(name for name, kind in OPTIMIZERS.items() if kind.distributed)
        yield (
            f"--use-distributed-optimizer cannot split and save the state of --optimizer {flags.optimizer}; accepted: "
            f"--optimizer {accepted}"
        )


def make_optimizer(config: RunConfig, chunks: list[DistributedDataParallel], groups: Groups) -> MegatronOptimizer:
    """The optimizer of this rank's part of the model, as megatron-core wraps it.

    Args:
        config: the run.
        chunks: the wrapped chunks of the model.
        groups: the run's process groups.
    """
    flags = config.optimizer
    kind = OPTIMIZERS[flags.optimizer]
    optimizer = get_megatron_optimizer(
        _mcore_config(config, kind), chunks, use_gloo_process_groups=False, pg_collection=groups.pg
    )
    if kind.make is not None:
        for part in _parts(optimizer):
            made_by_mcore = part.optimizer
            part.optimizer = kind.make(_without_settings_of(made_by_mcore), flags)
    _step_in_one_pass(optimizer)
    let_state_load(optimizer, kind.state(flags))
    return optimizer


def let_state_load(optimizer: MegatronOptimizer, keys: tuple[str, ...]) -> None:
    """Give an optimizer what allocates the state that a checkpoint is loaded into.

    megatron-core brings it for Adam only (optimizer/__init__.py:580) and calls None for others.

    Args:
        optimizer: as megatron-core wraps it.
        keys: of the state of each weight.
    """

    def allocate(made: torch.optim.Optimizer, config: Any = None) -> None:
        for group in made.param_groups:
            for weight in group["params"]:
                for key in keys:
                    made.state[weight].setdefault(key, torch.zeros_like(weight))

    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        if part.init_state_fn is None:
            part.init_state_fn = allocate


def gradient_norm(optimizer: MegatronOptimizer) -> float:
    """L2 norm of the whole model's gradient, the same on all ranks; makes the gradients ready for `clip_and_step`."""
    optimizer.prepare_grads()
    norm = optimizer.get_grad_norm()
    return float(norm.item() if isinstance(norm, Tensor) else norm)


@torch.no_grad()
def clip_and_step(optimizer: MegatronOptimizer, max_norm: float, norm: float) -> None:
    """Scale the gradients down to a norm, and update the weights.

    This is mcore's `ChainedOptimizer.step` without its first half, `gradient_norm`.

    Args:
        optimizer: its gradients are ready.
        max_norm: `--clip-grad`; 0: gradients are left as they are.
        norm: what `gradient_norm` has returned.
    """
    for part in _parts(optimizer):
        if max_norm > 0:
            _clip(part, max_norm, norm)
    if not optimizer.step_with_ready_grads():
        raise RuntimeError("the optimizer refused the step")


@dataclass(frozen=True)
class Master:
    """The fp32 values of one weight that this rank's optimizer updates."""

    weight: torch.nn.Parameter
    """This rank's part of the model's weight."""
    first: int
    """Where they begin in it, row by row."""
    values: Tensor
    """float32 [number of elements], the optimizer's own memory."""
    copy: int | None
    """Which of several copies of the optimizer's state this is; see `EmaPart`."""

    def in_model(self) -> Tensor:
        """These elements in the model's memory, in its dtype."""
        return self.weight.detach().view(-1)[self.first : self.first + self.values.numel()]


def masters(optimizer: MegatronOptimizer) -> Iterator[Master]:
    """Everything that this rank's optimizer updates.

    Raises:
        TypeError: an optimizer of megatron-core that keeps its masters in another way.
    """
    for part in _parts(optimizer):
        if isinstance(part, DistributedOptimizer):
            pairs = [(part.model_float16_groups, part.shard_fp32_from_float16_groups)]
            pairs += [(part.model_fp32_groups, part.shard_fp32_groups)]
            for weight, values in _flat(pairs):
                first = part._get_model_param_range_map(weight)["param"].start
                yield Master(weight, first, values.detach().view(-1), part.distributed_optimizer_instance_id)
        elif isinstance(part, Float16OptimizerWithFloat16Params):
            pairs = [(part.float16_groups, part.fp32_from_float16_groups)]
            pairs += [(part.fp32_from_fp32_groups, part.fp32_from_fp32_groups)]
            for weight, values in _flat(pairs):
                yield Master(weight, 0, values.detach().view(-1), None)
        elif isinstance(part, FP32Optimizer):
            for group in part.optimizer.param_groups:
                for weight in group["params"]:
                    yield Master(weight, 0, weight.detach().view(-1), None)
        else:
            raise TypeError(f"no averages of the weights can be kept with {type(part).__name__}")


def _parts(optimizer: MegatronOptimizer) -> list[Any]:
    """megatron-core's optimizers in a chain of them; without those that have no weight on this rank."""
    chained = getattr(optimizer, "chained_optimizers", [optimizer])
    return [part for part in chained if not getattr(part, "is_stub_optimizer", False)]


def _flat(pairs: list[tuple[Any, Any]]) -> Iterator[tuple[torch.nn.Parameter, Tensor]]:
    """(weight, master) from lists of groups of weights beside lists of groups of masters."""
    for weight_groups, master_groups in pairs:
        for weights, values in zip(weight_groups, master_groups, strict=True):
            yield from zip(weights, values, strict=True)


def _mcore_config(config: RunConfig, kind: OptimizerKind) -> McoreOptimizerConfig:
    flags = config.optimizer
    return McoreOptimizerConfig(
        # What it has not is made in the place of its plainest.
        optimizer=flags.optimizer if kind.make is None else "sgd",
        lr=flags.lr,
        min_lr=flags.min_lr,
        weight_decay=flags.weight_decay,
        decoupled_weight_decay=True,
        clip_grad=flags.clip_grad,
        bf16=config.precision.bf16,
        params_dtype=torch.bfloat16 if config.precision.bf16 else torch.float32,
        use_distributed_optimizer=flags.use_distributed_optimizer,
        overlap_param_gather=flags.overlap_param_gather,
        **kind.settings(flags),
    )


def _without_settings_of(made: torch.optim.Optimizer) -> ParameterGroups:
    """Its parameter groups for another optimizer, whose own settings are to be filled in."""
    foreign = made.defaults.keys() - {"lr", "weight_decay"}
    return [{key: value for key, value in group.items() if key not in foreign} for group in made.param_groups]


def _step_in_one_pass(optimizer: MegatronOptimizer) -> None:
    """Torch's AdamW in its fused form, one pass over memory where its default on a CPU makes ten."""
    for part in _parts(optimizer):
        if isinstance(part.optimizer, torch.optim.AdamW):
            for settings in (part.optimizer.defaults, *part.optimizer.param_groups):
                settings["fused"] = True


def _clip(part: Any, max_norm: float, norm: float) -> None:
    """Scale gradients down to the norm: where torch's fused AdamW steps, within its one pass, else as mcore does."""
    if isinstance(part.optimizer, torch.optim.AdamW) and part.optimizer.defaults["fused"]:
        # What AdamW divides gradients by; the small number is mcore's (optimizer/clip_grads.py).
        excess = (norm + 1e-6) / max_norm
        part.optimizer.grad_scale = torch.tensor(excess) if excess > 1 else None  # type: ignore[attr-defined]
        return
    clip_grads.clip_grad_by_total_norm_fp32(
        part.get_parameters(), max_norm=max_norm, total_norm=norm, use_decoupled_grad=False
    )
