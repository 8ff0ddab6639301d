"""Checkpoints read by megatron-core and torch through readers of ours, which run nothing that a file asks for.

Their own believe a file: torch's FileSystemReader unpickles `.metadata`, its DefaultLoadPlanner every object
in the data files (distributed/checkpoint/filesystem.py:930 and default_planner.py:387, torch 2.13), and megatron-core
builds on both (dist_checkpointing/strategies/torch.py: 0.16.1 line 798, 0.19.2 line 976; in 0.19.2 for the plain state
too, serialization.py:206).
"""

import io
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from megatron.core.dist_checkpointing import serialization
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.strategies import common as common_strategies
from megatron.core.dist_checkpointing.strategies import torch as strategies
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.utils import _create_file_view
from torch.futures import Future

from vidtron.checkpoint.errors import CheckpointError, UnreadableFileError, unreadable
from vidtron.checkpoint.metadata_file import read_metadata
from vidtron.checkpoint.torch_files import check_extra_state, load_torch_file, load_torch_stream
from vidtron.parallel.mcore_versions import AT_LEAST_0_19

COMMON_FILE = "common.pt"
_BACKEND_FILE = "metadata.json"
_COMMON_KEY = "common_state/shard_0_1"
"""The plain state among the data files, as megatron-core 0.19 writes it instead of `common.pt`."""
_EXTRA_STATE = "._extra_state"


def load_part(folder: Path, key: str, place: _StorageInfo) -> Any:
    """Load the object at one place of a data file: a tensor, or an object of plain values and tensors.

    Args:
        folder: of the checkpoint.
        key: its name there.
        place: out of `read_metadata`.

    Raises:
        UnreadableFileError: it is damaged, or holds more than that.
    """
    file = folder / place.relative_path
    with _opened(file) as stream:
        return _part(stream, file, key, place)


def _part(stream: Any, file: Path, key: str, place: _StorageInfo) -> Any:
    try:
        content = load_torch_stream(_create_file_view(stream, place.offset, place.length), file, place.length)
        if _EXTRA_STATE in key:
            check_extra_state(content, file)
    except UnreadableFileError as error:
        reason = str(error).removeprefix(f"{file}: ")
        raise UnreadableFileError(file, f"{reason} ({key})", unsafe=error.unsafe) from error
    return content


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        stream = file.open("rb")
    except OSError as error:
        raise UnreadableFileError(file, error.strerror or error) from error
    with stream:
        yield stream


class CheckpointReader(FileSystemReader):
    """torch's reader of a folder, with `.metadata` and data files read by ours."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the checkpoint's metadata, without running code that it may hold. Raises UnreadableFileError."""
        found = read_metadata(Path(self.path))
        return Metadata(
            found.state_dict_metadata,
            storage_data=found.storage_data,
            storage_meta=StorageMeta(load_id=self.load_id),
        )

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> "Future[None]":
        """Hand the plan's tensors and objects to the planner. Raises UnreadableFileError."""
        by_file: dict[str, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            by_file[self.storage_data[item.storage_index].relative_path].append(item)
        for name, items in by_file.items():
            file = Path(self.path) / name
            with _opened(file) as stream:
                for item in sorted(items, key=lambda item: self.storage_data[item.storage_index].offset):
                    self._hand_over(stream, file, item, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _hand_over(self, stream: Any, file: Path, item: ReadItem, planner: LoadPlanner) -> None:
        key, place = item.storage_index.fqn, self.storage_data[item.storage_index]
        content = _part(stream, file, key, place)
        if item.type == LoadItemType.BYTE_IO:
            # Planners take bytes; what has been read without danger is written as bytes of our own.
            buffer = io.BytesIO()
            torch.save(content, buffer)
            buffer.seek(0)
            planner.load_bytes(item, buffer)
            return
        with unreadable(file):
            if not isinstance(content, Tensor):
                raise TypeError(f"{key} is a {type(content).__name__} and no tensor")
            part = narrow_tensor_by_index(content, item.storage_offsets, item.lengths)
            target = planner.resolve_tensor(item).detach()
            if target.size() != part.size():
                raise ValueError(f"{key} has shape {list(part.size())}; announced: {list(target.size())}")
        target.copy_(part)
        planner.commit_tensor(item, target)


def adapt_reading() -> None:
    """Let megatron-core take our reader for torch's, and in 0.19 our plain state for its own."""
    replaced: list[tuple[Any, str, Any]] = [(strategies, "_get_filesystem_reader", _reader)]
    if AT_LEAST_0_19:
        replaced.append((serialization, "load_common_state_dict", read_common))
    for module, name, ours in replaced:
        if not hasattr(module, name):  # rather no checkpoint than one read by somebody else's pickle
            raise CheckpointError(f"megatron-core without {module.__name__}.{name}; accepted: 0.16.1 or 0.19")
        setattr(module, name, ours)


def _reader(checkpoint_dir: str | Path, *args: Any, **kwargs: Any) -> CheckpointReader:
    """Replaces megatron-core's function of the same arguments."""
    return CheckpointReader(checkpoint_dir)


def common_strategy() -> dict[str, Any]:
    """Keyword arguments of `dist_checkpointing.load` that let it read the plain state with our reader (0.16)."""
    if AT_LEAST_0_19:
        return {}

    class Strategy(common_strategies.TorchCommonLoadStrategy):
        def load_common(self, checkpoint_dir: str | Path) -> dict[str, Any]:
            return read_common(checkpoint_dir)

    return {"common_strategy": Strategy()}


def read_common(folder: str | Path) -> dict[str, Any]:
    """The plain part of a checkpoint, as megatron-core of any version writes it.

    Raises:
        UnreadableFileError: it is damaged, holds what could run code, or is not there.
    """
    folder = Path(folder)
    check_backend(folder)
    file = folder / COMMON_FILE
    if file.exists():
        content = load_torch_file(file)
    else:
        places = read_metadata(folder).storage_data
        place = next((place for index, place in places.items() if index.fqn == _COMMON_KEY), None)
        if place is None:
            raise UnreadableFileError(file, "does not exist, and the data files hold no such state either")
        file = folder / place.relative_path
        content = load_part(folder, _COMMON_KEY, place)
        content = content[0] if isinstance(content, list) and content else content
    if not isinstance(content, dict):
        raise UnreadableFileError(file, f"damaged: a {type(content).__name__} in place of the plain state")
    return content


def check_backend(folder: Path) -> None:
    """Raise UnreadableFileError if `metadata.json` is damaged, or names another format than torch_dist."""
    file = folder / _BACKEND_FILE
    with unreadable(file):
        content = json.loads(file.read_bytes())
    backend = content.get("sharded_backend") if isinstance(content, dict) else None
    if backend != "torch_dist":
        raise UnreadableFileError(file, f"names the format {str(backend)[:40]!r}; accepted: torch_dist")
    known = {"sharded_backend", "sharded_backend_version", "common_backend", "common_backend_version"}
    if unknown := content.keys() - known:
        raise UnreadableFileError(file, f"damaged: unknown keys: {', '.join(sorted(unknown))[:200]}")


@contextmanager
def loading(path: Path) -> Iterator[None]:
    """Errors of megatron-core and torch over a checkpoint's content become one line of a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except dcp.api.CheckpointException as error:  # no Exception: what each rank's reader has raised
        causes = [cause for _, (cause, _) in sorted(error.failures.items())]
        ours = next((cause for cause in causes if isinstance(cause, CheckpointError)), None)
        if ours is not None:
            raise ours from error
        raise UnreadableFileError(path, f"cannot be loaded: {type(causes[0]).__name__}: {causes[0]}") from error
    except (CheckpointingException, LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise UnreadableFileError(path, f"cannot be loaded: {type(error).__name__}: {error}") from error
