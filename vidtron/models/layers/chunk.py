"""What every network's chunk is to megatron-core, whatever its layers are."""

from typing import Any, ClassVar

from megatron.core.dist_checkpointing.mapping import ShardedStateDict, ShardedTensor
from megatron.core.enums import ModelType
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from torch import Tensor

from vidtron.models.layers.block import ConditionedTransformerBlock
from vidtron.models.layers.conditioning import Conditioning
from vidtron.models.layers.embeddings import mark_replicated_over_stages
from vidtron.parallel import Groups
from vidtron.parallel.tokens import TokenLayout, TokenSplit


class TransformerChunk(MegatronModule):
    """The part of a network that one pipeline stage, or one of its virtual stages, runs.

    A subclass builds its modules, `decoder` among them (`build_decoder`), calls `mark_replicated`, and defines
    `forward(inputs: ModelInput)`, which gives the latents on the last chunk and hidden states on the others.
    """

    REPLICATED: ClassVar[tuple[str, ...]] = ()
    """Modules of which every pipeline stage has a copy."""

    decoder: ConditionedTransformerBlock

    def __init__(
        self,
        config: TransformerConfig,
        groups: Groups,
        *,
        pre_process: bool = True,
        post_process: bool = True,
        vp_stage: int | None = None,
    ):
        super().__init__(config=config)
        self.groups = groups
        self.pre_process, self.post_process, self.vp_stage = pre_process, post_process, vp_stage
        # mcore's schedules and gradient reduction read these two (pipeline_parallel/schedules.py,
        # distributed/finalize_model_grads.py).
        self.model_type = ModelType.encoder_or_decoder
        self.share_embeddings_and_output_weights = False

    def mark_replicated(self) -> None:
        """Keep the copies of the modules in `REPLICATED` one and the same on all stages."""
        for name in self.REPLICATED:
            if hasattr(self, name):
                mark_replicated_over_stages(getattr(self, name), first=self.pre_process)

    def build_decoder(self, layer: ModuleSpec, norm: Any) -> ConditionedTransformerBlock:
        """This chunk's layers; `norm` follows the last layer of the network."""
        layers = get_num_layers_to_build(self.config, self.vp_stage, self.groups.pp.rank())
        return ConditionedTransformerBlock(
            self.config,
            TransformerBlockSubmodules(layer_specs=[layer] * layers, layer_norm=norm),
            pre_process=self.pre_process,
            post_process=self.post_process,
            pg_collection=self.groups.pg,
            vp_stage=self.vp_stage,
        )

    def split_of(self, tokens: int) -> TokenSplit:
        """The part of a sequence that this rank holds."""
        return TokenSplit.of_rank(
            tokens,
            tp=self.groups.tp,
            cp=self.groups.cp,
            sequence_parallel=self.config.sequence_parallel,
            fp8=bool(self.config.fp8),
        )

    def token_layout(self, conditioning: Conditioning) -> TokenLayout:
        """Which tokens the layers' hidden states are: a part of one sequence, where a family has no other order."""
        return self.split_of(conditioning.tokens)

    def set_input_tensor(self, input_tensor: Tensor | list[Tensor]) -> None:
        """Hidden states from the previous stage, as mcore's schedules hand them over."""
        self.decoder.set_input_tensor(input_tensor[0] if isinstance(input_tensor, list) else input_tensor)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None
    ) -> ShardedStateDict:
        """mcore's sharded state; of the modules that every stage has, the first chunk's copy is the one saved."""
        state = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        copy_number = self.groups.pp.rank() + self.groups.pp.size() * (self.vp_stage or 0)
        for name, tensor in state.items():
            if name.removeprefix(prefix).split(".")[0] in self.REPLICATED and isinstance(tensor, ShardedTensor):
                tensor.replica_id = (copy_number, *tensor.replica_id[1:])
        return state
