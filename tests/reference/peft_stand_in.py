"""The few functions of PEFT that diffusers' LoRA loader calls, with PEFT's meaning of r, alpha and their patterns.

For test environments without PEFT: the loader itself, with its reading of headers and names, is diffusers' own.
Source: peft.LoraConfig, peft.tuners.lora.layer, peft.utils.other.get_pattern_key.
"""

import re
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import nn


@dataclass
class LoraConfig:
    """Those fields of PEFT's that say something about plain LoRA; any other is a TypeError, as there."""

    r: int = 8
    lora_alpha: float = 8
    target_modules: list[str] | None = None
    lora_dropout: float = 0.0
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)


class BaseTunerLayer:
    """Marks adapted layers."""


class Linear(nn.Module, BaseTunerLayer):
    """y = W x + B A x * alpha / r."""

    def __init__(self, base: nn.Linear, r: int, alpha: float):
        super().__init__()
        self.base_layer, self.scaling = base, alpha / r
        self.lora_A = nn.Linear(base.in_features, r, bias=False)
        self.lora_B = nn.Linear(r, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x)) * self.scaling


def _of_pattern(patterns: dict[str, Any], module: str, default: Any) -> Any:
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def inject_adapter_in_model(config: LoraConfig, model: nn.Module, **_: Any) -> nn.Module:
    for name, module in list(model.named_modules()):
        if any(name == target or name.endswith(f".{target}") for target in config.target_modules or ()):
            r = _of_pattern(config.rank_pattern, name, config.r)
            parent, _, attribute = name.rpartition(".")
            adapted = Linear(module, r, _of_pattern(config.alpha_pattern, name, config.lora_alpha))
            setattr(model.get_submodule(parent), attribute, adapted)
    return model


def set_peft_model_state_dict(model: nn.Module, state_dict: dict[str, torch.Tensor], *_: Any, **__: Any) -> Any:
    incompatible = model.load_state_dict(state_dict, strict=False)
    missing = [key for key in incompatible.missing_keys if ".lora_" in key]
    if incompatible.unexpected_keys or missing:
        raise KeyError(f"unexpected: {incompatible.unexpected_keys}; missing: {missing}")
    return incompatible


def modules() -> dict[str, ModuleType]:
    """What to put into `sys.modules`."""
    peft, tuners, utils = (ModuleType(name) for name in ("peft", "peft.tuners", "peft.tuners.tuners_utils"))
    here = sys.modules[__name__]
    for name in ("LoraConfig", "inject_adapter_in_model", "set_peft_model_state_dict"):
        setattr(peft, name, getattr(here, name))
    utils.BaseTunerLayer = BaseTunerLayer  # type: ignore[attr-defined]
    peft.tuners, tuners.tuners_utils = tuners, utils  # type: ignore[attr-defined]
    return {module.__name__: module for module in (peft, tuners, utils)}
