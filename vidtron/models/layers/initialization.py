"""Initial weights that depend on the seed and a parameter's name alone, never on the layout."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from vidtron.parallel.randomness import named_generator

Rule = Callable[[Tensor, torch.Generator], object]
"""Fills a whole (unsplit) fp32 tensor in place."""


def normal(std: float) -> Rule:
    """Rule: normal distribution of mean 0 and deviation `std`."""
    return lambda tensor, generator: tensor.normal_(0.0, std, generator=generator)


def xavier_uniform(fan_in: int, fan_out: int) -> Rule:
    """Rule: U(-b, b) with b = sqrt(6 / (fan_in + fan_out))."""
    return uniform(math.sqrt(6.0 / (fan_in + fan_out)))


def uniform(bound: float) -> Rule:
    """U(-bound, bound); with bound = 1 / sqrt(fan_in) it is torch's default for linear layers."""
    return lambda tensor, generator: tensor.uniform_(-bound, bound, generator=generator)


def constant(value: float) -> Rule:
    """Rule: every element is `value`."""
    return lambda tensor, generator: tensor.fill_(value)


@dataclass(frozen=True)
class NamedParameter:
    """A parameter of this rank under its name in the whole model."""

    name: str
    parameter: nn.Parameter


def global_names(chunk: nn.Module, block: str = "decoder") -> Iterable[NamedParameter]:
    """The parameters of a model chunk, `{block}.layers.I.` counted over the whole model from 0."""
    prefix = f"{block}.layers."
    layers = chunk.get_submodule(f"{block}.layers")
    for name, parameter in chunk.named_parameters():
        if name.startswith(prefix):
            local, rest = name[len(prefix) :].split(".", 1)
            name = f"{prefix}{layers[int(local)].layer_number - 1}.{rest}"  # type: ignore[index,operator]
        yield NamedParameter(name, parameter)


def mark_sections(parameter: nn.Parameter, sections: int) -> None:
    """Say that the split dimension holds so many sections, of which each rank of the TP group has its part (gate and
    value of a gated MLP)."""
    parameter.partition_sections = sections  # type: ignore[attr-defined]


def own_part(whole: Tensor, parameter: nn.Parameter, tp: ProcessGroup) -> Tensor:
    """The part of a whole tensor that a rank of the TP group holds as its parameter."""
    if tp.size() == 1 or not getattr(parameter, "tensor_model_parallel", False):
        return whole
    dim = parameter.partition_dim  # type: ignore[attr-defined]
    sections = whole.chunk(getattr(parameter, "partition_sections", 1), dim)
    return torch.cat([section.chunk(tp.size(), dim)[tp.rank()] for section in sections], dim)


@torch.no_grad()
def initialize(chunk: nn.Module, rule_for: Callable[[str], Rule], *, seed: int, tp: ProcessGroup) -> None:
    """Fill every parameter of `chunk`: the whole tensor is drawn in fp32 on the CPU, then this rank's part taken."""
    for named in global_names(chunk):
        parameter = named.parameter
        shape = list(parameter.shape)
        if getattr(parameter, "tensor_model_parallel", False):
            shape[parameter.partition_dim] *= tp.size()  # type: ignore[attr-defined]
        whole = torch.empty(shape, dtype=torch.float32)
        rule_for(named.name)(whole, named_generator(seed, named.name))
        parameter.copy_(own_part(whole, parameter, tp))
