"""The feed-forward part of a layer.

Shape letters: S tokens, B micro-batch, D hidden width, F inner width of this rank.
"""

from megatron.core.transformer.mlp import MLP
from torch import Tensor

from vidtron.models.layers.bias import add_bias
from vidtron.models.layers.recompute import Recomputed


def run_mlp(mlp: MLP, hidden_SBD: Tensor, *, recompute: bool) -> tuple[Tensor, Tensor | None]:
    """mcore's MLP, its activation recomputed in the backward pass: [S, B, D] and the bias still to be added.

    mcore's own forward keeps the activation's result (four hidden widths a token) for the second linear layer.
    """
    inner_SBF = add_bias(*mlp.linear_fc1(hidden_SBD))
    activation = Recomputed(mlp.activation_func, inner_SBF, enabled=recompute)
    with activation.not_kept():
        return mlp.linear_fc2(activation.value)
