"""The feed-forward part of a layer.

Shape letters: S tokens, B micro-batch, D hidden width, F inner width of this rank (twice that before a gate).
"""

from megatron.core.transformer.mlp import MLP
from torch import Tensor

from vidtron.models.layers.bias import add_bias
from vidtron.models.layers.conditioning import Samples
from vidtron.models.layers.lora import adapted, adapted_halves
from vidtron.models.layers.recompute import Recomputed


def run_mlp(mlp: MLP, hidden_SBD: Tensor, samples: Samples | None, *, recompute: bool) -> tuple[Tensor, Tensor | None]:
    """mcore's MLP, its activation recomputed in the backward pass: [S, B, D] and the bias still to be added.

    mcore's own forward keeps the activation's result (four hidden widths a token) for the second linear layer. With
    `gated_linear_unit` the first layer gives [gate; value], and the activation of the gate multiplies the value.
    """
    inner_SBF = add_bias(*mlp.linear_fc1(hidden_SBD))
    inner_SBF = adapted(inner_SBF, getattr(mlp, "lora_fc1", None), hidden_SBD, samples)
    inner_SBF = adapted_halves(inner_SBF, getattr(mlp, "lora_gated_fc1", None), hidden_SBD, samples)

    def activate(inner: Tensor) -> Tensor:
        if not mlp.config.gated_linear_unit:
            return mlp.activation_func(inner)
        gate, value = inner.chunk(2, dim=-1)
        return mlp.activation_func(gate) * value

    activation = Recomputed(activate, inner_SBF, enabled=recompute)
    with activation.not_kept():
        out_SBD, bias = mlp.linear_fc2(activation.value)
        return adapted(out_SBD, getattr(mlp, "lora_fc2", None), activation.value, samples), bias
