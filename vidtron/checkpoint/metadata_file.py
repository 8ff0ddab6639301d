"""`.metadata` of torch's distributed checkpoints: where each part of each tensor lies.

The file is a pickle. It is read as records (`unpickling`), and torch's objects are made of what has been checked:
types, shapes that the files are large enough for, and places inside the folder.
"""

import math
import os
import pickle
import stat
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from vidtron.checkpoint.errors import UnreadableFileError, unreadable
from vidtron.checkpoint.unpickling import DTYPES, GETATTR, Name, Record, RecordUnpickler

FILE = ".metadata"
_METADATA = "torch.distributed.checkpoint.metadata"
_PLANNER = "torch.distributed.checkpoint.planner"
_ENUMS = (Name(_METADATA, "_MEM_FORMAT_ENCODING"), Name(_PLANNER, "WriteItemType"))
_SIZE, _LAYOUT = Name("torch", "Size"), Name("torch.serialization", "_get_layout")
_INDEX, _PLACE = Name(_METADATA, "MetadataIndex"), Name("torch.distributed.checkpoint.filesystem", "_StorageInfo")
_TENSOR, _OBJECT = Name(_METADATA, "TensorStorageMetadata"), Name(_METADATA, "BytesStorageMetadata")
_CHUNK, _PROPERTIES = Name(_METADATA, "ChunkStorageMetadata"), Name(_METADATA, "TensorProperties")
_WHOLE = Name(_METADATA, "Metadata")
_NAMES = (
    *(_WHOLE, _TENSOR, _OBJECT, _CHUNK, _PROPERTIES, _INDEX, _PLACE, _SIZE, _LAYOUT, *_ENUMS),
    # What is there as well and not looked at: plans of the save (megatron-core), where it was made (torch).
    Name(_METADATA, "StorageMeta"),
    *(Name(_PLANNER, name) for name in ("SavePlan", "WriteItem", "TensorWriteData", "BytesIOWriteData")),
    *(Name(module, "PosixPath") for module in ("pathlib", "pathlib._local")),
)
_LARGEST = 2**62


def read_metadata(folder: Path) -> Metadata:
    """The checked content of a checkpoint's `.metadata`. Plans of the save in it are left out.

    Args:
        folder: with the file, and those that it names.

    Raises:
        UnreadableFileError: it is damaged, asks for code to be run, or says what cannot be.
    """
    folder = Path(folder)
    file = folder / FILE
    try:
        found = file.stat()
    except OSError as error:
        raise UnreadableFileError(file, error.strerror or error) from error
    return _read(folder, found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=2)
def _read(folder: Path, *version: int) -> Metadata:
    """Kept: the steps of a load ask several times, and the file may be large."""
    folder = Path(folder)
    file = folder / FILE
    try:
        with unreadable(file):
            whole = RecordUnpickler(_regular(file).read_bytes(), _NAMES, DTYPES, _ENUMS).load()
            return _Checked(folder).metadata(whole)
    except UnreadableFileError as error:
        if isinstance(error.__cause__, pickle.UnpicklingError):
            raise UnreadableFileError(
                file,
                f"{error.__cause__}; that is no part of a checkpoint's metadata. The file is damaged, or made to run "
                "code, and nothing of it was run",
                unsafe=True,
            ) from error
        raise


def _regular(file: Path) -> Path:
    """A pipe or a device would never end."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise UnreadableFileError(file, "not a file")
    return file


class _Checked:
    """torch's objects from records."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / FILE
        self._sizes: dict[str, int] = {}

    def _wrong(self, what: str) -> UnreadableFileError:
        return UnreadableFileError(self.file, f"damaged: {what}")

    def metadata(self, whole: Any) -> Metadata:
        fields = self._fields(whole, _WHOLE)
        entries, places = fields.get("state_dict_metadata"), fields.get("storage_data")
        if not isinstance(entries, dict) or not isinstance(places, dict):
            raise self._wrong("it lists no tensors and places")
        if not all(isinstance(key, str) for key in entries):
            raise self._wrong("a tensor without a name")
        made = {key: self._entry(key, entry) for key, entry in entries.items()}
        found = {self._index(index): self._place(place) for index, place in places.items()}
        if len(found) != len(places):
            raise self._wrong("two places of one part of a tensor")
        self._check_room(found)
        for key, entry in made.items():
            if isinstance(entry, TensorStorageMetadata):
                self._check_parts(key, entry, found)
        return Metadata(state_dict_metadata=made, storage_data=found)

    def _fields(self, record: Any, name: Name) -> dict[str, Any]:
        """Fields of a dataclass, as its pickle states them."""
        if not isinstance(record, Record) or record.name != name or record.args:
            kind = record.name if isinstance(record, Record) else type(record).__name__
            raise self._wrong(f"a {kind} in place of a {name.name}")
        state = {} if record.state is None else record.state
        if not isinstance(state, dict):
            raise self._wrong(f"a {name.name} without fields")
        return state

    def _shape(self, record: Any) -> torch.Size:
        if not isinstance(record, Record) or record.name != _SIZE or len(record.args) != 1:
            raise self._wrong("a tensor without a shape")
        (numbers,) = record.args
        if not isinstance(numbers, tuple | list) or len(numbers) > 64:
            raise self._wrong("a tensor without a shape")
        return torch.Size(self._count(number) for number in numbers)

    def _count(self, number: Any) -> int:
        if type(number) is not int or not 0 <= number < _LARGEST:
            raise self._wrong(f"{str(number)[:40]!r} as a size or a position")
        return number

    def _entry(self, key: str, record: Any) -> TensorStorageMetadata | BytesStorageMetadata:
        if isinstance(record, Record) and record.name == _OBJECT:
            return BytesStorageMetadata()
        fields = self._fields(record, _TENSOR)
        size = self._shape(fields.get("size"))
        chunks = fields.get("chunks")
        if not isinstance(chunks, list):
            raise self._wrong(f"{key} has no list of parts")
        made = []
        for chunk in chunks:
            parts = self._fields(chunk, _CHUNK)
            offsets, sizes = self._shape(parts.get("offsets")), self._shape(parts.get("sizes"))
            if not len(offsets) == len(sizes) == len(size) or any(
                o + n > total for o, n, total in zip(offsets, sizes, size, strict=True)
            ):
                raise self._wrong(f"a part of {key} lies outside of it")
            made.append(ChunkStorageMetadata(offsets, sizes))
        if sum(map(_elements, (chunk.sizes for chunk in made))) != _elements(size):
            raise self._wrong(f"the parts of {key} are not the whole of it")
        return TensorStorageMetadata(TensorProperties(dtype=self._dtype(key, fields.get("properties"))), size, made)

    def _dtype(self, key: str, record: Any) -> torch.dtype:
        """The dtype among the properties, with which `torch.save` writes no other tensors than strided ones."""
        state = record.state if isinstance(record, Record) and record.name == _PROPERTIES else None
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[0], torch.dtype):
            raise self._wrong(f"{key} has no type")
        dtype, layout, _, memory_format, _ = state
        if not isinstance(layout, Record) or layout.name != _LAYOUT or layout.args != ("torch.strided",):
            raise self._wrong(f"{key} has no strided layout")
        if not self._is_member(memory_format):
            raise self._wrong(f"{key} has no memory format")
        return dtype

    def _is_member(self, record: Any) -> bool:
        """Whether it is a member of torch's enum of memory formats, in either form that Pythons write."""
        members = torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING
        if not isinstance(record, Record):
            return False
        if record.name == GETATTR:
            return record.args[0] == _ENUMS[0] and record.args[1] in members.__members__
        return record.name == _ENUMS[0] and len(record.args) == 1 and record.args[0] in [m.value for m in members]

    def _index(self, record: Any) -> MetadataIndex:
        fields = self._fields(record, _INDEX)
        key, offset, index = fields.get("fqn"), fields.get("offset"), fields.get("index")
        if not isinstance(key, str):
            raise self._wrong("a place of nothing")
        return MetadataIndex(
            key, None if offset is None else self._shape(offset), None if index is None else self._count(index)
        )

    def _place(self, record: Any) -> _StorageInfo:
        fields = self._fields(record, _PLACE)
        name = fields.get("relative_path")
        if not isinstance(name, str) or not name or name in (os.curdir, os.pardir) or {"/", "\\", "\0"} & set(name):
            raise self._wrong(f"{str(name)[:80]!r} as a file; accepted: a name in the checkpoint's folder")
        if fields.get("transform_descriptors"):
            raise self._wrong("compressed tensors; accepted: as vidtron writes them")
        place = _StorageInfo(name, self._count(fields.get("offset")), self._count(fields.get("length")))
        if place.offset + place.length > self._file_size(name):
            raise UnreadableFileError(
                self.folder / name,
                f"damaged: it ends before its tensors do, at {self._file_size(name):,} of "
                f"{place.offset + place.length:,} bytes or more",
            )
        return place

    def _file_size(self, name: str) -> int:
        if name not in self._sizes:
            try:
                self._sizes[name] = _regular(self.folder / name).stat().st_size
            except (OSError, ValueError) as error:
                if isinstance(error, UnreadableFileError):
                    raise
                raise UnreadableFileError(self.folder / name, getattr(error, "strerror", None) or error) from error
        return self._sizes[name]

    def _check_room(self, places: dict[MetadataIndex, _StorageInfo]) -> None:
        """Parts that share bytes would make more memory than there is file."""
        claimed: Counter[str] = Counter()
        for place in places.values():
            claimed[place.relative_path] += place.length
        for name, size in claimed.items():
            if size > self._file_size(name):
                raise self._wrong(f"{size:,} bytes of tensors in {name}, which has {self._file_size(name):,}")

    def _check_parts(self, key: str, entry: TensorStorageMetadata, places: dict[MetadataIndex, _StorageInfo]) -> None:
        for chunk in entry.chunks:
            place = places.get(MetadataIndex(key, chunk.offsets))
            if place is None:
                raise self._wrong(f"no file has the part of {key} at {list(chunk.offsets)}")
            if _elements(chunk.sizes) * entry.properties.dtype.itemsize > place.length:
                raise self._wrong(
                    f"{key} of shape {list(chunk.sizes)} in {place.length:,} bytes of {place.relative_path}"
                )


def _elements(shape: torch.Size) -> int:
    return math.prod(shape)
