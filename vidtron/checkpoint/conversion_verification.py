"""Whether written weights are the source's: bit for bit, and as networks.

Shape letters: B samples, T C H W latent frames, channels, height, width.
"""

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vidtron.checkpoint.formats.base import ConversionError, WeightSource, with_settings
from vidtron.checkpoint.formats.weight_format import possessive
from vidtron.checkpoint.lora_adapters import Adapter, flags_of
from vidtron.checkpoint.lora_source import MergedSource
from vidtron.checkpoint.summary import summarized
from vidtron.checkpoint.tensor_files import TensorSpec
from vidtron.config.lora import AdaptationConfig
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.models.foreign import changed_settings, settings_in
from vidtron.models.inputs import Conditions, ModelInput, SampleSpec, TextInput
from vidtron.models.layers.checkpoint_rules import bits_equal
from vidtron.models.layers.lora import is_adapter
from vidtron.models.streamed import Streamed
from vidtron.parallel import initialized

_LAYER = "decoder.layers.0."
_LARGEST_RELATIVE_DIFFERENCE = 1e-3
_FPS = 8.0
"""Of the fixed sample, where a network is told."""


@dataclass
class ConversionVerification:
    """Result of comparing written weights with their source, and networks with both."""

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


def verified(
    source: WeightSource,
    written: WeightSource,
    specs: Mapping[str, TensorSpec],
    progress: Callable[[list[str]], Iterable[str]],
) -> ConversionVerification:
    """Compare what was written with what it was made of.

    Every tensor is converted back to the source's format; then vidtron's network (with merged adapters also beside the
    weights), and that of the package which one side's format is for, run on a small fixed input in fp32, one layer in
    memory at a time.

    Args:
        source: what was converted.
        written: what came out, read back.
        specs: our name -> type that was asked for.
        progress: wraps the list of tensors.

    Raises:
        ConversionError: there is a difference; the message names tensors that differ.
    """
    result = ConversionVerification()
    _compare_bits(source, written, specs, progress)
    changed = any(source.dtype(name) != spec.dtype for name, spec in specs.items())
    result.lines.append(
        f"{len(specs):,} tensors read back{' (types as asked)' if changed else ''}: equal in every bit"
    )
    if dist.is_available() and dist.is_initialized():
        result.lines.append("networks: not run within a distributed run")
        return result
    inputs = drawn_input(source.family.small_sample(source.network))
    before = our_output(source, inputs)
    settings = settings_in(source.network, source.family.foreign)
    after = our_output(written, inputs, settings)
    result.compare("vidtron's network, source and target weights", after, before, may_differ=changed)
    if isinstance(source, MergedSource):
        _compare_merging(source, inputs, before, result)
    foreign = next((side for side in (written, source) if side.foreign is not None and side.foreign.peer), None)
    if foreign is not None:
        _compare_peer(foreign, (source, written), inputs, result)
    return result


def _compare_peer(
    foreign: WeightSource, sides: tuple[WeightSource, WeightSource], inputs: ModelInput, result: ConversionVerification
) -> None:
    """Run the network of the package that one side's format is for, and ours with that format's settings."""
    model = foreign.foreign
    assert model is not None and model.peer is not None
    theirs = f"{possessive(model.peer)} network"
    if importlib.util.find_spec(model.peer) is None:
        result.lines.append(f"{theirs}: not run, the package {model.peer} is not installed")
        return
    other = our_output(foreign, inputs)
    fixed = ", ".join(f"{name} {value}" for name, value in model.settings.items())
    name = f"{theirs} and vidtron's{f' ({fixed})' if fixed else ''}"
    result.compare(name, model.peer_output(foreign.network, foreign.read, inputs), other)
    for side in sides:
        if changed := changed_settings(side.network, foreign.network, foreign.family.foreign):
            told = ", ".join(f"{name} {a} and {b}" for name, a, b in changed)
            mine = our_output(foreign, inputs, settings_in(side.network, foreign.family.foreign))
            result.compare(f"vidtron's network, {told}", mine, other, may_differ=True)


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


def _compare_merging(source: MergedSource, inputs: ModelInput, merged: Tensor, result: ConversionVerification) -> None:
    """Run the network with the adapters beside its weights."""
    name = "vidtron's network, adapters merged and beside the weights"
    adaptation = flags_of(source.adapters, source.family, source.network)
    if adaptation is None:
        result.lines.append(f"{name}: not run, the adapters differ from layer to layer")
        return
    rounded = any(source.dtype(row.ours) != torch.float32 for row in source.rows if source.adapted(row.ours))
    apart = our_output(source.weights, inputs, adapted=(source.adapters, adaptation))
    result.compare(f"{name}{' (rounded)' if rounded else ''}", merged, apart, may_differ=rounded)


def drawn_input(spec: SampleSpec) -> ModelInput:
    """A fixed sample: noisy latents, a timestep, and everything else that a network asks for.

    Args:
        spec: of the sample.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    noisy = {name: drawn(*shape) for name, shape in spec.latents.items()}
    texts = tuple(
        TextInput(
            drawn(text.length, text.width),
            # The last token is padding, so that a network which forgets the mask shows.
            torch.arange(text.length)[None] < max(1, text.length - 1) if text.masked else None,
            drawn(text.pooled_width) if text.pooled_width else None,
        )
        for text in spec.texts
    )
    conditions = Conditions(
        texts,
        drawn(*spec.video_TCHW) if spec.image_latents else None,
        torch.tensor([[spec.video_TCHW[0], *spec.video_TCHW[2:]]]) if spec.size else None,
        torch.tensor([_FPS]) if spec.size else None,
    )
    return ModelInput(noisy, torch.tensor([500]), conditions)


@torch.no_grad()
def our_output(
    weights: WeightSource,
    inputs: ModelInput,
    settings: Mapping[str, object] = MappingProxyType({}),
    adapted: tuple[Mapping[str, Adapter], AdaptationConfig] | None = None,
) -> Tensor:
    """Output of vidtron's network, fp32 [B, T, C, H, W].

    Args:
        weights: one layer of them is in memory at a time.
        inputs: the network's.
        settings: fields of its configuration, instead of the weights' own.
        adapted: adapters that stand beside the weights, and their flags.
    """
    adapters, adaptation = ({}, AdaptationConfig()) if adapted is None else adapted
    layers = weights.network.num_layers
    network = with_settings(weights.network, {**settings, "num_layers": 1})
    run = RunConfig(model=weights.model, network=network, adaptation=adaptation)

    def value(name: str) -> Tensor:
        module, _, half = name.rpartition(".")
        return getattr(adapters[module], half) if is_adapter(name) else weights.read(name)

    world = World(size=1, rank=0, local_rank=0, has_cuda=False)
    with initialized(run, world) as groups:
        chunk = weights.family.build(run, groups).eval()
        parameters = dict(chunk.named_parameters())

        def load(layer: int) -> None:
            for name, parameter in parameters.items():
                if name.startswith(_LAYER):
                    parameter.copy_(value(name.replace(_LAYER, f"decoder.layers.{layer}.", 1)))

        for name, parameter in parameters.items():
            if not name.startswith(_LAYER):
                parameter.copy_(value(name))
        only = chunk.decoder.layers[0]
        chunk.decoder.layers = nn.ModuleList([Streamed(only, partial(load, i)) for i in range(layers)])
        return chunk(inputs=inputs)
