"""Convert adapters (LoRA) between SAT, diffusers and this trainer.

    python tools/convert_lora.py --load-format megatron --load RUN --save-format diffusers --save FOLDER

To train on adapters of another tool, give their file to pretrain_video.py --lora-load.
"""

from vidtron.config import signals

if __name__ == "__main__":
    signals.listen_for_end()

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from vidtron.checkpoint import (
    CheckpointError,
    ConversionError,
    inspect,
    open_weights,
    resolve_checkpoint,
)
from vidtron.checkpoint import (
    refusals as damage,
)
from vidtron.checkpoint.formats.base import DTYPES
from vidtron.checkpoint.lora_adapters import cast
from vidtron.checkpoint.lora_diffusers import write_diffusers
from vidtron.checkpoint.lora_formats import Format, read_with_family
from vidtron.checkpoint.lora_sat import write_sat, write_sat_with_base
from vidtron.config.errors import exit_with
from vidtron.config.folders import folder_error
from vidtron.config.program import parse_arguments
from vidtron.config.ranges import Range, refusals, shown
from vidtron.models.registry import family_of, preset_names, with_plugins


@dataclass
class Arguments:
    """Convert adapters (LoRA)."""

    load: Path
    """megatron: a run folder or iter_* folder; diffusers: a safetensors file or folder; sat: a folder or .pt file."""
    load_format: Format
    """Format of --load."""
    save: Path
    """Folder to write to; for diffusers also a file ending in .safetensors."""
    save_format: Literal["sat", "diffusers"]
    """Format of --save."""
    model: str | None = None
    """A preset of the models that the adapters are for, where their names are those of several families."""
    lora_alpha: Annotated[float, Range(0, 1_000_000, above=True)] | None = None
    """Alpha of the adapters, where --load does not tell it right."""
    lora_fold_scale: bool = False
    """Multiply B by what a loader would have to be told: alpha becomes the rank (diffusers) or 1 (SAT)."""
    base: Path | None = None
    """sat: the weights that the adapters belong to, a checkpoint of any format. SAT's inference wants them in the same
    file."""
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    """Of the written tensors; unset: as they are."""
    overwrite: bool = False
    """Replace an existing file."""
    verify_checkpoint: bool = True
    """megatron: compare the files of --load with their checksums before."""
    trust_pickle: bool = False
    """sat: read files that hold more than tensors; they may run code."""


def main() -> None:
    """Parse the command line, read adapters and write them. Exits with status 2 where that is refused."""
    arguments = parse_arguments(Arguments, with_plugins(sys.argv[1:]), __doc__)
    refused = [refusal.message for refusal in refusals(arguments)]
    if arguments.model is not None and arguments.model not in preset_names():
        refused.append(f"--model {shown(arguments.model)}: accepted: {', '.join(preset_names())}")
    if refused:
        exit_with(refused, 0)
    problem = folder_error(arguments.save.parent)
    if problem is not None:
        exit_with([f"--save {shown(str(arguments.save))}: {problem}"], 0)
    try:
        family, adapters = read_with_family(
            arguments.load,
            arguments.load_format,
            family=None if arguments.model is None else family_of(arguments.model),
            alpha=arguments.lora_alpha,
            trust_pickle=arguments.trust_pickle,
            verify=arguments.verify_checkpoint,
        )
        dtype = None if arguments.dtype is None else DTYPES[arguments.dtype]
        if dtype is not None:
            adapters = cast(adapters, dtype)
        if arguments.base is not None and arguments.save_format != "sat":
            raise CheckpointError("--base: diffusers has weights and adapters apart; accepted: --save-format sat")
        options = {"fold_scale": arguments.lora_fold_scale, "overwrite": arguments.overwrite}
        if arguments.save_format == "diffusers":
            file = write_diffusers(adapters, arguments.save, family, **options)
            told = "load_lora_weights takes it at adapter weight 1.0"
        else:
            file = arguments.save
            if arguments.base is None:
                alpha = write_sat(adapters, arguments.save, family, **options)
            else:
                base = resolve_checkpoint(arguments.base)
                if base is not None and arguments.verify_checkpoint and (errors := damage([inspect(base)])):
                    raise CheckpointError("\n".join(errors))
                weights = open_weights(arguments.base, trust_pickle=arguments.trust_pickle, adapters=True)
                for warning in weights.warnings:
                    print(f"warning: {warning}", file=sys.stderr)
                alpha = write_sat_with_base(adapters, weights, arguments.save, dtype=dtype, **options)
            told = f"the YAML of SAT needs r: {next(iter(adapters.values())).rank}, lora_alpha: {alpha:g}"
    except (CheckpointError, ConversionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{file}: {len(adapters)} adapters; {told}")


if __name__ == "__main__":
    signals.run_tool(main, "nothing was written")
