"""Runs that no memory of this machine can hold, refused before anything is built.

What is counted is less than what a run takes: it must not refuse a run that works.
"""

import math
from collections.abc import Collection, Iterator

from vidtron.config.data import ClipSize
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.models import freezing, registry
from vidtron.models.layers.checkpoint_rules import weight_sizes
from vidtron.parallel import model_parallel_size
from vidtron.training.optimizer import OPTIMIZERS

GIB = 2**30
_SAVED_WIDTHS = 8
"""Hidden widths that a layer keeps of each token for its backward pass, split over TP: queries, keys, values, the
attention's output and the MLP's four; norms, modulation and GELU are recomputed."""


def check_memory(config: RunConfig, world: World, sizes: Collection[ClipSize]) -> Iterator[str]:
    """One message where a rank's weights, optimizer, activations and frames are more than the rank has.

    Args:
        config: the run, whose numbers are in their ranges.
        world: with the memory of one rank.
        sizes: of the clips that are trained on, one at least.
    """
    parts = {
        "weights, gradients and optimizer": _state_bytes(config, world),
        "activations": max(_activation_bytes(config, size) for size in sizes),
        "frames": max(_frame_bytes(config, world, size) for size in sizes),
    }
    needed = sum(parts.values())
    if needed > world.memory:
        told = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items())
        yield (
            f"--model {config.model}: needs at least {_gib(needed)} GiB on a rank ({told}), and a rank has "
            f"{_gib(world.memory)} GiB here; accepted: a smaller network, clip or --micro-batch-size, or more ranks "
            "that share it (--tensor-model-parallel-size, --use-distributed-optimizer)"
        )


def weight_bytes(config: RunConfig) -> float:
    """Bytes of the network's weights on one rank, in the type that the run computes in."""
    elements = sum(_weight_sizes(config).values())
    return elements * _bytes(config) / _shares(config)


def _weight_sizes(config: RunConfig) -> dict[str, int]:
    family = registry.family_of(config.model)
    return weight_sizes(family.rows(config.network), family.sizes(config.network))


def _state_bytes(config: RunConfig, world: World) -> float:
    sizes = _weight_sizes(config)
    trained = freezing.trained_names(sizes, config.adaptation)
    elements = sum(sizes[name] for name in trained)
    precision, optimizer = config.precision, config.optimizer
    wide = not precision.bf16 or precision.accumulate_allreduce_grads_in_fp32
    moments = OPTIMIZERS[optimizer.optimizer].state_bytes(optimizer)
    kept = float(moments) + (4 if precision.bf16 else 0) + 4 * (len(config.ema.ema_decay) + len(config.ema.ema_power))
    if optimizer.use_distributed_optimizer:
        kept /= max(1, world.size // model_parallel_size(config))
    return weight_bytes(config) + elements * ((4 if wide else 2) + kept) / _shares(config)


def _activation_bytes(config: RunConfig, size: ClipSize) -> float:
    parallel, precision, network = config.parallel, config.precision, config.network
    tokens = registry.family_of(config.model).tokens_per_sample(config, size) / parallel.context_parallel_size
    layers = network.num_layers / parallel.pipeline_model_parallel_size
    tp = parallel.tensor_model_parallel_size
    widths = 1 / tp if parallel.sequence_parallel else 1.0
    if precision.recompute_granularity == "full":
        if precision.recompute_method == "uniform":
            layers /= precision.recompute_num_layers or 1
    elif not (config.adaptation.lora_rank or config.adaptation.freeze or config.adaptation.train_only):
        widths += _SAVED_WIDTHS / tp
    text = sum(text.length * text.width for text in registry.family_of(config.model).texts(config)) * 4
    hidden = tokens * network.hidden_size * widths * layers * _bytes(config)
    return config.training.micro_batch_size * (hidden + text)


def _frame_bytes(config: RunConfig, world: World, size: ClipSize) -> float:
    """Bytes of one clip as it is encoded, and on a CPU of the decoded micro-batch; 0 where latents may be cached."""
    if config.encoders.latent_cache is not None:
        return 0.0
    values = 3 * math.prod(size)
    if world.has_cuda:
        return values * _bytes(config)
    return values * (4 + config.training.micro_batch_size)


def _bytes(config: RunConfig) -> int:
    return 2 if config.precision.bf16 else 4


def _shares(config: RunConfig) -> int:
    """Ranks that share the weights of one replica."""
    return config.parallel.tensor_model_parallel_size * config.parallel.pipeline_model_parallel_size


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f}"
