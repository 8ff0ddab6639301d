"""vidtron: pretraining and fine-tuning of video diffusion transformers on megatron-core."""

import logging
import warnings

# What megatron-core's modules say on every rank of things that no user of ours can change: that they do without
# Transformer Engine and apex (`--transformer-impl` decides about that, and the run says once what it uses), that a
# default of theirs is deprecated, that they call functions of torch by their old names.
for message, module in (
    ("(Transformer Engine and )?Apex (is|are) not installed", "megatron"),
    ("full scope is deprecated", "megatron"),
    (r"`torch\.distributed\.\w+` is deprecated", "torch"),
):
    warnings.filterwarnings("ignore", message=message, module=module)

# torch says so when its tools for extensions are imported (by megatron-core) where a CUDA toolkit is installed and no
# GPU is there: nothing is compiled, and the run says which device it uses.
logging.getLogger("torch.utils.cpp_extension").addFilter(
    lambda record: not str(record.msg).startswith("No CUDA runtime is found")
)

__version__ = "0.1.0"
