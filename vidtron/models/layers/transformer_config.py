"""mcore's TransformerConfig from a run's configuration: the one place where the flags become mcore's settings."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from megatron.core.transformer import TransformerConfig

from vidtron.config.run import RunConfig

gelu_tanh = partial(F.gelu, approximate="tanh")


def _leave_uninitialised(_: torch.Tensor) -> None:
    """mcore allocates and tags the weights; `initialization.py` fills them, alike under every layout."""


def transformer_config(
    run: RunConfig,
    *,
    num_layers: int,
    hidden_size: int,
    num_attention_heads: int,
    ffn_hidden_size: int,
    cuda: bool,
    head_width: int | None = None,
    activation: Callable[[torch.Tensor], torch.Tensor] = gelu_tanh,
    gated: bool = False,
    bias: bool = True,
    norm_eps: float = 1e-5,
    norm_each_head: bool = True,
) -> TransformerConfig:
    """Settings of a transformer of bidirectional layers without dropout.

    Args:
        run: whose layout, precision and recomputation they are.
        num_layers: of the whole network.
        hidden_size: width of the hidden states.
        num_attention_heads: of the whole network.
        ffn_hidden_size: inner width of the MLP; of a gated one, of each half.
        cuda: whether weights are made on a GPU.
        head_width: features of a head; None: hidden size / heads.
        activation: of the MLP.
        gated: the MLP's first layer gives gate and value.
        bias: of the linear layers in attention and MLP.
        norm_eps: of the norms that mcore builds.
        norm_each_head: queries and keys are normed head by head with weights that the heads share, whose gradients
            mcore then sums over the TP group; norms over all heads (`AllHeadsRMSNorm`) take False.
    """
    parallel, precision = run.parallel, run.precision
    dtype = torch.bfloat16 if precision.bf16 else torch.float32
    fp8 = {}
    if precision.fp8_format is not None:
        fp8 = {
            "fp8": precision.fp8_format,
            "fp8_recipe": precision.fp8_recipe,
            "fp8_amax_history_len": precision.fp8_amax_history_len,
            "fp8_amax_compute_algo": precision.fp8_amax_compute_algo,
        }
    interleaved = parallel.num_layers_per_virtual_pipeline_stage is not None
    overlap = interleaved and parallel.overlap_p2p_communication
    config = TransformerConfig(
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_attention_heads=num_attention_heads,
        ffn_hidden_size=ffn_hidden_size,
        kv_channels=head_width or hidden_size // num_attention_heads,
        layernorm_epsilon=norm_eps,
        activation_func=activation,
        gated_linear_unit=gated,
        add_bias_linear=bias,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        qk_layernorm=norm_each_head,
        init_method=_leave_uninitialised,
        output_layer_init_method=_leave_uninitialised,
        use_cpu_initialization=not cuda,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        sequence_parallel=parallel.sequence_parallel and parallel.tensor_model_parallel_size > 1,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=virtual_stages(run, num_layers),
        context_parallel_size=parallel.context_parallel_size,
        cp_comm_type=parallel.cp_comm_type,
        # With two stages the previous and the next stage are one rank, and batched sends to it would be taken for each
        # other: the interleaved schedule then overlaps (parallel/check.py refuses the rest).
        overlap_p2p_comm=overlap,
        batch_p2p_comm=not overlap,
        bf16=precision.bf16,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        recompute_granularity=precision.recompute_granularity,
        recompute_method=precision.recompute_method,
        recompute_num_layers=precision.recompute_num_layers,
        deterministic_mode=run.training.deterministic_mode,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        gradient_accumulation_fusion=False,
        **fp8,
    )
    # mcore then sums the gradients of parameters marked `pipeline_parallel` over the stages
    # (distributed/finalize_model_grads.py); an attribute, not a field.
    config.has_cond_embedder = True  # type: ignore[attr-defined]
    return config


def virtual_stages(run: RunConfig, num_layers: int) -> int | None:
    """Number of model chunks on each pipeline rank; None without interleaving."""
    per_chunk = run.parallel.num_layers_per_virtual_pipeline_stage
    if per_chunk is None:
        return None
    return num_layers // (run.parallel.pipeline_model_parallel_size * per_chunk)
