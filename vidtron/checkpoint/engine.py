"""Saving and loading a run in megatron-core's torch_dist format.

Every rank writes its share of the tensors under their global names, so that a checkpoint of one layout is read by any
other.
"""

import os
import warnings
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.dist_checkpointing.strategies.torch import (
    TorchDistLoadShardedStrategy,
    TorchDistSaveShardedStrategy,
)
from torch.distributed.checkpoint.api import CheckpointException

from vidtron.checkpoint import folders, integrity, manifest
from vidtron.checkpoint.ema import (
    EmaState,
    requested_ema,
    restore_ema,
    sharded_ema,
    take_ema,
)
from vidtron.checkpoint.ema_names import ema_of_key
from vidtron.checkpoint.errors import CheckpointError
from vidtron.checkpoint.failures import in_background, kept_failure, reason_not_saved
from vidtron.checkpoint.full_state import ema_names_in, tensor_shapes_on_disk
from vidtron.checkpoint.reading import adapt_reading, common_strategy, loading
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
from vidtron.checkpoint.summary import summarized
from vidtron.checkpoint.writing import adapt_writing, take_checksums
from vidtron.config.storage import StorageError, writing
from vidtron.parallel import Groups, any_rank, barrier, gather_objects, on_first_rank
from vidtron.parallel.mcore_versions import async_save_arguments

_OPTIMIZER_PREFIX = "optimizer."
NO_EMA: EmaState = MappingProxyType({})


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
        self._unfinished: Path | None = None
        adapt_writing()

    def save(
        self,
        iteration: int,
        chunks: Sequence[Any],
        optimizer: Any | None,
        scheduler: Any | None,
        state: dict[str, Any],
        ema: EmaState = NO_EMA,
        part: Part = everything,
    ) -> None:
        """Save the run after `iteration` steps; with `async_save`, only begin to.

        Args:
            iteration: names the folder.
            chunks: this rank's model chunks, wrapped or bare.
            optimizer: megatron-core's optimizer.
            scheduler: megatron-core's `OptimizerParamScheduler`.
            state: plain numbers, strings, lists and dicts, the same on all ranks.
            ema: averages of the weights, as this rank holds them.
            part: the weights to save, with all that is trained among them.

        Raises:
            StorageError: this save or the one before it cannot be written, on all ranks; nothing is left of it.
        """
        self.finalize()
        unfinished = self._begin(iteration)
        content = sharded_state(chunks, optimizer, self.groups, is_loading=False, part=part)
        content["ema"] = sharded_ema(ema, model_state(content, chunks))
        nonfinite = nonfinite_weights([*model_state(content, chunks).values(), content["ema"]], self.groups)
        content = once_each(content)
        content["state"] = state
        content[manifest.MANIFEST_KEY] = folders.MANIFEST_FILE
        if scheduler is not None:
            content["scheduler"] = scheduler.state_dict()
        failure, request = None, None
        try:
            request = dist_checkpointing.save(
                content,
                str(unfinished),
                sharded_strategy=self._strategy(),
                async_sharded_save=self.async_save,
                content_metadata=content_metadata(self.groups),
                **async_save_arguments(),
            )
        except CheckpointException as error:  # of torch, on all ranks
            failure = error
        except BaseException:
            self.abandon()
            raise
        publish = partial(self._publish, unfinished, nonfinite)
        if request is None and failure is None:
            publish()
            return
        self._settle(unfinished, failure)
        assert request is not None
        request.add_finalize_fn(publish)
        background = partial(in_background, os.getpid(), request.async_fn)
        self._calls.schedule_async_request(request._replace(async_fn=background))

    def maybe_finalize(self) -> bool:
        """Complete a background save that all ranks have written; returns whether one was. Called every step.

        Raises:
            StorageError: it could not be written, on all ranks; nothing is left of it.
        """
        return self._finalize(blocking=False)

    def finalize(self) -> None:
        """Wait for a background save and complete it.

        Raises:
            StorageError: it could not be written, on all ranks; nothing is left of it.
        """
        self._finalize(blocking=True)

    def abandon(self) -> None:
        """Drop a save that is not complete, on this rank alone: for a run that ends in an error."""
        for call in self._calls.async_calls:
            if call.async_caller.process is not None:
                call.async_caller.process.kill()
                call.async_caller.process.join()
        self._calls.async_calls.clear()
        if self.groups.rank == 0 and self._unfinished is not None:
            folders.discard(self._unfinished)

    def _finalize(self, *, blocking: bool) -> bool:
        try:
            return bool(self._calls.maybe_finalize_async_calls(blocking=blocking))
        except CheckpointException as error:  # of torch, on all ranks
            assert self._unfinished is not None
            self._settle(self._unfinished, error)
            raise

    def _strategy(self) -> Any:
        # One file for each rank, written by one process.
        strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1)
        if self.groups.dp_cp.size() == 1:
            return strategy
        return FullyParallelSaveStrategyWrapper(strategy, self.groups.dp_cp)

    def _begin(self, iteration: int) -> Path:
        def begin() -> Path:
            with writing(
                self.run_dir, "earlier checkpoints are as they were. Make room there and continue with --load"
            ):
                return folders.begin(self.run_dir, iteration)

        self._unfinished = on_first_rank(begin, self.groups)
        return self._unfinished

    def _publish(self, unfinished: Path, nonfinite: list[str]) -> None:
        failure = kept_failure()
        checksums = gather_objects(take_checksums(unfinished), self.groups.world)
        if self.groups.rank == 0 and failure is None:
            try:
                if self.config_yaml:
                    (unfinished / folders.CONFIG_FILE).write_text(self.config_yaml, encoding="utf-8")
                known = {name: entry for part in checksums for name, entry in part.items()}
                manifest.write(unfinished, known, finite=not nonfinite)
                self._keep(folders.publish(unfinished), nonfinite)
            except OSError as error:
                failure = error
        self._settle(unfinished, failure)
        self._unfinished = None

    def _keep(self, path: Path, nonfinite: list[str]) -> None:
        """Tell of weights that are not finite, and delete the checkpoints that are not to be kept any more."""
        if nonfinite:
            self._say(
                f"WARNING: {path} holds weights that are not finite, in {len(nonfinite)} of its tensors "
                f"({nonfinite[0]} first); --keep-latest spares the newest checkpoint without such"
            )
        if self.keep_latest is not None:
            finite = integrity.newest_finite(self.run_dir, path)
            folders.prune(self.run_dir, self.keep_latest, path, spared=finite)

    def _settle(self, unfinished: Path, failure: Exception | None = None) -> None:
        """Go on if no rank has failed; else all ranks raise, and nothing is left of the save."""
        kept = kept_failure()
        failure = failure or kept
        reason = None if failure is None else reason_not_saved(failure, unfinished)
        failed = gather_objects((failure is not None, reason), self.groups.world)
        if not any(has_failed for has_failed, _ in failed):
            return
        self.abandon()
        barrier(self.groups)  # no rank leaves, and has its launcher end the others, before all is removed
        reason = next((reason for _, reason in failed if reason is not None), None)
        if reason is None and failure is not None:
            raise failure
        raise StorageError(
            f"--save {self.run_dir}: {unfinished.name.removeprefix('unfinished_')} cannot be written "
            f"({reason or 'another rank has failed'}); earlier checkpoints are as they were, of this one nothing is "
            "left. Make room there and continue the run with --load"
        )


def load(
    path: Path,
    chunks: Sequence[Any],
    optimizer: Any | None,
    scheduler: Any | None,
    groups: Groups,
    ema: EmaState = NO_EMA,
    part: Part = everything,
) -> dict[str, Any]:
    """Load a checkpoint, saved on any layout, into model, optimizer and scheduler; returns the plain state.

    Args:
        path: an `iter_*` folder.
        chunks: this rank's model chunks, wrapped or bare.
        optimizer: None loads the weights only.
        scheduler: None leaves the schedule.
        groups: the run's process groups.
        ema: averages of the weights, to be loaded too; other averages in the checkpoint are left out.
        part: the weights to load; the others keep their values, and are left out where the checkpoint has them.

    Raises:
        CheckpointError: it is not complete, or does not have the tensors of this run; the message sums up which.
    """
    request = sharded_state(chunks, optimizer, groups, is_loading=True, part=part)
    ema_request = requested_ema(ema, model_state(request, chunks))
    _check_tensors(path, [request, ema_request], groups, ema, part, with_optimizer=optimizer is not None)
    for average, parts in ema.items():
        for tensor in nested_values(ema_request[average]):
            tensor.init_data("cpu")
        # A rank that trains nothing asks for nothing, and mcore leaves what is empty out.
        restore_ema(_read(path, {"ema": ema_request.pop(average)}, groups).get("ema", {}), parts)
    loaded = _read(path, request, groups)
    with loading(path):
        restore(loaded, chunks, optimizer, scheduler, part)
        return loaded["state"]


def load_ema(
    path: Path, chunks: Sequence[Any], average: str, groups: Groups, part: Part = everything
) -> dict[str, Any]:
    """Load an average of the weights in place of the weights, for sampling; returns the plain state.

    Weights that were not trained have no average and are loaded themselves.

    Args:
        path: an `iter_*` folder.
        chunks: this rank's model chunks, wrapped or bare.
        average: its name, as `ema_names_in` gives it.
        groups: the run's process groups.
        part: the weights to load.

    Raises:
        CheckpointError: it is not complete, does not have the average, or is of another model.
    """
    request = sharded_state(chunks, None, groups, is_loading=True, part=part)
    _check_tensors(path, request, groups, NO_EMA, part, with_optimizer=False)
    known = ema_names_in(path)
    if average not in known:
        raise CheckpointError(f"{path}: no average {average}; accepted: {', '.join(known) or 'none, it has no EMA'}")
    take_ema(request, average, tensor_shapes_on_disk(path).keys())
    loaded = _read(path, request, groups)
    with loading(path):
        restore(loaded, chunks, None, None, part)
        return loaded["state"]


def _read(path: Path, request: dict[str, Any], groups: Groups) -> dict[str, Any]:
    """Read the requested tensors; they take the places of the sharded tensors that request them."""
    adapt_reading()
    strategy: Any = TorchDistLoadShardedStrategy()
    if groups.dp_cp.size() > 1:
        strategy = FullyParallelLoadStrategyWrapper(strategy, groups.dp_cp)
    with warnings.catch_warnings(), loading(path):
        # megatron-core 0.16.1 calls torch's function by its old name (strategies/torch.py:799).
        warnings.filterwarnings("ignore", message="`load_state_dict` is deprecated", category=FutureWarning)
        return dist_checkpointing.load(request, str(path), sharded_strategy=strategy, **common_strategy())


def _check_tensors(
    path: Path, request: Any, groups: Groups, averages: Collection[str], part: Part, *, with_optimizer: bool
) -> None:
    """Compare what all ranks ask for with what is there."""
    if not folders.is_complete(path):
        raise CheckpointError(f"--load {path}: not a complete checkpoint; accepted: an iter_* folder of a run")
    stored = {
        key: shape
        for key, shape in tensor_shapes_on_disk(path).items()
        if (average := ema_of_key(key)) in averages
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
        told = summarized(problems)
        raise CheckpointError(f"--load {path}: {len(problems)} tensors differ; {advice}\n" + "\n".join(told))
