"""The family as vidtron sees it."""

import math
from typing import Any

from torch.nn.functional import silu

from toydit import names
from toydit.config import GEOMETRY, PRESETS, ToyConfig
from toydit.file import ToyFile
from toydit.model import ToyDiT
from vidtron.config.data import ClipSize
from vidtron.config.geometry import LatentGeometry
from vidtron.config.run import RunConfig
from vidtron.config.text import TextSpec
from vidtron.config.world import World
from vidtron.models import freezing
from vidtron.models.family import Family
from vidtron.models.foreign import SampleSize, clip_of_sample, sample_of_clip
from vidtron.models.inputs import VIDEO, SampleSpec
from vidtron.models.layers.checkpoint_rules import Row
from vidtron.models.layers.specs import choose_backend
from vidtron.models.layers.transformer_config import transformer_config
from vidtron.models.preset import closest_preset
from vidtron.parallel import Groups
from vidtron.parallel.tokens import padded_sequence


class ToyFamily(Family[ToyConfig]):
    """Builds the network and answers what vidtron asks of it."""

    lora_targets = names.LORA_TARGETS
    foreign = {"toydit": ToyFile()}
    size_names = {"D": "hidden size", "E": "width of the time embedding"}

    def build(self, run: RunConfig, groups: Groups, **place: Any) -> ToyDiT:
        network: ToyConfig = run.network
        config = transformer_config(
            run,
            num_layers=network.num_layers,
            hidden_size=network.hidden_size,
            num_attention_heads=network.num_attention_heads,
            ffn_hidden_size=2 * network.hidden_size,
            cuda=groups.device.type == "cuda",
            activation=silu,
            gated=True,
            norm_each_head=False,
        )
        backend = choose_backend(run.precision, World.from_environment())
        return ToyDiT(config, groups, run, backend, **place)

    def rows(self, network: ToyConfig) -> list[Row]:
        return names.rows(network)

    def sizes(self, network: ToyConfig) -> dict[str, int]:
        return names.sizes(network)

    def check(self, run: RunConfig, world: World) -> list[str]:
        errors = []
        if run.network.num_attention_heads % run.parallel.tensor_model_parallel_size:
            errors.append("--tensor-model-parallel-size: the heads do not divide by it")
        return [*errors, *freezing.check(self, run)]

    def geometry(self, run: RunConfig) -> LatentGeometry:
        return GEOMETRY

    def texts(self, run: RunConfig) -> tuple[TextSpec, ...]:
        return run.network.texts

    def inputs(self, run: RunConfig, size: ClipSize | None = None) -> SampleSpec:
        return SampleSpec({VIDEO: self.latent_shape(run, size)}, self.texts(run))

    def latent_shape(self, run: RunConfig, size: ClipSize | None = None) -> tuple[int, int, int, int]:
        channels, frames, height, width = GEOMETRY.fitting_shape(*(size or run.data.size))
        return frames, channels, height, width

    def tokens_per_sample(self, run: RunConfig, size: ClipSize | None = None) -> int:
        frames, _, height, width = self.latent_shape(run, size)
        return frames * height * width

    def sequence_length(self, run: RunConfig, size: ClipSize | None = None) -> int:
        return padded_sequence(run, self.tokens_per_sample(run, size))

    def flops_per_sample(self, run: RunConfig, size: ClipSize | None = None) -> float:
        tokens, hidden = self.tokens_per_sample(run, size), run.network.hidden_size
        return 6.0 * run.network.num_layers * tokens * (12 * hidden**2 + 2 * tokens * hidden)

    def rounded_size(self, run: RunConfig, height: int, width: int) -> tuple[int, int]:
        return tuple(max(1, round(side / GEOMETRY.spatial_ratio)) * GEOMETRY.spatial_ratio for side in (height, width))

    def size_errors(self, run: RunConfig, size: ClipSize) -> list[str]:
        return [] if math.prod(size) else ["an empty clip"]

    def output_channels(self, run: RunConfig) -> int:
        return 2 * GEOMETRY.channels

    def closest_preset(self, network: ToyConfig) -> str:
        return closest_preset(PRESETS, network)

    def default_sample(self, network: ToyConfig) -> SampleSize:
        return SampleSize(8, 3, 4)

    def sample_of(self, run: RunConfig) -> SampleSize:
        return sample_of_clip(run.data.size, GEOMETRY)

    def clip_for(self, run: RunConfig, sample: SampleSize) -> ClipSize:
        return clip_of_sample(sample, GEOMETRY)

    def small_sample(self, network: ToyConfig) -> SampleSpec:
        return SampleSpec({VIDEO: (2, GEOMETRY.channels, 2, 3)}, network.texts)


FAMILY = ToyFamily()
