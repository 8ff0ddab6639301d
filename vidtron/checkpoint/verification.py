"""Whether written weights are the source's: bit for bit, and as networks.

Shape letters: B samples, T C H W latent frames, channels, height, width, L text tokens, E text width.
"""

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vidtron.checkpoint.formats.base import ConversionError, WeightSource
from vidtron.checkpoint.lora_adapters import Adapter, flags_of
from vidtron.checkpoint.lora_source import MergedSource
from vidtron.checkpoint.summary import summarized
from vidtron.checkpoint.tensor_files import TensorSpec
from vidtron.config.lora import AdaptationConfig
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.models import registry
from vidtron.models.cogvideox.checkpoint_names import POSITIONS, diffusers_rows, our_rows
from vidtron.models.cogvideox.checkpoint_tables import SampleSize
from vidtron.models.cogvideox.config import TEMPORAL_RATIO, CogVideoXConfig
from vidtron.models.cogvideox.family import CogVideoXFamily
from vidtron.models.cogvideox.foreign_configs import DIFFUSERS_FINAL_NORM_EPS, to_diffusers
from vidtron.models.cogvideox.model import OFS_VALUE
from vidtron.models.inputs import ModelInput
from vidtron.models.layers.checkpoint_rules import bits_equal
from vidtron.models.layers.lora import is_adapter
from vidtron.parallel import initialized

_LAYER, _BLOCK = "decoder.layers.0.", "transformer_blocks.0."
_LARGEST_RELATIVE_DIFFERENCE = 1e-3
_SMALL_GRID = (2, 3, 4)
"""Tokens in time, height and width of the input."""


@dataclass
class Verification:
    """What was compared."""

    lines: list[str] = field(default_factory=list)
    differences: dict[str, float] = field(default_factory=dict)
    """Pair of networks -> largest difference of their outputs."""

    def compare(self, name: str, a: Tensor, b: Tensor, *, may_differ: bool = False) -> None:
        """Note the largest difference of two outputs.

        Raises:
            ConversionError: it is not rounding, and not `may_differ`.
        """
        unusable = ~a.isfinite() & ~b.isfinite()  # of weights that are not finite
        largest = float((a - b).abs().masked_fill(unusable, 0.0).max())
        size = float(b.abs().masked_fill(unusable, 0.0).max())
        self.differences[name] = largest
        self.lines.append(f"{name}: largest difference {largest:.2g} (outputs up to {size:.2g})")
        if unusable.any():
            self.lines[-1] += f"; {int(unusable.sum()):,} of {a.numel():,} outputs of both are not finite"
        if not may_differ and not largest <= _LARGEST_RELATIVE_DIFFERENCE * size:
            raise ConversionError(f"--verify: {self.lines[-1]}")


def verify(
    source: WeightSource,
    written: WeightSource,
    specs: Mapping[str, TensorSpec],
    progress: Callable[[list[str]], Iterable[str]],
) -> Verification:
    """Compare what was written with what it was made of.

    Every tensor is converted back to the source's format; then vidtron's network (with merged adapters also beside the
    weights), and diffusers' where one side is diffusers, run on a small fixed input in fp32, one layer in memory at a
    time.

    Args:
        source: what was converted.
        written: what came out, read back.
        specs: our name -> type that was asked for.
        progress: wraps the list of tensors.

    Raises:
        ConversionError: there is a difference; the message names tensors that differ.
    """
    result = Verification()
    _compare_bits(source, written, specs, progress)
    changed = any(source.dtype(name) != spec.dtype for name, spec in specs.items())
    result.lines.append(
        f"{len(specs):,} tensors read back{' (types as asked)' if changed else ''}: equal in every bit"
    )
    if dist.is_available() and dist.is_initialized():
        result.lines.append("networks: not run within a distributed run")
        return result
    inputs = small_input(source.network)
    eps = source.network.final_norm_eps
    before = our_output(source, inputs, eps)
    result.compare(
        "vidtron's network, source and target weights", our_output(written, inputs, eps), before, may_differ=changed
    )
    if isinstance(source, MergedSource):
        _compare_merging(source, inputs, before, result)
    foreign = next((side for side in (written, source) if side.format == "diffusers"), None)
    if foreign is None:
        return result
    if importlib.util.find_spec("diffusers") is None:
        result.lines.append("diffusers' network: not run, the package diffusers is not installed")
        return result
    other = our_output(foreign, inputs, DIFFUSERS_FINAL_NORM_EPS)
    name = f"diffusers' network and vidtron's (final norm's epsilon {DIFFUSERS_FINAL_NORM_EPS:g})"
    result.compare(name, diffusers_output(foreign, inputs), other)
    for side in (source, written):
        if side is not foreign and side.network.final_norm_eps != DIFFUSERS_FINAL_NORM_EPS:
            pair = f"vidtron's network, epsilon {side.network.final_norm_eps:g} and {DIFFUSERS_FINAL_NORM_EPS:g}"
            result.compare(pair, our_output(foreign, inputs, side.network.final_norm_eps), other, may_differ=True)
    return result


def _compare_bits(
    source: WeightSource,
    written: WeightSource,
    specs: Mapping[str, TensorSpec],
    progress: Callable[[list[str]], Iterable[str]],
) -> None:
    different = []
    for ours in progress(list(specs)):
        row = source.rule_row(ours)
        back = row.rule.to_theirs(written.read(ours), source.network)
        for (name, expected), tensor in zip(source.parts(ours).items(), back, strict=True):
            if not bits_equal(expected.to(specs[ours].dtype), tensor):
                different.append(name)
    if different:
        raise ConversionError(
            f"--verify: {len(different)} tensors are not what they were in {source.path}\n"
            + "\n".join(summarized([f"{name}: differs" for name in different]))
        )


def _compare_merging(source: MergedSource, inputs: ModelInput, merged: Tensor, result: Verification) -> None:
    """Run the network with the adapters beside its weights."""
    name = "vidtron's network, adapters merged and beside the weights"
    adaptation = flags_of(source.adapters, registry.family_of(source.model), source.network)
    if adaptation is None:
        result.lines.append(f"{name}: not run, the adapters differ from layer to layer")
        return
    rounded = any(source.dtype(row.ours) != torch.float32 for row in source.rows if source.adapted(row.ours))
    eps = source.network.final_norm_eps
    apart = our_output(source.weights, inputs, eps, (source.adapters, adaptation))
    result.compare(f"{name}{' (rounded)' if rounded else ''}", merged, apart, may_differ=rounded)


def small_input(network: CogVideoXConfig) -> ModelInput:
    """Fixed noisy latents, timesteps, text, and image latents where the network takes them."""
    generator = torch.Generator().manual_seed(0)
    t, h, w = _SMALL_GRID
    if network.learned_position_grid is not None:  # a learned table is for one height and width
        t, h, w = 1, *network.learned_position_grid[1:]
    patch = network.patch_size
    shape = (1, t * network.patch_size_t, network.channels, h * patch, w * patch)
    return ModelInput.of(
        torch.randn(shape, generator=generator),
        torch.tensor([500]),
        torch.randn(1, network.text_length, network.text_width, generator=generator),
        image_latents_BTCHW=torch.randn(shape, generator=generator) if network.image_conditioned else None,
    )


class _Streamed(nn.Module):
    """A layer whose weights are put into the one layer in memory when it runs."""

    def __init__(self, layer: nn.Module, load: Callable[[], None]):
        super().__init__()
        self.layer, self.load = layer, load
        self.layer_number = 1

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.load()
        return self.layer(*args, **kwargs)


@torch.no_grad()
def our_output(
    weights: WeightSource,
    inputs: ModelInput,
    eps: float,
    adapted: tuple[Mapping[str, Adapter], AdaptationConfig] | None = None,
) -> Tensor:
    """Output of vidtron's network, fp32 [B, T, C, H, W].

    Args:
        weights: one layer of them is in memory at a time.
        inputs: the network's.
        eps: the final norm's.
        adapted: adapters that stand beside the weights, and their flags.
    """
    adapters, adaptation = ({}, AdaptationConfig()) if adapted is None else adapted
    layers = weights.network.num_layers
    run = RunConfig(
        model=weights.model,
        network=dataclasses.replace(weights.network, num_layers=1, final_norm_eps=eps),
        adaptation=adaptation,
    )

    def value(name: str) -> Tensor:
        module, _, half = name.rpartition(".")
        return getattr(adapters[module], half) if is_adapter(name) else weights.read(name)

    world = World(size=1, rank=0, local_rank=0, has_cuda=False)
    with initialized(run, world) as groups:
        chunk = CogVideoXFamily().build(run, groups).eval()
        parameters = dict(chunk.named_parameters())

        def load(layer: int) -> None:
            for name, parameter in parameters.items():
                if name.startswith(_LAYER):
                    parameter.copy_(value(name.replace(_LAYER, f"decoder.layers.{layer}.", 1)))

        for name, parameter in parameters.items():
            if not name.startswith(_LAYER):
                parameter.copy_(value(name))
        only = chunk.decoder.layers[0]
        chunk.decoder.layers = nn.ModuleList([_Streamed(only, partial(load, i)) for i in range(layers)])
        return chunk(inputs=inputs)


@torch.no_grad()
def diffusers_output(weights: WeightSource, inputs: ModelInput) -> Tensor:
    """Output of diffusers' network, fp32 [B, T, C, H, W].

    It is configured for clips of the input's size: for fewer frames than `sample_frames` diffusers replaces a learned
    position table by the fixed one (models/embeddings.py, CogVideoXPatchEmbed); here it gets that table's first rows.
    """
    from diffusers import CogVideoXTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    network = weights.network
    single = dataclasses.replace(network, num_layers=1)
    latents, conditions = inputs.noisy_BTCHW, inputs.conditions
    sample = SampleSize((latents.shape[1] - 1) * TEMPORAL_RATIO + 1, *latents.shape[3:])
    model = CogVideoXTransformer3DModel.from_config(to_diffusers(single, sample)).eval()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    rows = {row.ours: row for row in diffusers_rows(network)}

    def load(ours: str) -> None:
        row = rows[ours]
        for name, tensor in zip(row.theirs, row.rule.to_theirs(weights.read(ours), network), strict=True):
            target = tensors[re.sub(r"^transformer_blocks\.\d+\.", _BLOCK, name)]
            target.copy_(tensor[:, : target.shape[1]] if ours == POSITIONS else tensor)

    def load_layer(layer: int) -> None:
        for row in our_rows(network):
            if row.ours.startswith(f"decoder.layers.{layer}."):
                load(row.ours)

    for row in our_rows(network):
        if not row.ours.startswith("decoder.layers."):
            load(row.ours)
    only = model.transformer_blocks[0]
    model.transformer_blocks = nn.ModuleList(
        [_Streamed(only, partial(load_layer, i)) for i in range(network.num_layers)]
    )
    t, h, w = network.grid(latents.shape[1], latents.shape[3], latents.shape[4])
    rotary = None
    if network.position == "rotary":
        rotary = get_3d_rotary_pos_embed(
            network.head_dim, None, (h, w), t, grid_type="slice", max_size=(h, w), device=torch.device("cpu")
        )
    if conditions.image_latents_BTCHW is not None:
        latents = torch.cat((latents, conditions.image_latents_BTCHW), dim=2)
    return model(
        hidden_states=latents,
        encoder_hidden_states=conditions.texts[0].states_BLE,
        timestep=inputs.timesteps,
        ofs=torch.full((1,), OFS_VALUE) if network.ofs_embedding else None,
        image_rotary_emb=rotary,
    ).sample
