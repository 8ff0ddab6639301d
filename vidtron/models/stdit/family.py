"""STDiT as the trainer sees it."""

import math
from typing import Any, cast

from megatron.core.transformer.module import MegatronModule

from vidtron.config.data import ClipSize
from vidtron.config.geometry import LatentGeometry
from vidtron.config.ranges import refusals
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
from vidtron.models.stdit.checkpoint_names import our_rows, sizes
from vidtron.models.stdit.config import PRESETS, SPATIAL_RATIO, STDiTConfig
from vidtron.models.stdit.flops import forward_flops
from vidtron.models.stdit.model import STDiT
from vidtron.parallel import Groups
from vidtron.parallel.axes import choose_axis, padded_grid
from vidtron.parallel.tokens import sequence_multiple

NORM_EPS = 1e-6


def _network(run: RunConfig) -> STDiTConfig:
    return cast(STDiTConfig, run.network)


class STDiTFamily(Family[STDiTConfig]):
    """Builds the networks and answers what the trainer asks of them. `size` is that of a clip; None: the run's."""

    def build(self, run: RunConfig, groups: Groups, **place: Any) -> MegatronModule:
        """One chunk of the network, with its initial weights, on the rank's device."""
        network = _network(run)
        config = transformer_config(
            run,
            num_layers=network.num_layers,
            hidden_size=network.hidden_size,
            num_attention_heads=network.num_attention_heads,
            ffn_hidden_size=4 * network.hidden_size,
            cuda=groups.device.type == "cuda",
            norm_eps=NORM_EPS,
            norm_each_head=network.qk_norm,
        )
        return STDiT(config, groups, run, choose_backend(run.precision, World.from_environment()), **place)

    def geometry(self, run: RunConfig) -> LatentGeometry:
        """How the latents lie over the video."""
        return _network(run).geometry

    def texts(self, run: RunConfig) -> tuple[TextSpec, ...]:
        """What the network takes of a caption."""
        return (TextSpec(_network(run).text_length, _network(run).text_width, masked=True, own_null=True),)

    def inputs(self, run: RunConfig, size: ClipSize | None = None) -> SampleSpec:
        """What a sample consists of."""
        return SampleSpec({VIDEO: self.latent_shape(run, size)}, self.texts(run), size=True)

    def latent_shape(self, run: RunConfig, size: ClipSize | None = None) -> tuple[int, int, int, int]:
        """(frames, channels, height, width) of the latents the network sees."""
        channels, frames, height, width = self.geometry(run).fitting_shape(*(size or run.data.size))
        return frames, channels, height, width

    def _grid(self, run: RunConfig, size: ClipSize | None) -> tuple[int, int]:
        """Frames, and tokens of a frame."""
        frames, _, height, width = self.latent_shape(run, size)
        return frames, math.prod(_network(run).grid(height, width))

    def tokens_per_sample(self, run: RunConfig, size: ClipSize | None = None) -> int:
        """Tokens of one sample, without padding."""
        return math.prod(self._grid(run, size))

    def sequence_length(self, run: RunConfig, size: ClipSize | None = None) -> int:
        """Tokens of one sample, padded along both axes: what the pipeline's transfers are sized by."""
        frames, spaces = self._grid(run, size)
        parallel, cp = run.parallel, run.parallel.context_parallel_size
        multiple = sequence_multiple(
            tp=parallel.tensor_model_parallel_size,
            cp=1,
            sequence_parallel=parallel.sequence_parallel,
            fp8=run.precision.fp8_format is not None,
        )
        axis = choose_axis(frames, spaces, cp=cp, multiple=multiple)
        return math.prod(padded_grid(axis, frames, spaces, cp=cp, multiple=multiple))

    def flops_per_sample(self, run: RunConfig, size: ClipSize | None = None) -> float:
        """Model FLOPs of forward and backward pass, which costs twice the forward pass."""
        return 3.0 * forward_flops(_network(run), self.latent_shape(run, size))

    def rounded_size(self, run: RunConfig, height: int, width: int) -> tuple[int, int]:
        """The nearest height and width in pixels that the network takes, one latent pixel at least."""
        ratio = SPATIAL_RATIO
        return max(1, round(height / ratio)) * ratio, max(1, round(width / ratio)) * ratio

    def output_channels(self, run: RunConfig) -> int:
        """Channels that the network answers with."""
        return _network(run).out_channels

    def rows(self, network: STDiTConfig) -> list[Row]:
        """The whole network's weights with their shapes."""
        return our_rows(network)

    def sizes(self, network: STDiTConfig) -> dict[str, int]:
        """What the letters in the shapes of `rows` stand for."""
        return sizes(network)

    def check(self, run: RunConfig, world: World) -> list[str]:
        """Everything about the network, its clip size and what of it is trained that cannot work."""
        return [*_check_network(_network(run)), *_check_layout(run), *_check_clip(run), *freezing.check(self, run)]

    def closest_preset(self, network: STDiTConfig) -> str:
        """The preset that a network which was read from files is called by."""
        return closest_preset(PRESETS, network)

    def default_sample(self, network: STDiTConfig) -> SampleSize:
        """A clip of 16 frames of 512 x 512 pixels; weights are for clips of every size."""
        return SampleSize(16, 64, 64)

    def sample_of(self, run: RunConfig) -> SampleSize:
        """The clips that a run trains on."""
        return sample_of_clip(run.data.size, self.geometry(run))

    def clip_for(self, run: RunConfig, sample: SampleSize) -> ClipSize:
        """The clip of a run whose weights are for `sample`."""
        return clip_of_sample(sample, self.geometry(run))

    def small_sample(self, network: STDiTConfig) -> SampleSpec:
        """A sample of few tokens."""
        text = TextSpec(network.text_length, network.text_width, masked=True, own_null=True)
        return SampleSpec({VIDEO: (2, network.in_channels, 4, 6)}, (text,), size=True)


def _check_network(network: STDiTConfig) -> list[str]:
    errors = [refusal.message for refusal in refusals(network)]
    if errors:
        return errors
    hidden, heads = network.hidden_size, network.num_attention_heads
    if hidden % 12:
        errors.append(f"--hidden-size {hidden}: accepted: multiples of 12, for positions and sizes have parts of it")
    if hidden % heads or hidden // heads % 2:
        errors.append(
            f"--num-attention-heads {heads}: --hidden-size {hidden} does not divide into heads of an even width; "
            f"accepted: a divisor of {hidden // 2}"
        )
    if network.out_channels not in (network.in_channels, 2 * network.in_channels):
        errors.append(
            f"--out-channels {network.out_channels}: accepted: {network.in_channels}, the latent's, or "
            f"{2 * network.in_channels} (with --predicted-variance)"
        )
    return errors


def _check_layout(run: RunConfig) -> list[str]:
    heads, parallel = _network(run).num_attention_heads, run.parallel
    tp, cp = parallel.tensor_model_parallel_size, parallel.context_parallel_size
    if min(tp, cp) < 1:
        return []  # the parallel room names it
    if heads % tp:
        divisors = ", ".join(str(d) for d in range(1, heads + 1) if heads % d == 0)
        return [
            f"--tensor-model-parallel-size {tp}: {heads} attention heads do not divide by it; accepted: {divisors}"
        ]
    if cp > 1 and parallel.cp_comm_type in ("p2p", "a2a+p2p"):
        return [
            f"--cp-comm-type {parallel.cp_comm_type}: not with attention along one axis at a time; accepted: a2a, "
            "all_gather, auto"
        ]
    if cp > 1 and parallel.cp_comm_type == "a2a" and (heads // tp) % cp:
        return [
            f"--cp-comm-type a2a: {heads // tp} heads on a tensor-parallel rank do not divide by "
            f"--context-parallel-size {cp}; accepted here: all_gather, auto"
        ]
    return []


def _check_clip(run: RunConfig) -> list[str]:
    return [
        f"--{flag} {value}: accepted: multiples of {SPATIAL_RATIO} pixels"
        for flag, value in (("height", run.data.height), ("width", run.data.width))
        if value < SPATIAL_RATIO or value % SPATIAL_RATIO
    ]


FAMILY = STDiTFamily()
