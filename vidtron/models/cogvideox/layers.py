"""The last layer of CogVideoX.

Shape letters: S tokens of this rank, B micro-batch, D hidden width, T time embeddings, E their width, P values of a
patch.
"""

from typing import Any

from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from vidtron.models.layers.conditioning import Segment
from vidtron.models.layers.modulation import Modulation
from vidtron.models.layers.norms import mark_sequence_parallel, modulate


class FinalLayer(MegatronModule):
    """Modulated norm and projection to patch values; one set of vectors for all tokens."""

    def __init__(
        self,
        config: TransformerConfig,
        norm: Any,
        *,
        embedding_width: int,
        patch_values: int,
        eps: float,
        tp: ProcessGroup,
    ):
        super().__init__(config=config)
        self.norm = norm(config=config, hidden_size=config.hidden_size, eps=eps)
        self.modulation = Modulation(config, embedding_width=embedding_width, vectors=2, kinds=1, tp=tp)
        self.proj = nn.Linear(config.hidden_size, patch_values, dtype=config.params_dtype)
        mark_sequence_parallel(self.proj, config)

    def forward(self, hidden_SBD: Tensor, embedding_TBE: Tensor) -> Tensor:
        """Last norm and projection to pixels of the patches: [S, B, D] -> [S, B, P]."""
        shift, scale = self.modulation(embedding_TBE)
        everything = (Segment(0, hidden_SBD.shape[0]),)
        return self.proj(modulate(self.norm(hidden_SBD), shift, scale, everything))
