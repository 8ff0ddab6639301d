"""Saving and loading a run in megatron-core's torch_dist format.

Every rank writes its share of the tensors under their global names, so that a checkpoint of one layout is read by any
other.
"""

import warnings
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.dist_checkpointing.strategies.torch import (
    TorchDistLoadShardedStrategy,
    TorchDistSaveShardedStrategy,
)

from vidtron.checkpoint import folders, integrity, manifest
from vidtron.checkpoint.average_names import average_of_key
from vidtron.checkpoint.averages import (
    Averages,
    requested_averages,
    restore_average,
    sharded_averages,
    take_average,
)
from vidtron.checkpoint.full_state import averages_in, tensor_shapes_on_disk
from vidtron.checkpoint.state import (
    Part,
    content_metadata,
    everything,
    model_state,
    nonfinite_weights,
    once_each,
    restore,
    sharded_state,
    tensor_shapes,
)
from vidtron.checkpoint.writing import adapt_writing, take_checksums
from vidtron.parallel import Groups, any_rank, barrier, gather_objects
from vidtron.parallel.mcore_versions import async_save_arguments

_OPTIMIZER_PREFIX = "optimizer."
NO_AVERAGES: Averages = MappingProxyType({})


class CheckpointError(RuntimeError):
    """A checkpoint cannot be loaded into this run."""


class CheckpointWriter:
    """Writes a run's checkpoints. All ranks make one, and call its methods together."""

    def __init__(
        self,
        run_dir: Path,
        groups: Groups,
        *,
        config_yaml: str = "",
        async_save: bool = False,
        keep_latest: int | None = None,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        """
        Args:
            run_dir: gets the `iter_*` folders.
            groups: the run's process groups.
            config_yaml: the run's configuration, kept in each checkpoint.
            async_save: write in the background; a save is complete after `maybe_finalize` or `finalize` says so.
            keep_latest: after each save, delete all but so many checkpoints, and the newest with finite weights.
            say: is told on each rank of what the user should know of a save.
        """
        self.run_dir = run_dir
        self.groups = groups
        self.config_yaml = config_yaml
        self.async_save = async_save
        self.keep_latest = keep_latest
        self._say = say
        self._calls = AsyncCallsQueue(persistent=False)
        adapt_writing()

    def save(
        self,
        iteration: int,
        chunks: Sequence[Any],
        optimizer: Any | None,
        scheduler: Any | None,
        state: dict[str, Any],
        averages: Averages = NO_AVERAGES,
        part: Part = everything,
    ) -> None:
        """Save the run after `iteration` steps; with `async_save`, only begin to.

        Args:
            iteration: names the folder.
            chunks: this rank's model chunks, wrapped or bare.
            optimizer: megatron-core's optimizer.
            scheduler: megatron-core's `OptimizerParamScheduler`.
            state: plain numbers, strings, lists and dicts, the same on all ranks.
            averages: of the weights, as this rank holds them.
            part: the weights to save, with all that is trained among them.
        """
        self.finalize()
        unfinished = self._begin(iteration)
        content = sharded_state(chunks, optimizer, self.groups, is_loading=False, part=part)
        content["ema"] = sharded_averages(averages, model_state(content, chunks))
        nonfinite = nonfinite_weights([*model_state(content, chunks).values(), content["ema"]], self.groups)
        content = once_each(content)
        content["state"] = state
        content[manifest.MANIFEST_KEY] = folders.MANIFEST_FILE
        if scheduler is not None:
            content["scheduler"] = scheduler.state_dict()
        request = dist_checkpointing.save(
            content,
            str(unfinished),
            sharded_strategy=self._strategy(),
            async_sharded_save=self.async_save,
            content_metadata=content_metadata(self.groups),
            **async_save_arguments(),
        )
        publish = partial(self._publish, unfinished, nonfinite)
        if request is None:
            publish()
        else:
            request.add_finalize_fn(publish)
            self._calls.schedule_async_request(request)

    def maybe_finalize(self) -> bool:
        """Complete a background save that all ranks have written; returns whether one was. Called every step."""
        return bool(self._calls.maybe_finalize_async_calls(blocking=False))

    def finalize(self) -> None:
        """Wait for a background save and complete it."""
        self._calls.maybe_finalize_async_calls(blocking=True)

    def _strategy(self) -> Any:
        # One file for each rank, written by one process.
        strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1)
        if self.groups.dp_cp.size() == 1:
            return strategy
        return FullyParallelSaveStrategyWrapper(strategy, self.groups.dp_cp)

    def _begin(self, iteration: int) -> Path:
        path = [folders.begin(self.run_dir, iteration)] if self.groups.rank == 0 else [None]
        dist.broadcast_object_list(path, 0, group=self.groups.world, device=self.groups.device)
        assert path[0] is not None
        return path[0]

    def _publish(self, unfinished: Path, nonfinite: list[str]) -> None:
        checksums = gather_objects(take_checksums(unfinished), self.groups.world)
        if self.groups.rank == 0:
            if self.config_yaml:
                (unfinished / folders.CONFIG_FILE).write_text(self.config_yaml, encoding="utf-8")
            known = {name: entry for part in checksums for name, entry in part.items()}
            manifest.write(unfinished, known, finite=not nonfinite)
            path = folders.publish(unfinished)
            if nonfinite:
                self._say(
                    f"WARNING: {path} holds weights that are not finite, in {len(nonfinite)} of its tensors "
                    f"({nonfinite[0]} first); --keep-latest spares the newest checkpoint without such"
                )
            if self.keep_latest is not None:
                finite = integrity.newest_finite(self.run_dir, path)
                folders.prune(self.run_dir, self.keep_latest, path, spared=finite)
        barrier(self.groups)


def load(
    path: Path,
    chunks: Sequence[Any],
    optimizer: Any | None,
    scheduler: Any | None,
    groups: Groups,
    averages: Averages = NO_AVERAGES,
    part: Part = everything,
) -> dict[str, Any]:
    """Load a checkpoint, saved on any layout, into model, optimizer and scheduler; returns the plain state.

    Args:
        path: an `iter_*` folder.
        chunks: this rank's model chunks, wrapped or bare.
        optimizer: None loads the weights only.
        scheduler: None leaves the schedule.
        groups: the run's process groups.
        averages: of the weights, to be loaded too; other averages in the checkpoint are left out.
        part: the weights to load; the others keep their values, and are left out where the checkpoint has them.

    Raises:
        CheckpointError: it is not complete, or does not have the tensors of this run; the message names them all.
    """
    request = sharded_state(chunks, optimizer, groups, is_loading=True, part=part)
    averages_request = requested_averages(averages, model_state(request, chunks))
    _check_tensors(path, [request, averages_request], groups, averages, part, with_optimizer=optimizer is not None)
    for average, parts in averages.items():
        for tensor in averages_request[average].values():
            tensor.init_data("cpu")
        # A rank that trains nothing asks for nothing, and mcore leaves what is empty out.
        restore_average(_read(path, {"ema": averages_request.pop(average)}, groups).get("ema", {}), parts)
    loaded = _read(path, request, groups)
    restore(loaded, chunks, optimizer, scheduler, part)
    return loaded["state"]


def load_average(
    path: Path, chunks: Sequence[Any], average: str, groups: Groups, part: Part = everything
) -> dict[str, Any]:
    """Load an average of the weights in place of the weights, for sampling; returns the plain state.

    Weights that were not trained have no average and are loaded themselves.

    Args:
        path: an `iter_*` folder.
        chunks: this rank's model chunks, wrapped or bare.
        average: its name, as `averages_in` gives it.
        groups: the run's process groups.
        part: the weights to load.

    Raises:
        CheckpointError: it is not complete, does not have the average, or is of another model.
    """
    request = sharded_state(chunks, None, groups, is_loading=True, part=part)
    _check_tensors(path, request, groups, NO_AVERAGES, part, with_optimizer=False)
    known = averages_in(path)
    if average not in known:
        raise CheckpointError(f"{path}: no average {average}; accepted: {', '.join(known) or 'none, it has no EMA'}")
    take_average(request, average, tensor_shapes_on_disk(path).keys())
    loaded = _read(path, request, groups)
    restore(loaded, chunks, None, None, part)
    return loaded["state"]


def _read(path: Path, request: dict[str, Any], groups: Groups) -> dict[str, Any]:
    """What is asked for, in place of the sharded tensors that ask for it."""
    strategy: Any = TorchDistLoadShardedStrategy()
    if groups.dp_cp.size() > 1:
        strategy = FullyParallelLoadStrategyWrapper(strategy, groups.dp_cp)
    with warnings.catch_warnings():
        # megatron-core 0.16.1 calls torch's function by its old name (strategies/torch.py:799).
        warnings.filterwarnings("ignore", message="`load_state_dict` is deprecated", category=FutureWarning)
        return dist_checkpointing.load(request, str(path), sharded_strategy=strategy)


def _check_tensors(
    path: Path, request: Any, groups: Groups, averages: Collection[str], part: Part, *, with_optimizer: bool
) -> None:
    """Compare what all ranks ask for with what is there."""
    if not folders.is_complete(path):
        raise CheckpointError(f"--load {path}: not a complete checkpoint; accepted: an iter_* folder of a run")
    stored = {
        key: shape
        for key, shape in tensor_shapes_on_disk(path).items()
        if (average := average_of_key(key)) in averages
        or (average is None and (key.startswith(_OPTIMIZER_PREFIX) or part(key)))
    }
    gathered = gather_objects(tensor_shapes(request), groups.world)
    wanted = {key: shape for shapes in gathered for key, shape in shapes.items()}
    problems = [f"{key}: not in the checkpoint" for key in sorted(wanted.keys() - stored.keys())]
    problems += [
        f"{key}: in the checkpoint, but not in this run"
        for key in sorted(stored.keys() - wanted.keys())
        if with_optimizer or not key.startswith(_OPTIMIZER_PREFIX)
    ]
    problems += [
        f"{key}: shape {list(stored[key])} in the checkpoint, {list(wanted[key])} in this run"
        for key in sorted(wanted.keys() & stored.keys())
        if wanted[key] != stored[key]
    ]
    if any_rank(bool(problems), groups):
        advice = (
            "accepted: the same model, and the same --optimizer, --bf16 and --use-distributed-optimizer"
            if with_optimizer
            else "accepted: the same model"
        )
        raise CheckpointError(f"--load {path}: {len(problems)} tensors differ; {advice}\n" + "\n".join(problems))
