"""What the rest of the package asks of a kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from vidtron.config.network import NetworkT_contra

if TYPE_CHECKING:
    from megatron.core.transformer.module import MegatronModule

    from vidtron.config.data import ClipSize
    from vidtron.config.geometry import LatentGeometry
    from vidtron.config.run import RunConfig
    from vidtron.config.text import TextSpec
    from vidtron.config.world import World
    from vidtron.models.foreign import ForeignModel, SampleSize
    from vidtron.models.inputs import SampleSpec
    from vidtron.models.layers.checkpoint_rules import Row
    from vidtron.models.lora_targets import LoraTarget
    from vidtron.parallel import Groups


class Family(Protocol[NetworkT_contra]):
    """Builds the networks of one kind and answers for them. `size` is that of a clip; None: the run's one size.

    A family derives from it, and has what stands here with a value or a body unless it says otherwise.
    """

    foreign: Mapping[str, ForeignModel] = MappingProxyType({})
    """Name of a format -> how the family's networks stand in it."""
    size_names: Mapping[str, str] = MappingProxyType({})
    """What messages call the letters of `sizes`: `D` -> hidden size. A letter without a name is told as it is."""

    lora_targets: tuple[LoraTarget, ...] = ()
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
        """Build one chunk of the network, with its initial weights, on the rank's device.

        Args:
            run: with the family's configuration as `network`.
            groups: the run's process groups.
            pre_process: it is the first chunk, which embeds tokens.
            post_process: it is the last one, which gives latents.
            vp_stage: its number on this pipeline rank, with interleaving.
        """
        ...

    def rows(self, network: NetworkT_contra) -> list[Row]:
        """The whole network's weights with their shapes, adapters left out; `theirs` are our own names."""
        ...

    def sizes(self, network: NetworkT_contra) -> dict[str, int]:
        """Values of the letters in the shapes of `rows`."""
        ...

    def check(self, run: RunConfig, world: World) -> list[str]:
        """Everything about the network, its clip size and what of it is trained (`freezing.check`) that cannot
        work."""
        ...

    def geometry(self, run: RunConfig) -> LatentGeometry:
        """Latent geometry: channels, ratios in time and space, valid numbers of frames."""
        ...

    def texts(self, run: RunConfig) -> tuple[TextSpec, ...]:
        """The text inputs of the network, one for each text encoder."""
        ...

    def inputs(self, run: RunConfig, size: ClipSize | None = None) -> SampleSpec:
        """Shapes of one sample's tensors."""
        ...

    def latent_shape(self, run: RunConfig, size: ClipSize | None = None) -> tuple[int, int, int, int]:
        """(frames, channels, height, width) of the video's latents as the network sees them; of a size that does not
        fit the autoencoder, which is named elsewhere, those of what of it does."""
        ...

    def tokens_per_sample(self, run: RunConfig, size: ClipSize | None = None) -> int:
        """Number of tokens that go through the layers, without padding."""
        ...

    def sequence_length(self, run: RunConfig, size: ClipSize | None = None) -> int:
        """Number of tokens with padding, which sizes the pipeline's transfers."""
        ...

    def flops_per_sample(self, run: RunConfig, size: ClipSize | None = None) -> float:
        """Model FLOPs of forward and backward pass, recomputation not counted."""
        ...

    def rounded_size(self, run: RunConfig, height: int, width: int) -> tuple[int, int]:
        """The height and width in pixels nearest to these that the network takes."""
        ...

    def nearest_frames(self, run: RunConfig, num_frames: int) -> tuple[int, ...]:
        """Accepted numbers of frames: `num_frames` alone if it is one, else the nearest below and above."""
        return self.geometry(run).nearest_frames(num_frames)

    def size_errors(self, run: RunConfig, size: ClipSize) -> list[str]:
        """Why the network under its layout cannot be trained on a size of whole patches; by default it can."""
        return []

    def output_channels(self, run: RunConfig) -> int:
        """Number of channels of the network's output, for each latent pixel of the video."""
        ...

    def temporal_patch(self, network: NetworkT_contra) -> int:
        """Number of latent frames in one token."""
        return 1

    def closest_preset(self, network: NetworkT_contra) -> str:
        """The preset that a network which was read from files is called by; it may differ."""
        ...

    def default_sample(self, network: NetworkT_contra) -> SampleSize:
        """Size of the clips that a network's weights are for, where nothing else states it."""
        ...

    def sample_of(self, run: RunConfig) -> SampleSize:
        """Size of the clips that a run's weights are for, as other formats state it."""
        ...

    def clip_for(self, run: RunConfig, sample: SampleSize) -> ClipSize:
        """The clip of a run whose weights, read from another format, are for `sample`; `run` has the preset's clip."""
        ...

    def small_sample(self, network: NetworkT_contra) -> SampleSpec:
        """A sample of few tokens, upon which the network is run to see whether weights are what they were."""
        ...
