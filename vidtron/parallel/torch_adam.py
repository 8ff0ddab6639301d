"""Repairs to megatron-core's distributed optimizer over torch's AdamW: four defects of its checkpoints.

They appear, on CPU and GPU, wherever neither Transformer Engine nor apex brings its own Adam: torch's keeps a `step`
tensor per parameter, which the distributed optimizer (optimizer/distrib_optimizer.py) handles in part only.
Line numbers are those of megatron-core 0.16.1.
"""

import functools
from typing import Any

import torch
from megatron.core.optimizer import distrib_optimizer

_repaired = False


def repair() -> None:
    """Make checkpoints of the distributed optimizer load. Does nothing with Transformer Engine or apex."""
    global _repaired
    if _repaired or distrib_optimizer.HAVE_APEX_OR_TE:
        return
    _repaired = True
    cls = distrib_optimizer.DistributedOptimizer
    for name, wrap in (
        ("sharded_state_dict", _with_state_to_load_into),
        ("_set_main_param_and_optimizer_states", _keeping_the_step),
        ("load_state_dict", _with_a_step_per_parameter),
        ("state_dict", _without_parameters),
    ):
        setattr(cls, name, wrap(getattr(cls, name)))


def _with_state_to_load_into(original: Any) -> Any:
    """state_dict (line 642) asserts that all parameters agree on one step; a fresh optimizer has none."""

    @functools.wraps(original)
    def sharded_state_dict(self: Any, model_state: Any, is_loading: bool = False, *args: Any, **kwargs: Any) -> Any:
        state = self.optimizer.state
        if is_loading and not state and isinstance(self.optimizer, torch.optim.Adam):
            for group in self.optimizer.param_groups:
                for param in group["params"]:
                    moments = {name: torch.zeros_like(param) for name in ("exp_avg", "exp_avg_sq")}
                    state[param] = {"step": torch.tensor(0.0), **moments}
        return original(self, model_state, is_loading, *args, **kwargs)

    return sharded_state_dict


def _keeping_the_step(original: Any) -> Any:
    """Line 940 copies every entry of a parameter's state from the checkpoint, but `step` is not stored with them."""

    @functools.wraps(original)
    def set_states(self: Any, model_param: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        group, order = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        if "step" in state and "step" not in tensors:
            tensors = {**tensors, "step": state["step"].clone()}
        original(self, model_param, tensors)

    return set_states


def _with_a_step_per_parameter(original: Any) -> Any:
    """Line 827 gives one `step` tensor to all parameters; AdamW adds 1 to it for each of them in every step."""

    @functools.wraps(original)
    def load_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        original(self, state_dict)
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"] = state["step"].clone()

    return load_state_dict


def _without_parameters(original: Any) -> Any:
    """Line 642 again: a rank whose weights are all frozen has no step. Zero stands for it."""

    @functools.wraps(original)
    def state_dict(self: Any) -> dict[str, Any]:
        groups = self.optimizer.param_groups
        if any(group["params"] for group in groups):
            return original(self)
        settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        return {"optimizer": {"param_groups": [{**group, "step": 0.0} for group in settings]}}

    return state_dict
