"""Averages of the weights (EMA) in a checkpoint: fp32 tensors `ema.<average>.<weight>` beside `<weight>`.

What is no trained weight - frozen, or a buffer - has no average.

megatron-core's distributed optimizer gives each data-parallel rank a run of a weight's elements, which is no box of
the tensor. The averages lie as the optimizer's masters do, and each rank writes its own run as the few boxes that make
it up, without communication. Loading asks for whole weights, one average at a time, and keeps the own runs.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, is_main_replica
from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories

from vidtron.checkpoint.ema_names import ema_key

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and extents."""


@dataclass(frozen=True)
class EmaPart:
    """The run of a weight's elements whose average a rank holds."""

    weight: torch.Tensor
    """This rank's (tensor-parallel) part of the model's weight."""
    first: int
    """Where the run begins in it, row by row."""
    values: torch.Tensor
    """The average, float32 [length of the run]; the run is empty where another rank has the whole weight."""
    copy: int | None
    """Parts of a weight over data-parallel ranks: which copy of them this is (copy 0 is written). None: each rank has
    the whole weight's average."""


EmaState = Mapping[str, Sequence[EmaPart]]
"""Name of the average -> what of it this rank holds."""


def boxes(first: int, stop: int, shape: tuple[int, ...]) -> Iterator[Box]:
    """The boxes that together are the elements [first, stop) of a tensor, row by row; in that order."""
    if first == stop:
        return
    if len(shape) < 2:
        yield ((first,), (stop - first,)) if shape else ((), ())
        return
    row = math.prod(shape[1:])
    whole = range(-(-first // row), stop // row)
    if whole.start > whole.stop:  # it begins and ends within one row
        yield from _in_row(whole.stop, first % row, stop % row, shape)
        return
    if first % row:
        yield from _in_row(first // row, first % row, row, shape)
    if whole:
        yield (whole.start, *[0] * (len(shape) - 1)), (len(whole), *shape[1:])
    yield from _in_row(whole.stop, 0, stop % row, shape)


def _in_row(row: int, first: int, stop: int, shape: tuple[int, ...]) -> Iterator[Box]:
    for offsets, extents in boxes(first, stop, shape[1:]):
        yield (row, *offsets), (1, *extents)


def sharded_ema(ema: EmaState, models: Mapping[str, Any]) -> dict[str, dict[int, ShardedTensor]]:
    """The averages as megatron-core's sharded tensors, to be written.

    Args:
        ema: averages that this rank holds.
        models: sharded state of the rank's model chunks.
    """
    weights = _sharded_weights(models)
    return {
        average: dict(
            enumerate(tensor for part in parts for tensor in _written(average, part, weights[id(part.weight)]))
        )
        for average, parts in ema.items()
    }


def requested_ema(ema: EmaState, models: Mapping[str, Any]) -> dict[str, dict[int, list[ShardedTensor]]]:
    """Requests for loading averages: the pieces of whole weights, numbered as the parts are; memory is still to be
    given to them."""
    weights = _sharded_weights(models)
    return {
        average: {
            number: [_sharded(average, piece, data=None) for _, piece in _pieces(weights[id(part.weight)])]
            for number, part in enumerate(parts)
        }
        for average, parts in ema.items()
    }


def restore_ema(loaded: Mapping[int, Sequence[torch.Tensor]], parts: Sequence[EmaPart]) -> None:
    """Put the loaded weights of one average into its parts."""
    for number, part in enumerate(parts):
        whole = torch.cat([piece.view(-1) for piece in loaded[number]])
        part.values.copy_(whole[part.first : part.first + part.values.numel()])


def _sharded_weights(models: Mapping[str, Any]) -> dict[int, Any]:
    """id of a weight -> how it is saved."""
    tensors, _ = extract_sharded_tensors_and_factories(dict(models))
    return {id(tensor.data): tensor for tensor in nested_values(tensors)}


def _pieces(weight: Any) -> Iterator[tuple[int, ShardedTensor]]:
    """Runs of rows of a weight that are saved each by themselves, and where they begin in it, row by row.

    Most weights are one; megatron-core saves gate and value of a gated MLP apart (transformer/mlp.py:276, 0.16.1).
    """
    begin = 0
    for piece in [weight] if isinstance(weight, ShardedTensor) else weight.build():
        yield begin, piece
        begin += math.prod(piece.local_shape)


def _sharded(average: str, weight: ShardedTensor, data: torch.Tensor | None) -> ShardedTensor:
    """An average's tensor in the place of the weight."""
    return replace(weight, key=ema_key(average, weight.key), data=data, dtype=torch.float32)


def _written(average: str, part: EmaPart, weight: Any) -> Iterator[ShardedTensor]:
    """What this rank writes of a weight's average, or would write if it were asked to."""
    for begin, piece in _pieces(weight):
        end = begin + math.prod(piece.local_shape)
        first, stop = max(part.first, begin), min(part.first + part.values.numel(), end)
        if first < stop or not math.prod(piece.local_shape):
            values = part.values[first - part.first : max(first, stop) - part.first]
            yield from _written_piece(average, replace(part, first=first - begin, values=values), piece)


def _written_piece(average: str, part: EmaPart, weight: ShardedTensor) -> Iterator[ShardedTensor]:
    if part.copy is None:
        yield _sharded(average, weight, part.values.view(weight.local_shape))
        return
    replica = (*weight.replica_id[:2], part.copy)
    if not is_main_replica(replica):
        return  # another rank's boxes may begin at the same place and end elsewhere
    whole = _sharded(average, weight, None)
    begin, prepended = 0, whole.prepend_axis_num
    for offsets, extents in boxes(part.first, part.first + part.values.numel(), whole.local_shape):
        end = begin + math.prod(extents)
        inner = (a + b for a, b in zip(whole.global_offset[prepended:], offsets, strict=True))
        yield replace(
            whole,
            data=part.values[begin:end].view(extents),
            local_shape=extents,
            global_offset=(*whole.global_offset[:prepended], *inner),
            axis_fragmentations=None,  # the boxes are no regular grid
            replica_id=replica,
        )
        begin = end


def take_ema(models: Mapping[str, Any], average: str, stored: Collection[str]) -> None:
    """Let the sharded state of model chunks be loaded from an average, where a weight has one.

    Args:
        models: changed in place.
        average: its name.
        stored: all keys of the checkpoint.
    """
    tensors, _ = extract_sharded_tensors_and_factories(dict(models))
    for tensor in nested_values(tensors):
        key = ema_key(average, tensor.key)
        if key in stored:
            tensor.key = key
