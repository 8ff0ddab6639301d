"""CogVideoX as the trainer sees it."""

import math
from typing import cast

from megatron.core.transformer.module import MegatronModule

from vidtron.config.data import ClipSize
from vidtron.config.geometry import LatentGeometry, causal_geometry
from vidtron.config.ranges import refusals
from vidtron.config.run import RunConfig
from vidtron.config.text import TextSpec
from vidtron.config.world import World
from vidtron.models import freezing
from vidtron.models.cogvideox.checkpoint_names import SIZE_NAMES, our_rows, sizes
from vidtron.models.cogvideox.config import PRESETS, SPATIAL_RATIO, TEMPORAL_RATIO, CogVideoXConfig
from vidtron.models.cogvideox.diffusers_format import CogVideoXInDiffusers
from vidtron.models.cogvideox.flops import training_flops
from vidtron.models.cogvideox.lora_names import TARGETS
from vidtron.models.cogvideox.model import CogVideoX
from vidtron.models.cogvideox.sample_size import default_sample, sample_of_run, tables_hold
from vidtron.models.cogvideox.sat_format import CogVideoXInSat
from vidtron.models.family import Family
from vidtron.models.foreign import SampleSize, clip_of_sample
from vidtron.models.inputs import VIDEO, SampleSpec
from vidtron.models.layers.checkpoint_rules import Row
from vidtron.models.layers.specs import choose_backend
from vidtron.models.layers.transformer_config import transformer_config
from vidtron.models.lora_targets import parameter_names
from vidtron.models.preset import closest_preset
from vidtron.parallel import Groups
from vidtron.parallel.tokens import padded_length, padded_sequence

_SMALL_GRID = (2, 3, 4)
"""Tokens in time, height and width of the sample upon which networks are compared."""


def _network(run: RunConfig) -> CogVideoXConfig:
    return cast(CogVideoXConfig, run.network)


class CogVideoXFamily(Family[CogVideoXConfig]):
    """Builds the network and answers what the trainer asks of it."""

    lora_targets = TARGETS
    foreign = {"sat": CogVideoXInSat(), "diffusers": CogVideoXInDiffusers()}
    size_names = SIZE_NAMES

    def build(
        self,
        run: RunConfig,
        groups: Groups,
        *,
        pre_process: bool = True,
        post_process: bool = True,
        vp_stage: int | None = None,
    ) -> MegatronModule:
        """Build one chunk of the network, with its initial weights, on the rank's device."""
        network = _network(run)
        world = World.from_environment()
        config = transformer_config(
            run,
            num_layers=network.num_layers,
            hidden_size=network.hidden_size,
            num_attention_heads=network.num_attention_heads,
            ffn_hidden_size=4 * network.hidden_size,
            cuda=groups.device.type == "cuda",
        )
        return CogVideoX(
            network,
            config,
            groups,
            backend=choose_backend(run.precision, world),
            seed=run.training.seed,
            adaptation=run.adaptation,
            pre_process=pre_process,
            post_process=post_process,
            vp_stage=vp_stage,
        )

    def geometry(self, run: RunConfig) -> LatentGeometry:
        """Latent geometry: channels, ratios in time and space, valid numbers of frames."""
        return causal_geometry(_network(run).channels, TEMPORAL_RATIO, SPATIAL_RATIO)

    def texts(self, run: RunConfig) -> tuple[TextSpec, ...]:
        """The text inputs of the network: one, of T5."""
        return (TextSpec(_network(run).text_length, _network(run).text_width),)

    def inputs(self, run: RunConfig, size: ClipSize | None = None) -> SampleSpec:
        """Shapes of one sample's tensors. Here and below, `size` is that of the clip; None: the run's one size."""
        network = _network(run)
        return SampleSpec(
            latents={VIDEO: self.latent_shape(run, size)},
            texts=self.texts(run),
            image_latents=network.image_conditioned,
        )

    def latent_shape(self, run: RunConfig, size: ClipSize | None = None) -> tuple[int, int, int, int]:
        """(frames, channels, height, width) of the latents the network sees, frames padded to whole patches."""
        network = _network(run)
        channels, frames, height, width = self.geometry(run).fitting_shape(*(size or run.data.size))
        return padded_length(frames, network.patch_size_t), channels, height, width

    def tokens_per_sample(self, run: RunConfig, size: ClipSize | None = None) -> int:
        """Text and video tokens of one sample, without padding."""
        frames, _, height, width = self.latent_shape(run, size)
        return _network(run).text_length + math.prod(_network(run).grid(frames, height, width))

    def sequence_length(self, run: RunConfig, size: ClipSize | None = None) -> int:
        """Tokens of one sample, padded: what the pipeline's transfers are sized by."""
        return padded_sequence(run, self.tokens_per_sample(run, size))

    def flops_per_sample(self, run: RunConfig, size: ClipSize | None = None) -> float:
        """Model FLOPs of forward and backward pass, recomputation and gradients of frozen matrices not counted."""
        adaptation = run.adaptation
        if adaptation.lora_rank is None and not adaptation.freeze and not adaptation.train_only:
            return training_flops(_network(run), self.latent_shape(run, size))
        trained = freezing.trained_names(parameter_names(self, run), adaptation)
        return training_flops(_network(run), self.latent_shape(run, size), trained, adaptation.lora_rank or 0)

    def rounded_size(self, run: RunConfig, height: int, width: int) -> tuple[int, int]:
        """The nearest height and width in pixels that the network takes, one patch at least."""
        pixels = SPATIAL_RATIO * _network(run).patch_size
        return max(1, round(height / pixels)) * pixels, max(1, round(width / pixels)) * pixels

    def output_channels(self, run: RunConfig) -> int:
        """Channels that the network answers with."""
        return _network(run).out_channels

    def temporal_patch(self, network: CogVideoXConfig) -> int:
        """Number of latent frames in one token."""
        return network.patch_size_t

    def rows(self, network: CogVideoXConfig) -> list[Row]:
        """The whole network's weights with their shapes, adapters left out."""
        return our_rows(network)

    def sizes(self, network: CogVideoXConfig) -> dict[str, int]:
        """Values of the letters in the shapes of `rows`."""
        return sizes(network)

    def closest_preset(self, network: CogVideoXConfig) -> str:
        """The preset of the same kind that differs in the fewest fields; the tiny one only if it is the network."""
        return closest_preset(
            PRESETS,
            network,
            kind=("position", "patch_size_t", "in_channels", "ofs_embedding"),
            free=("text_length", "init_method_std", "final_norm_eps"),
            exact=("cogvideox-tiny",),
        )

    def default_sample(self, network: CogVideoXConfig) -> SampleSize:
        """The clips that a network's weights are for where nothing tells."""
        return default_sample(network)

    def sample_of(self, run: RunConfig) -> SampleSize:
        """The clips that a run's weights are for, as other formats state them."""
        return sample_of_run(run, _network(run))

    def clip_for(self, run: RunConfig, sample: SampleSize) -> ClipSize:
        """CogVideoX 1.5's tables are larger than any clip; the preset's clip stays where they hold it."""
        if tables_hold(_network(run), sample, run):
            return run.data.size
        return clip_of_sample(sample, self.geometry(run))

    def small_sample(self, network: CogVideoXConfig) -> SampleSpec:
        """A sample of few tokens; a learned table is for one height and width."""
        t, h, w = _SMALL_GRID if network.learned_position_grid is None else (1, *network.learned_position_grid[1:])
        shape = (t * network.patch_size_t, network.channels, h * network.patch_size, w * network.patch_size)
        text = TextSpec(network.text_length, network.text_width)
        return SampleSpec({VIDEO: shape}, (text,), image_latents=network.image_conditioned)

    def check(self, run: RunConfig, world: World) -> list[str]:
        """Everything about the network, its clip size and what of it is trained that cannot work."""
        return [
            *_check_network(_network(run)),
            *_check_layout(run),
            *self._check_clip(run),
            *freezing.check(self, run),
        ]

    def _check_clip(self, run: RunConfig) -> list[str]:
        """Errors of the run's own size, which evaluations and sampled videos have where there are buckets.

        The buckets' sizes go through `size_errors` in the data room.
        """
        pixels = SPATIAL_RATIO * _network(run).patch_size
        errors = [
            f"--{flag} {value}: accepted: multiples of {pixels} pixels"
            for flag, value in (("height", run.data.height), ("width", run.data.width))
            if value < pixels or value % pixels
        ]
        if errors or not self.geometry(run).takes(run.data.num_frames):  # the encoders' room names them
            return errors
        return self.size_errors(run, run.data.size)

    def size_errors(self, run: RunConfig, size: ClipSize) -> list[str]:
        """Why the network under its layout cannot be trained on a size of whole patches."""
        network = _network(run)
        errors: list[str] = []
        pixels = SPATIAL_RATIO * network.patch_size
        told = f"--height {size.height} --width {size.width} --num-frames {size.num_frames}"
        if network.learned_position_grid is not None:
            frames, _, height, width = self.latent_shape(run, size)
            t, h, w = network.grid(frames, height, width)
            learned = network.learned_position_grid
            if (h, w) != learned[1:] or t > learned[0]:
                errors.append(
                    f"{told}: {t} x {h} x {w} tokens, and the network has learned a position for each token of one "
                    f"size (--learned-position-grid {' '.join(map(str, learned))}); accepted: --height "
                    f"{learned[1] * pixels} --width {learned[2] * pixels} and at most --num-frames "
                    f"{self.geometry(run).frames_of(learned[0] * network.patch_size_t)}"
                )
        if run.parallel.cp_comm_type in ("p2p", "a2a+p2p") and run.parallel.context_parallel_size > 1:
            tokens, halves = self.tokens_per_sample(run, size), 2 * run.parallel.context_parallel_size
            if self.sequence_length(run, size) != tokens or tokens % halves:
                errors.append(
                    f"--cp-comm-type {run.parallel.cp_comm_type} with {told}: {tokens} tokens would need padding, "
                    f"which it cannot mask; accepted: a2a, all_gather, or tokens that divide by {halves}"
                )
        return errors


def _check_network(network: CogVideoXConfig) -> list[str]:
    errors = [refusal.message for refusal in refusals(network)]
    if errors:
        return errors
    if network.hidden_size % network.num_attention_heads:
        errors.append(
            f"--hidden-size {network.hidden_size}: does not divide by --num-attention-heads "
            f"{network.num_attention_heads}; accepted: a multiple of it"
        )
    elif network.position == "rotary" and network.head_dim % 16:
        errors.append(
            f"--num-attention-heads {network.num_attention_heads}: heads of {network.head_dim} features; rotary "
            "positions take multiples of 16"
        )
    if network.position == "sincos" and network.hidden_size % 16:
        errors.append(f"--hidden-size {network.hidden_size}: sincos positions take multiples of 16")
    latent = network.channels
    if network.in_channels not in (latent, 2 * latent):
        errors.append(
            f"--in-channels {network.in_channels}: accepted: {latent} (text to video) or {2 * latent} (with an image "
            "condition)"
        )
    if network.out_channels not in (latent, 2 * latent):
        errors.append(
            f"--out-channels {network.out_channels}: accepted: {latent}, the latent's, or {2 * latent} (with "
            "--predicted-variance)"
        )
    return errors


def _check_layout(run: RunConfig) -> list[str]:
    network, parallel = _network(run), run.parallel
    tp, cp = parallel.tensor_model_parallel_size, parallel.context_parallel_size
    errors: list[str] = []
    if min(tp, cp) < 1:
        return errors  # the parallel room names it
    if network.num_attention_heads % tp:
        errors.append(
            f"--tensor-model-parallel-size {tp}: {network.num_attention_heads} attention heads do not divide by it; "
            f"accepted: {_divisors(network.num_attention_heads)}"
        )
    elif parallel.cp_comm_type in ("a2a", "a2a+p2p") and cp > 1 and (network.num_attention_heads // tp) % cp:
        errors.append(
            f"--cp-comm-type {parallel.cp_comm_type}: {network.num_attention_heads // tp} heads on a tensor-parallel "
            f"rank do not divide by --context-parallel-size {cp}; accepted here: all_gather, auto"
        )
    return errors


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)


FAMILY = CogVideoXFamily()
