"""Errors of a parallel layout, found before any work."""

from collections.abc import Iterable

from vidtron.config.ranges import refusals
from vidtron.config.run import RunConfig
from vidtron.config.world import World


def model_parallel_size(config: RunConfig) -> int:
    """Number of ranks in one replica: TP x CP x PP."""
    parallel = config.parallel
    return parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size * parallel.context_parallel_size


def virtual_pipeline_size(config: RunConfig) -> int | None:
    """Model chunks per pipeline stage, None without interleaving. The configuration has passed `check`."""
    layers_per_chunk = config.parallel.num_layers_per_virtual_pipeline_stage
    if layers_per_chunk is None:
        return None
    return config.network.num_layers // (config.parallel.pipeline_model_parallel_size * layers_per_chunk)


def sequence_parallel(config: RunConfig) -> bool:
    """Whether tokens are split over the tensor-parallel ranks; with one such rank there is nothing to split."""
    return config.parallel.sequence_parallel and config.parallel.tensor_model_parallel_size > 1


def check(config: RunConfig, world: World) -> list[str]:
    """Errors of the layout, one message each, beginning with the flag and saying what would be accepted.

    `--sequence-parallel` without tensor parallelism is no error: it is off, as in Megatron (see `sequence_parallel`).
    """
    errors = _check_sizes(config, world)
    layout = [] if errors else [*_check_pipeline(config), *_check_batch(config, world)]
    return [
        *errors,
        *layout,
        *_check_backend(config, world),
        *_check_overlap(config),
        *_check_precision(config, world),
        *_check_recomputation(config),
    ]


def _check_sizes(config: RunConfig, world: World) -> list[str]:
    parallel, training = config.parallel, config.training
    errors = [refusal.message for section in (parallel, training) for refusal in refusals(section)]
    if not errors and world.size % model_parallel_size(config):
        product = model_parallel_size(config)
        errors.append(
            f"--tensor-model-parallel-size {parallel.tensor_model_parallel_size} x --pipeline-model-parallel-size "
            f"{parallel.pipeline_model_parallel_size} x --context-parallel-size {parallel.context_parallel_size}: "
            f"one replica needs {product} ranks and the run has {world.size}; accepted: a number of ranks that is a "
            f"multiple of {product} (torchrun --nproc-per-node), or sizes whose product divides {world.size}"
        )
    return errors


def _check_pipeline(config: RunConfig) -> list[str]:
    parallel, layers = config.parallel, config.network.num_layers
    stages, per_chunk = parallel.pipeline_model_parallel_size, parallel.num_layers_per_virtual_pipeline_stage
    if per_chunk is None:
        if layers % stages == 0:
            return []
        accepted = _listed(n for n in range(1, layers + 1) if layers % n == 0)
        return [f"--pipeline-model-parallel-size {stages}: {layers} layers do not divide; accepted: {accepted}"]
    flag = f"--num-layers-per-virtual-pipeline-stage {per_chunk}"
    if stages == 1:
        return [f"{flag}: there is one pipeline stage; accepted: --pipeline-model-parallel-size of 2 or more"]
    # One chunk per stage would be the plain schedule.
    accepted_sizes = [n for n in range(1, layers // stages) if layers % (stages * n) == 0]
    errors = []
    if per_chunk not in accepted_sizes:
        accepted = _listed(accepted_sizes) or f"none for {layers} layers in {stages} stages, leave the flag away"
        errors.append(
            f"{flag}: {layers} layers do not divide into {stages} stages of two or more such chunks; "
            f"accepted: {accepted}"
        )
    # With two stages the next and the previous one are the same rank. The batched transfers of the schedule then pair
    # up in the wrong order: no error, wrong gradients. megatron-core's schedules do not refuse it.
    if stages == 2 and not parallel.overlap_p2p_communication:
        errors.append(
            f"--no-overlap-p2p-communication: with {flag} and 2 stages, tensors would be exchanged for one another; "
            "accepted: --overlap-p2p-communication, or 3 or more stages"
        )
    return errors


def _check_batch(config: RunConfig, world: World) -> list[str]:
    training, parallel = config.training, config.parallel
    per_micro_step = training.micro_batch_size * (world.size // model_parallel_size(config))
    final = per_micro_step if training.global_batch_size is None else training.global_batch_size
    if final < 1:  # config/check.py says so
        return []
    if config.data.bucket_config is not None:  # has the batch sizes; the rooms data and training look at them
        return []
    interleaved = parallel.num_layers_per_virtual_pipeline_stage is not None
    # The interleaved schedule works in groups of one micro-batch per stage.
    divisor = per_micro_step * (parallel.pipeline_model_parallel_size if interleaved else 1)
    reason = (
        f"{divisor} = --micro-batch-size {training.micro_batch_size} x "
        f"{world.size // model_parallel_size(config)} replicas"
        + (f" x {parallel.pipeline_model_parallel_size} stages of the interleaved schedule" if interleaved else "")
    )
    errors = []
    if final % divisor:
        errors.append(f"--global-batch-size {final}; accepted: multiples of {reason}")
    if training.rampup_batch_size is None:
        return errors
    start, increment, samples = training.rampup_batch_size
    flag = f"--rampup-batch-size {start} {increment} {samples}"
    if start >= final or (final - start) % increment:
        errors.append(
            f"{flag} does not lead to --global-batch-size {final}; accepted: START below it, and INCREMENT a divisor "
            f"of the difference{f' {final - start}' if start < final else ''}"
        )
    elif start % divisor or increment % divisor:
        errors.append(f"{flag}; accepted: START and INCREMENT multiples of {reason}")
    return errors


def _check_backend(config: RunConfig, world: World) -> list[str]:
    parallel = config.parallel
    errors = []
    if parallel.distributed_backend == "nccl" and not world.has_cuda:
        errors.append("--distributed-backend nccl needs a GPU and there is none; accepted: auto, gloo")
    if parallel.distributed_backend == "gloo" and world.has_cuda:
        errors.append(
            "--distributed-backend gloo: the model is on the GPU, where gloo lacks collectives; accepted: auto, nccl "
            "(CUDA_VISIBLE_DEVICES= in the environment trains on the CPU)"
        )
    if parallel.cp_comm_type in ("p2p", "a2a+p2p"):
        flag = f"--cp-comm-type {parallel.cp_comm_type}"
        errors += _needs_transformer_engine(flag, world, "auto, a2a, all_gather")
        if config.precision.transformer_impl == "local":
            errors.append(f"{flag} is Transformer Engine's own; accepted with --transformer-impl local: auto, a2a, "
                          "all_gather")  # fmt: skip
    return errors


def _check_overlap(config: RunConfig) -> list[str]:
    optimizer = config.optimizer
    if not optimizer.overlap_param_gather:
        return []
    missing = [
        flag
        for flag, given in (
            ("--use-distributed-optimizer", optimizer.use_distributed_optimizer),
            ("--overlap-grad-reduce", optimizer.overlap_grad_reduce),
        )
        if not given
    ]
    if not missing:
        return []
    return [f"--overlap-param-gather needs {' and '.join(missing)}; accepted: with both, or without it"]


def _check_precision(config: RunConfig, world: World) -> list[str]:
    precision = config.precision
    errors = [refusal.message for refusal in refusals(precision)]
    if precision.fp8_format is not None:
        flag = f"--fp8-format {precision.fp8_format}"
        if not precision.bf16:
            errors.append(f"{flag} needs --bf16; accepted: with --bf16, or no --fp8-format")
        if precision.transformer_impl == "local":
            errors.append(f"{flag} needs Transformer Engine; accepted: --transformer-impl auto, transformer_engine")
        errors += _needs_transformer_engine(flag, world, "no --fp8-format")
    if precision.transformer_impl == "transformer_engine":
        errors += _needs_transformer_engine("--transformer-impl transformer_engine", world, "auto, local")
    return errors


def _needs_transformer_engine(flag: str, world: World, accepted: str) -> list[str]:
    missing = [
        what
        for what, present in (
            ("a GPU", world.has_cuda),
            ("the package transformer_engine", "transformer_engine" in world.packages),
        )
        if not present
    ]
    return [f"{flag} needs {' and '.join(missing)}; accepted here: {accepted}"] if missing else []


def _check_recomputation(config: RunConfig) -> list[str]:
    precision = config.precision
    granularity, method = precision.recompute_granularity, precision.recompute_method
    layers, stages = config.network.num_layers, max(1, config.parallel.pipeline_model_parallel_size)
    per_chunk = config.parallel.num_layers_per_virtual_pipeline_stage or layers // stages
    given = [
        f"--{name} {value}"
        for name, value in (("recompute-method", method), ("recompute-num-layers", precision.recompute_num_layers))
        if value is not None
    ]
    if granularity != "full":
        return [f"{flag} goes with --recompute-granularity full; accepted: with it, or not at all" for flag in given]
    errors = []
    if method is None:
        errors.append("--recompute-granularity full needs --recompute-method; accepted: uniform, block")
    if precision.recompute_num_layers is None:
        errors.append(
            f"--recompute-granularity full needs --recompute-num-layers; accepted: 1 to {per_chunk}, the layers of a "
            "model chunk"
        )
    elif not 1 <= precision.recompute_num_layers <= per_chunk:
        errors.append(
            f"--recompute-num-layers {precision.recompute_num_layers}; accepted: 1 to {per_chunk}, the layers of a "
            "model chunk"
        )
    return errors


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))
