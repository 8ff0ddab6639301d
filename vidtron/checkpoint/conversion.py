"""Weights from one format to another, tensor by tensor."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from vidtron.checkpoint import conversion_verification
from vidtron.checkpoint.conversion_verification import ConversionVerification
from vidtron.checkpoint.finiteness import NotFinite, refuse_overflow
from vidtron.checkpoint.formats import WeightFormat, format_named, open_weights
from vidtron.checkpoint.formats.base import DTYPES, Content, ConversionError
from vidtron.checkpoint.formats.weight_format import possessive
from vidtron.checkpoint.lora_source import LORA_MODES, LoraMode, open_merged
from vidtron.checkpoint.publishing import published, refuse_existing
from vidtron.checkpoint.tensor_files import TensorSpec
from vidtron.config.network import NetworkConfig
from vidtron.config.storage import writing
from vidtron.models.foreign import changed_settings

Progress = Callable[[list[str]], Iterable[str]]


@dataclass
class Conversion:
    """Result of a conversion."""

    model: str
    """Preset of the network's kind."""
    network: NetworkConfig
    """As the target's format runs it."""
    tensors: int
    """Tensors of vidtron's network."""
    parameters: int
    notes: list[str] = field(default_factory=list)
    """What the user should know, one line each."""
    warnings: list[str] = field(default_factory=list)
    """What may be wrong, one line each: weights that are not finite, a network guessed from the tensors."""
    verification: ConversionVerification | None = None
    """With `verify`."""


def convert(
    load: str | Path,
    save: str | Path,
    *,
    load_format: str | None = None,
    save_format: str,
    model: str | None = None,
    dtype: str | None = None,
    ema: bool | str = False,
    lora: LoraMode = "merge",
    lora_base: str | Path | None = None,
    lora_alpha: float | None = None,
    verify: bool = False,
    sat_model_parallel_size: int = 1,
    sat_version: str | None = None,
    overwrite: bool = False,
    trust_pickle: bool = False,
    verify_checkpoint: bool = True,
    progress: Progress = lambda names: names,
    warn: Callable[[str], object] = lambda warning: None,
) -> Conversion:
    """Convert a checkpoint's weights.

    Tensors are read, converted and written one at a time: memory stays near the largest few of them. The target gets
    its name when it is complete (and, with `verify`, found right). Values that are not finite are converted as they
    are, and a warning tells where they stand.

    Args:
        load: checkpoint: a SAT folder (with `latest`, or of a tag), a diffusers folder (a pipeline's or its
            transformer/), a run folder or one of its iter_* folders, a file of another format.
        save: the new folder; a run folder for megatron; for a format of one file also a name ending in .safetensors.
        load_format: sat, diffusers, megatron or one that a family has stated (`formats`); told by the files unless
            given.
        save_format: likewise.
        model: preset of the network, where the checkpoint does not tell it.
        dtype: fp32, bf16 or fp16; each tensor keeps its own unless given. fp32 takes the fp32 weights of the optimizer
            of a bf16 run where the checkpoint has them.
        ema: the averages of the weights instead of them; a name where a checkpoint has several.
        lora: merge the LoRA adapters of a checkpoint into its weights, or drop them.
        lora_base: where the base weights of a checkpoint of adapters alone lie, if not where it says.
        lora_alpha: of the adapters, instead of what the checkpoint says.
        verify: read back what was written, compare it with the source bit for bit, and run both networks.
        sat_model_parallel_size: ranks that a SAT target is split for.
        sat_version: 1.0 or 1.5, the code a SAT target is for; by the network unless given.
        overwrite: replace an existing target.
        trust_pickle: open `.pt` files that need more than tensors and plain values.
        verify_checkpoint: compare the files of a run's checkpoint with their checksums before.
        progress: wraps the list of tensors, for a progress bar.
        warn: gets each of the result's warnings as soon as it is known.

    Raises:
        ConversionError: the source is no checkpoint, damaged, or does not fit its network (the message tells in which
            sizes, layers and tensors), fp16 cannot hold its values, or the verification finds a difference.
        FileExistsError: the target exists.
        StorageError: the target cannot be written; nothing is left of it.
        ValueError: an argument is none of the accepted.
    """
    load, save = Path(load), Path(save)
    format = format_named(save_format, "--save-format")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"--dtype {dtype}: accepted: {', '.join(DTYPES)}")
    if lora not in LORA_MODES:
        raise ValueError(f"--lora {lora}: accepted: {', '.join(LORA_MODES)}")
    _refuse_overlap(load, save)
    refuse_existing(save, overwrite=overwrite)
    source = open_merged(
        load,
        load_format,
        model=model,
        ema=ema,
        dtype=dtype,
        trust_pickle=trust_pickle,
        lora=lora,
        lora_base=None if lora_base is None else Path(lora_base),
        lora_alpha=lora_alpha,
        verify=verify_checkpoint,
    )
    for place in source.places:
        _refuse_overlap(place, save)
    network = format.network(source.model, source.network)
    notes = [
        f"{name} is {theirs} in the source and {ours} in {possessive(save_format)} network: outputs change "
        "slightly (--verify says by how much)"
        for name, theirs, ours in changed_settings(source.network, network, source.family.foreign)
    ]
    letters = source.family.sizes(network)
    specs = {
        row.ours: TensorSpec(row.our_shape(letters), source.dtype(row.ours) if dtype is None else DTYPES[dtype])
        for row in source.rows
    }
    result = Conversion(
        model=source.model,
        network=network,
        tensors=len(specs),
        parameters=sum(spec.nbytes // spec.dtype.itemsize for spec in specs.values()),
        notes=[*source.notes, *notes],
    )

    def tell(warnings: list[str]) -> None:
        result.warnings += warnings
        for warning in warnings:
            warn(warning)

    tell(source.warnings)
    content = Content(source.model, network, specs, source.sample, source.extras)
    options = {"sat_model_parallel_size": sat_model_parallel_size, "sat_version": sat_version}
    not_finite = NotFinite()
    advice = "make room there; nothing is left of this attempt"
    with published(save, overwrite=overwrite, only=format.file_for(save)) as folder:
        with writing(save, advice):
            target = format.target(folder, content, options)
        for name in progress(list(specs)):
            tensor = source.read(name)
            not_finite.look_at(name, tensor, source)
            written_tensor = cast(tensor, specs[name])
            refuse_overflow(name, tensor, written_tensor)
            with writing(save, advice):
                target.write(name, written_tensor)
        tell(not_finite.warnings(load))
        with writing(save, advice):
            target.finish()
        result.notes += getattr(target, "notes", [])
        _read_back(folder, save, format, content)
        if verify:
            written = open_weights(folder, save_format, model=model)
            result.verification = conversion_verification.verify(source, written, specs, progress)
    return result


def _read_back(folder: Path, save: Path, format: WeightFormat, content: Content) -> None:
    """Raise ConversionError if what was written cannot be opened, or is not of the announced shapes and dtypes."""
    specs = content.specs
    try:
        written = format.read_back(folder, content)
        wrong = [f"{name}: {written.dtype(name)}" for name, spec in specs.items() if written.dtype(name) != spec.dtype]
    except ValueError as error:  # ConversionError and UnreadableFileError are such
        told = str(error).replace(str(folder), str(save))
        raise ConversionError(f"--save {save}: what was written cannot be read back: {told}") from error
    if wrong:
        raise ConversionError(f"--save {save}: written in another type: {', '.join(wrong[:8])}")


def cast(tensor: Tensor, spec: TensorSpec) -> Tensor:
    """The tensor in the dtype of `spec`, rounded to nearest."""
    return tensor.to(spec.dtype)


def _refuse_overlap(load: Path, save: Path) -> None:
    source, target = load.resolve(), save.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise ConversionError(f"--save {save}: lies within {load}, or the other way round; accepted: elsewhere")
