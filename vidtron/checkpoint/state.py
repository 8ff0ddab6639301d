"""What a checkpoint holds of a run, and how it goes back into a model and its optimizer."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories

from vidtron.parallel import Groups, gather_objects

Part = Callable[[str], bool]
"""Which of a model's weights, by their global names, a checkpoint holds or is asked for."""


def everything(name: str) -> bool:
    """Selects every weight: the default of `part` in loading."""
    return True


# Entries of an optimizer's parameter groups that are state; all others are settings.
_GROUP_STATE = ("params", "step")
# What makes two parameter groups the same group, whatever the learning rates are.
_GROUP_IDENTITY = ("wd_mult", "lr_mult", "is_expert_parallel", "is_decoupled_lr")


CONTENT: dict[str, Any] = {
    # Optimizer state in the shapes of the parameters, so that every layout can load it.
    "distrib_optim_sharding_type": "fully_reshardable",
    "chained_optim_avoid_prefix": True,
    # Layer 7's weights under `layers.7.`, not as row 7 of a tensor that holds all layers.
    "non_homogeneous_layers": True,
}
"""The form of the state: one tensor for each parameter under its global name, whatever the layout."""


def content_metadata(groups: Groups) -> dict[str, Any]:
    """The `content_metadata` with which megatron-core writes and reads the parts of a run."""
    return {**CONTENT, "dp_cp_group": groups.dp_cp}


def bare(chunk: Any) -> Any:
    """The model chunk inside the wrappers of data parallelism and half precision."""
    while hasattr(chunk, "module"):
        chunk = chunk.module
    return chunk


def model_keys(chunks: Sequence[Any]) -> list[str]:
    """Key of each model chunk in the state."""
    return ["model"] if len(chunks) == 1 else [f"model{index}" for index in range(len(chunks))]


def sharded_state(
    chunks: Sequence[Any], optimizer: Any | None, groups: Groups, *, is_loading: bool, part: Part = everything
) -> dict[str, Any]:
    """Model, or a part of it, and optimizer as megatron-core's sharded tensors."""
    metadata = content_metadata(groups)
    models = {
        key: {name: v for name, v in bare(chunk).sharded_state_dict(metadata=metadata).items() if part(v.key)}
        for key, chunk in zip(model_keys(chunks), chunks, strict=True)
    }
    if optimizer is None:
        return models
    optimizer_state = optimizer.sharded_state_dict(models, is_loading=is_loading, metadata=metadata)
    if not is_loading:
        _agree_on_step(optimizer_state, groups)
    return {**models, "optimizer": optimizer_state}


def _agree_on_step(optimizer_state: dict[str, Any], groups: Groups) -> None:
    """Tell the optimizer's step to the ranks that train nothing and so have none: rank 0 saves it, and may be one."""
    torch_state = optimizer_state.get("optimizer", optimizer_state)
    holders = [(group, "step") for group in torch_state["param_groups"]]
    holders += [(torch_state["state"], "common_step")] if "state" in torch_state else []
    everybody = gather_objects([holder.get(key) for holder, key in holders], groups.world)
    for (holder, key), steps in zip(holders, zip(*everybody, strict=True), strict=True):
        if not holder.get(key):
            known = next((step for step in steps if step), None)
            if known is not None:
                holder[key] = known


def model_state(state: dict[str, Any], chunks: Sequence[Any]) -> dict[str, Any]:
    """The model's part of a state."""
    return {key: state[key] for key in model_keys(chunks)}


@torch.no_grad()
def nonfinite_weights(state: Any, groups: Groups) -> list[str]:
    """Keys of the tensors of a sharded state that hold NaN or infinity on any rank; the same on all of them."""
    found: dict[str, Any] = {}
    for tensor in nested_values(extract_sharded_tensors_and_factories({"state": state})[0]):
        data = tensor.data
        if data is not None and data.is_floating_point() and data.numel():
            # The largest magnitude is NaN if one element is; it needs no second tensor of that size.
            size = torch.linalg.vector_norm(data.detach(), math.inf).float()
            found[tensor.key] = torch.maximum(found[tensor.key], size) if tensor.key in found else size
    largest = torch.stack(list(found.values())).tolist() if found else []
    own = [key for key, size in zip(found, largest, strict=True) if not math.isfinite(size)]
    return sorted({key for keys in gather_objects(own, groups.world) for key in keys})


def once_each(state: Any, seen: set[Any] | None = None) -> Any:
    """A sharded state without what an earlier chunk of the same rank has already: modules that every stage has.

    megatron-core, when it divides the writing over data-parallel ranks, takes a tensor's name and place for its
    identity, and would have the rank write both copies (strategies/fully_parallel.py:454, 0.16.1).

    Args:
        state: nested dicts and lists.
        seen: names and places so far.
    """
    known = set() if seen is None else seen

    def is_new(value: Any) -> bool:
        if not isinstance(value, ShardedTensor):
            return True
        place = (value.key, value.global_offset)
        is_known = place in known
        known.add(place)
        return not is_known

    if isinstance(state, dict):
        return {key: once_each(value, known) for key, value in state.items() if is_new(value)}
    if isinstance(state, list):
        return [once_each(value, known) for value in state if is_new(value)]
    return state


def restore(
    loaded: dict[str, Any],
    chunks: Sequence[Any],
    optimizer: Any | None,
    scheduler: Any | None,
    part: Part = everything,
) -> None:
    """Put a loaded state into model, or a part of it, optimizer and scheduler.

    Settings - learning rates, weight decay, betas - stay those of this run's configuration.
    """
    for key, chunk in zip(model_keys(chunks), chunks, strict=True):
        bare(chunk).load_state_dict(loaded[key], strict=part is everything)
    if optimizer is not None:
        state = loaded["optimizer"]
        torch_state = state.get("optimizer", state)  # the fp32 optimizer keeps torch's state as its own
        _use_current_settings(torch_state["param_groups"], optimizer.param_groups)
        optimizer.load_state_dict(state)
    if scheduler is not None:
        scheduler.num_steps = 0  # load_state_dict adds the checkpoint's to it
        scheduler.load_state_dict(loaded["scheduler"])


def _use_current_settings(loaded_groups: list[dict[str, Any]], current_groups: list[dict[str, Any]]) -> None:
    def identity(group: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(group.get(key) for key in _GROUP_IDENTITY)

    settings = {
        identity(group): {key: value for key, value in group.items() if key not in _GROUP_STATE}
        for group in current_groups
    }
    for group in loaded_groups:
        group.update(settings.get(identity(group), {}))


def tensor_shapes(state: Any) -> dict[str, tuple[int, ...]]:
    """Name in the checkpoint -> global shape, for each sharded tensor of a nested state."""
    if isinstance(state, ShardedTensor):
        return {state.key: tuple(state.global_shape)}
    if isinstance(state, ShardedTensorFactory):
        state = state.build()
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, list | tuple):
        return {key: shape for value in state for key, shape in tensor_shapes(value).items()}
    return {}
