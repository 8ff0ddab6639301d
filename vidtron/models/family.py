"""What the rest of the package asks of a kind of model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from megatron.core.transformer.module import MegatronModule

    from vidtron.config.data import ClipSize
    from vidtron.config.geometry import LatentGeometry
    from vidtron.config.run import RunConfig
    from vidtron.config.text import TextSpec
    from vidtron.config.world import World
    from vidtron.models.inputs import SampleSpec
    from vidtron.models.layers.checkpoint_rules import Row
    from vidtron.models.lora_targets import LoraTarget
    from vidtron.parallel import Groups


class Family(Protocol):
    """Builds the networks of one kind and answers for them. `size` is that of a clip; None: the run's one size."""

    lora_targets: tuple[LoraTarget, ...]
    """Which linear maps may have adapters, in the order in which they are listed; empty where none may."""

    def build(
        self,
        run: RunConfig,
        groups: Groups,
        *,
        pre_process: bool = True,
        post_process: bool = True,
        vp_stage: int | None = None,
    ) -> MegatronModule:
        """One chunk of the network, with its initial weights, on the rank's device.

        Args:
            run: with the family's configuration as `network`.
            groups: the run's process groups.
            pre_process: it is the first chunk, which embeds tokens.
            post_process: it is the last one, which gives latents.
            vp_stage: its number on this pipeline rank, with interleaving.
        """
        ...

    def rows(self, network: Any) -> list[Row]:
        """The whole network's weights with their shapes, adapters left out; `theirs` are our own names."""
        ...

    def sizes(self, network: Any) -> dict[str, int]:
        """What the letters in the shapes of `rows` stand for."""
        ...

    def check(self, run: RunConfig, world: World) -> list[str]:
        """Everything about the network, its clip size and what of it is trained (`freezing.check`) that cannot
        work."""
        ...

    def geometry(self, run: RunConfig) -> LatentGeometry:
        """How the latents lie over the video."""
        ...

    def texts(self, run: RunConfig) -> tuple[TextSpec, ...]:
        """What the network takes of a caption, one for each text encoder."""
        ...

    def inputs(self, run: RunConfig, size: ClipSize | None = None) -> SampleSpec:
        """What a sample consists of."""
        ...

    def latent_shape(self, run: RunConfig, size: ClipSize | None = None) -> tuple[int, int, int, int]:
        """(frames, channels, height, width) of the video's latents as the network sees them; of a size that does not
        fit the autoencoder, which is named elsewhere, those of what of it does."""
        ...

    def tokens_per_sample(self, run: RunConfig, size: ClipSize | None = None) -> int:
        """Tokens that go through the layers, without padding."""
        ...

    def sequence_length(self, run: RunConfig, size: ClipSize | None = None) -> int:
        """The same, padded: what the pipeline's transfers are sized by."""
        ...

    def flops_per_sample(self, run: RunConfig, size: ClipSize | None = None) -> float:
        """Model FLOPs of forward and backward pass, recomputation not counted."""
        ...

    def rounded_size(self, run: RunConfig, height: int, width: int) -> tuple[int, int]:
        """The nearest height and width in pixels that the network takes."""
        ...

    def nearest_frames(self, run: RunConfig, num_frames: int) -> tuple[int, ...]:
        """`num_frames` alone where the network takes so many, else the nearest accepted numbers below and above."""
        ...

    def size_errors(self, run: RunConfig, size: ClipSize) -> list[str]:
        """Why the network under its layout cannot be trained on a size of whole patches."""
        ...

    def output_channels(self, run: RunConfig) -> int:
        """Channels that the network answers with for each latent pixel of the video."""
        ...

    def temporal_patch(self, network: Any) -> int:
        """Latent frames of one token."""
        ...
