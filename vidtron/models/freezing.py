"""Which weights of a model are trained: by patterns on their names in the whole model."""

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Any

from megatron.core.tensor_parallel import ColumnParallelLinear
from torch import nn

from vidtron.config.errors import ConfigurationError
from vidtron.config.lora import AdaptationConfig
from vidtron.config.run import RunConfig
from vidtron.models.family import Family
from vidtron.models.layers.initialization import global_names
from vidtron.models.layers.lora import is_adapter
from vidtron.models.lora_targets import parameter_names


def check(family: Family, run: RunConfig) -> list[str]:
    """Errors in a run's flags of adapters and of frozen weights."""
    try:
        names = parameter_names(family, run)
    except ValueError as error:
        return [str(error)]
    return errors(names, run.adaptation)


def errors(names: Sequence[str], adaptation: AdaptationConfig) -> list[str]:
    """Errors in `--freeze`, `--train-only` and `--save-lora-only` for a model with parameters `names`."""
    found = []
    for flag, patterns in (("freeze", adaptation.freeze), ("train-only", adaptation.train_only)):
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                kinds = {re.sub(r"[0-9]+", "*", name): name for name in reversed(names)}  # one of all layers
                near = difflib.get_close_matches(pattern, kinds.values(), n=3, cutoff=0.0)
                found.append(f"--{flag} {pattern}: no weight has such a name; accepted: for example {', '.join(near)}")
    if found:
        return found
    trained = trained_names(names, adaptation)
    if not trained:
        flags = " and ".join(f"--{n.replace('_', '-')}" for n in ("train_only", "freeze") if getattr(adaptation, n))
        found.append(f"{flags}: nothing is left to train; accepted: patterns that leave a weight to train")
    if adaptation.save_lora_only and adaptation.lora_rank is not None and not all(map(is_adapter, trained)):
        found.append(
            "--save-lora-only: --train-only trains weights that are not adapters, and they would be lost; accepted: "
            "one of the two"
        )
    return found


def trained_names(names: Iterable[str], adaptation: AdaptationConfig) -> set[str]:
    """The names that are trained: all, or those of `--train-only` and the adapters, without those of `--freeze`."""

    def matches(name: str, patterns: list[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    def is_trained(name: str) -> bool:
        if matches(name, adaptation.freeze):
            return False
        if adaptation.lora_rank is not None and is_adapter(name):
            return True
        if adaptation.train_only or adaptation.lora_rank is not None:
            return matches(name, adaptation.train_only)
        return True

    return {name for name in names if is_trained(name)}


def freeze(chunk: nn.Module, adaptation: AdaptationConfig) -> None:
    """Take the gradients from the frozen weights of a model chunk, before it is wrapped for data parallelism."""
    named = list(global_names(chunk))
    trained = trained_names((n.name for n in named), adaptation)
    for n in named:
        n.parameter.requires_grad_(n.name in trained)
    for module in chunk.modules():
        _let_bias_train(module)


def _let_bias_train(module: Any) -> None:
    """mcore's linear map with a frozen weight gives a bias that it adds itself no gradient
    (tensor_parallel/layers.py, LinearWithFrozenWeight): then whoever calls it adds the bias."""
    bias = getattr(module, "bias", None)
    if bias is None or not bias.requires_grad or module.weight.requires_grad:
        return
    if isinstance(module, ColumnParallelLinear):
        module.skip_bias_add = True
    elif not getattr(module, "te_return_bias", True):
        raise ConfigurationError(
            [
                "--train-only: trains the bias of a linear map and not its weight, which Transformer Engine's layers "
                "do not; accepted: both, or --transformer-impl local"
            ]
        )
