"""All formats of weights: vidtron's own, and those that the known families have stated names for."""

from collections.abc import Callable
from pathlib import Path

from vidtron.checkpoint.formats.base import ConversionError, Preset, Reading, WeightSource
from vidtron.checkpoint.formats.config_folder import ConfigFolderFormat
from vidtron.checkpoint.formats.megatron import MegatronFormat
from vidtron.checkpoint.formats.sat import SAT
from vidtron.checkpoint.formats.single_file import SingleFileFormat
from vidtron.checkpoint.formats.weight_format import ForeignFormat, WeightFormat
from vidtron.models import registry
from vidtron.models.foreign import ConfigFolder, SingleFile

DIFFUSERS = ConfigFolderFormat("diffusers")
_OWN: tuple[WeightFormat, ...] = (SAT, DIFFUSERS, MegatronFormat())
"""The quickest to detect come last."""
_CONTAINERS: tuple[tuple[type, Callable[[str], ForeignFormat]], ...] = (
    (ConfigFolder, ConfigFolderFormat),
    (SingleFile, SingleFileFormat),
)
"""What a family states for a name that is no one's here -> the format of that name."""


def formats() -> dict[str, WeightFormat]:
    """Name -> format: vidtron's own, and all that the families state which are known by now (after --plugin)."""
    found: dict[str, WeightFormat] = {format.name: format for format in _OWN}
    for family in registry.families():
        for name, model in family.foreign.items():
            container = next((made for kind, made in _CONTAINERS if isinstance(model, kind)), None)
            if name not in found and container is not None:
                found[name] = container(name)
    return found


def format_named(name: str, flag: str) -> WeightFormat:
    """The format of that name. Raises ValueError, naming the flag: there is none."""
    found = formats()
    if name not in found:
        raise ValueError(f"{flag} {name}: accepted: {', '.join(found)}")
    return found[name]


def detect_format(path: str | Path) -> str | None:
    """Name of the format of a folder or file, by its marker files or its header; None if it is none of them.

    Raises:
        ConversionError: a `config.json` in it is damaged.
    """
    path = Path(path)
    if not path.exists():
        return None
    order = [*reversed(_OWN), *(format for format in formats().values() if format not in _OWN)]
    return next((format.name for format in order if format.detects(path)), None)


def open_weights(
    path: str | Path,
    format: str | None = None,
    *,
    model: str | None = None,
    network: Preset | None = None,
    ema: bool | str = False,
    fp32: bool = False,
    trust_pickle: bool = False,
    adapters: bool = False,
) -> WeightSource:
    """Open weights for reading.

    Args:
        path: of a checkpoint.
        format: its name; told by its marker files unless given.
        model: preset of the network; else the checkpoint tells.
        network: a preset's name, and a network that differs from it, instead of `model`.
        ema: the averages of the weights instead of them; a name where a checkpoint has several.
        fp32: take the fp32 weights of a bf16 run's optimizer where there are any.
        trust_pickle: open `.pt` files that need more than tensors and plain values.
        adapters: there may be LoRA adapters beside the weights; they are left out (`lora_source.open_merged` takes
            them in).

    Raises:
        ConversionError: it is no checkpoint, is damaged, or does not fit its network: the message tells in which
            sizes, layers and tensors; or it has adapters.
        ValueError: there is no such preset or format.
    """
    path = Path(path)
    preset = network if model is None else (model, registry.preset(model).network)
    if not path.exists():
        raise ConversionError(f"--load {path}: does not exist")
    name = format or detect_format(path)
    if name is None:
        raise ConversionError(f"--load {path}: no checkpoint; accepted: a folder of {', '.join(formats())}")
    source = format_named(name, "--load-format").open(path, preset, Reading(ema, fp32, trust_pickle))
    if source.adapter_shapes and not adapters:
        raise ConversionError(
            f"--load {path}: LoRA adapters stand beside its weights ({len(source.adapter_shapes)} tensors, "
            f"{next(iter(source.adapter_shapes))} ...); accepted: the base checkpoint, or the two merged by "
            "tools/convert_checkpoint.py"
        )
    return source
