"""Formats of weights, told by what lies in a folder, and opened for reading tensor by tensor."""

from pathlib import Path
from typing import Literal, get_args

from vidtron.checkpoint.formats.base import ConversionError, WeightSource, WeightTarget
from vidtron.checkpoint.formats.diffusers import DiffusersSource, transformer_folder
from vidtron.checkpoint.formats.megatron import (
    MegatronSource,
    checkpoint_folder,
    configuration_beside,
    holds_weights_only,
)
from vidtron.checkpoint.formats.sat import SatSource
from vidtron.checkpoint.formats.sat_files import is_sat
from vidtron.models import registry
from vidtron.models.cogvideox.config import CogVideoXConfig

Format = Literal["sat", "diffusers", "megatron"]
FORMATS: tuple[Format, ...] = get_args(Format)

__all__ = [
    "FORMATS",
    "ConversionError",
    "Format",
    "WeightSource",
    "WeightTarget",
    "configuration_beside",
    "detect_format",
    "holds_weights_only",
    "open_weights",
]


def detect_format(path: str | Path) -> Format | None:
    """The format of a folder or file, by its marker files; None if it is none of them.

    Raises:
        ConversionError: a `config.json` in it is damaged.
    """
    path = Path(path)
    if checkpoint_folder(path) is not None:
        return "megatron"
    if path.is_dir() and transformer_folder(path) is not None:
        return "diffusers"
    return "sat" if path.exists() and is_sat(path) else None


def open_weights(
    path: str | Path,
    format: Format | None = None,
    *,
    model: str | None = None,
    network: tuple[str, CogVideoXConfig] | None = None,
    ema: bool | str = False,
    fp32: bool = False,
    trust_pickle: bool = False,
    adapters: bool = False,
) -> WeightSource:
    """Open weights for reading.

    Args:
        path: of a checkpoint.
        format: told by its marker files unless given.
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
        ValueError: there is no such preset.
    """
    path = Path(path)
    preset = network if model is None else (model, registry.preset(model).network)
    if not path.exists():
        raise ConversionError(f"--load {path}: does not exist")
    source = _open(path, format or detect_format(path), preset, ema, fp32, trust_pickle)
    if source.adapter_shapes and not adapters:
        raise ConversionError(
            f"--load {path}: LoRA adapters stand beside its weights ({len(source.adapter_shapes)} tensors, "
            f"{next(iter(source.adapter_shapes))} ...); accepted: the base checkpoint, or the two merged by "
            "tools/convert_checkpoint.py"
        )
    return source


def _open(
    path: Path,
    format: Format | None,
    preset: tuple[str, CogVideoXConfig] | None,
    ema: bool | str,
    fp32: bool,
    trust_pickle: bool,
) -> WeightSource:
    match format:
        case "sat":
            return SatSource(path, preset=preset, ema=bool(ema), trust_pickle=trust_pickle)
        case "diffusers":
            if ema:
                raise ConversionError("--ema: a diffusers folder holds one set of weights; accepted: without it")
            return DiffusersSource(path, preset=preset)
        case "megatron":
            return MegatronSource(path, preset=preset, ema=ema, fp32=fp32)
        case _:
            raise ConversionError(f"--load {path}: no checkpoint; accepted: a folder of {', '.join(FORMATS)}")
