"""vidtron: pretraining and fine-tuning of video diffusion transformers on megatron-core."""

import logging
import warnings
from functools import partial

# What megatron-core's modules say on every rank of things that no user of ours can change: that they do without
# Transformer Engine and apex (`--transformer-impl` decides about that, and the run says once what it uses), that a
# default of theirs is deprecated or a part that nobody asked for experimental, that they call functions of torch by
# their old names and in their old ways, that each rank reads a checkpoint's plain state for itself.
for message, module in (
    ("(Transformer Engine and )?Apex (is|are) not installed", "megatron"),
    ("full scope is deprecated", "megatron"),
    (r"\w+ is experimental and still under active development", "megatron"),
    (r"`torch\.distributed\.\w+` is deprecated", "torch"),
    ("The argument order of load has been changed", "torch"),
    ("torch.distributed is disabled, unavailable or uninitialized", "torch"),
):
    warnings.filterwarnings("ignore", message=message, module=module)


def _says_something_else(beginning: str, record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(beginning)


# The same of what is logged: how megatron-core 0.19 takes the spec of an MLP, and that background saves have a second
# implementation, in a package of its own. torch tells of a CUDA toolkit without a GPU when its tools for extensions
# are imported (by megatron-core): nothing is compiled, and the run says which device it uses. What a background writer
# of 0.19 says of its own failure the run says on one line, with the path and what to do.
for name, beginning in (
    ("megatron.core.transformer.transformer_layer", "Rewrapping ModuleSpec"),
    ("megatron.core.dist_checkpointing.strategies.torch", "MCore's async save is deprecated"),
    ("megatron.core.dist_checkpointing.strategies.filesystem_async", "An error is caught while starting worker"),
    ("torch.utils.cpp_extension", "No CUDA runtime is found"),
):
    logging.getLogger(name).addFilter(partial(_says_something_else, beginning))

__version__ = "0.1.0"
