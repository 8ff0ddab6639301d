"""Files of `torch.save` read without running anything: torch's own reader of weights, and nothing added to it.

Packages add classes of theirs to those that `torch.load(weights_only=True)` makes: megatron-core, when it is imported,
some of numpy, its own configuration and more (safe_globals.py, 0.16.1 and 0.19.2). A checkpoint needs none of them.
"""

import contextlib
import io
import pickle
import threading
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from vidtron.checkpoint.errors import UnreadableFileError, unreadable
from vidtron.checkpoint.unpickling import DTYPES, Name, RecordUnpickler, UnsafePickleError

_lock = threading.RLock()


@contextlib.contextmanager
def _torchs_own_globals() -> Iterator[None]:
    with _lock:
        added = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            yield
        finally:
            torch.serialization.add_safe_globals(added)


def load_torch_file(path: Path, *, trust_pickle: bool = False, mmap: bool = False) -> Any:
    """The content of a file: plain values and tensors on the CPU.

    Args:
        path: a regular file.
        trust_pickle: make whatever objects the file asks for, which can run any code.
        mmap: map the tensors into memory; for files that are a zip archive, as those of torch since 1.6.

    Raises:
        UnreadableFileError: it is damaged, or holds more than plain values and tensors (`unsafe`).
    """
    try:
        with path.open("rb") as file:
            start = file.read(2)
        size = path.stat().st_size
    except OSError as error:
        raise UnreadableFileError(path, error.strerror or error) from error
    if not path.is_file():
        raise UnreadableFileError(path, "not a file")
    is_zip = zipfile.is_zipfile(path)
    if not is_zip and start == b"PK":
        raise UnreadableFileError(path, "the file is truncated or damaged: the end of its zip archive is missing")
    if trust_pickle:
        with unreadable(path):
            return torch.load(path, map_location="cpu", weights_only=False, mmap=mmap and is_zip)
    if is_zip:
        _check_archive(path, size)
        if mmap:
            return _load(path, path, size, mmap=True)
    with path.open("rb") as file:
        return _load(file, path, size, mmap=False)


def load_torch_stream(stream: IO[bytes], file: Path, length: int) -> Any:
    """Load a part of a file as `load_torch_file` loads a whole one.

    Args:
        stream: the part alone.
        file: named in errors.
        length: bytes of the part.

    Raises:
        UnreadableFileError: as `load_torch_file`.
    """
    return _load(stream, file, length, mmap=False)


def _load(source: Any, file: Path, length: int, *, mmap: bool) -> Any:
    with unreadable(file), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        is_archive = mmap or _begins(source) == b"PK"
        try:
            with _torchs_own_globals():
                content = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
        except Exception as error:
            if asked := _asked_for(str(error), is_archive):
                raise UnreadableFileError(
                    file,
                    f"holds more than tensors and plain values ({asked}), which could run code when it is opened",
                    unsafe=True,
                ) from error
            if isinstance(error, pickle.UnpicklingError):  # torch's own advice is to trust it
                reason = str(error).split("\n\n")[-2:][0].splitlines()[0]
                raise UnreadableFileError(file, f"cannot be read, it is truncated or damaged: {reason}") from error
            raise
        _check_tensors(content, file, length)
    return content


def _begins(stream: IO[bytes]) -> bytes:
    start = stream.read(2)
    stream.seek(0)
    return start


_REFUSALS = ("Trying to", "Can only", "persistent", "TorchScript", "legacy .tar", "unsupported")
"""Of torch's reader of weights (torch/_weights_only_unpickler.py, serialization.py; 2.13)."""


def _asked_for(message: str, is_archive: bool) -> str | None:
    """What torch refuses to make, of its long message; None where the file is merely damaged.

    Args:
        message: of the error.
        is_archive: whole so far: an opcode that torch does not know is there on purpose.
    """
    lines = [line.strip().removeprefix("WeightsUnpickler error: ") for line in message.splitlines()]
    told = next((line for line in lines if "GLOBAL" in line), None)
    if told is not None:
        return f"it asks for {told.partition('GLOBAL ')[2].split(' ')[0]}"
    refusals = (*_REFUSALS, "Unsupported operand") if is_archive else _REFUSALS
    told = next((line for line in lines if any(refusal in line for refusal in refusals)), None)
    return None if told is None else told.rstrip(" .")


def _check_archive(path: Path, size: int) -> None:
    """torch's archives are not compressed: a few bytes that become many are none of its."""
    with unreadable(path), zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > size:
            raise UnreadableFileError(path, "is damaged: it claims more bytes than it has")


def _check_tensors(content: Any, file: Path, length: int) -> None:
    """Tensors that hold their elements: others would take any amount of memory when they are copied."""
    pending, seen = [content], set()
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            if value.device.type != "cpu" or value.layout != torch.strided or value.is_quantized:
                raise UnreadableFileError(file, "holds a tensor without elements of its own")
            if value.numel() * value.element_size() > max(length, value.untyped_storage().nbytes()):
                raise UnreadableFileError(file, f"claims a tensor of shape {list(value.shape)}, larger than itself")
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            pending += [*value, *value.values()] if isinstance(value, dict) else value


_RECIPE = "transformer_engine.common.recipe"
_BYTES_OF_STORAGES = (
    Name("torch.storage", "_load_from_bytes"),
    Name("megatron.core.safe_globals", "safe_load_from_bytes"),  # which mcore 0.19 puts in its place
)
_STATE_NAMES = (
    Name("collections", "OrderedDict"),
    Name("torch._utils", "_rebuild_tensor_v2"),
    *_BYTES_OF_STORAGES,
    *(
        Name(_RECIPE, name)
        for name in "Format _FormatHelper MMParams QParams DelayedScaling Float8CurrentScaling MXFP8BlockScaling "
        "Float8BlockScaling NVFP4BlockScaling".split()
    ),
)
_STATE_ENUMS = (Name(_RECIPE, "Format"),)


def check_extra_state(state: Any, file: Path) -> None:
    """Refuse what a module would unpickle by itself and what could run code.

    Transformer Engine keeps scaling factors and recipe as a pickle in a tensor of bytes (module/base.py,
    `get_extra_state`, 2.x), and reads it back with `pickle.loads`.

    Args:
        state: of one module, as `load_torch_stream` gave it.
        file: named in errors.

    Raises:
        UnreadableFileError: the pickle asks for more than tensors, plain values and Transformer Engine's recipes.
    """
    for value in state if isinstance(state, list) else [state]:
        if not isinstance(value, Tensor) or value.dtype != torch.uint8 or not value.numel():
            continue
        _check_pickle(value.detach().contiguous().view(-1).numpy().tobytes(), file)


def _check_pickle(content: bytes, file: Path) -> None:
    try:
        with unreadable(file):
            unpickler = _StateUnpickler(content, _STATE_NAMES, DTYPES, _STATE_ENUMS)
            unpickler.load()
            for inner in unpickler.storages:
                load_torch_stream(io.BytesIO(inner), file, len(inner))
    except UnreadableFileError as error:
        cause = error.__cause__
        if isinstance(cause, UnsafePickleError):
            raise UnreadableFileError(
                file, f"holds a module's state that {cause}; nothing of it was run", unsafe=True
            ) from error
        raise


class _StateUnpickler(RecordUnpickler):
    """Finds the bytes that `torch.storage._load_from_bytes` would read in their turn."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.storages: list[bytes] = []

    def load_reduce(self) -> None:
        super().load_reduce()
        call = self.stack[-1]
        if call.name in _BYTES_OF_STORAGES:
            if len(call.args) != 1 or not isinstance(call.args[0], bytes):
                raise UnsafePickleError(f"calls {call.name} without bytes")
            self.storages.append(call.args[0])

    dispatch = RecordUnpickler.dispatch | {pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_reduce}
