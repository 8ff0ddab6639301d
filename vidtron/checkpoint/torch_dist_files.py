"""megatron-core's torch_dist checkpoints, read and written tensor by tensor by one process.

The format is torch's distributed checkpoint: `.metadata` says in which file, from which byte on, each part of each
tensor lies as `torch.save` wrote it. megatron-core adds `metadata.json` and `common.pt`.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
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
from vidtron.checkpoint.manifest import FileChecksums, HashingFile, without_crc32
from vidtron.checkpoint.metadata_file import FILE as METADATA_FILE
from vidtron.checkpoint.metadata_file import read_metadata
from vidtron.checkpoint.reading import load_part
from vidtron.checkpoint.state import CONTENT
from vidtron.checkpoint.tensor_files import TensorSpec

_DATA_FILE = "__0_0.distcp"


class TorchDistReader:
    """The tensors of a checkpoint, whole."""

    def __init__(self, folder: Path):
        """
        Args:
            folder: with `.metadata`.

        Raises:
            UnreadableFileError: that is damaged, or holds what no checkpoint does.
        """
        self.folder = folder
        metadata = read_metadata(folder)
        self._entries = {
            key: entry
            for key, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        self._places: dict[str, list[tuple[tuple[int, ...], _StorageInfo]]] = {}
        for index, info in metadata.storage_data.items():
            if index.fqn in self._entries:
                self._places.setdefault(index.fqn, []).append((tuple(index.offset or ()), info))

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Name -> shape and dtype, of all tensors."""
        return {key: TensorSpec(tuple(e.size), e.properties.dtype) for key, e in self._entries.items()}

    def read(self, key: str) -> Tensor:
        """Read one whole tensor.

        Raises:
            ValueError: parts of it are missing or damaged.
        """
        entry, places = self._entries[key], self._places.get(key, [])
        whole: Tensor | None = None
        filled = 0
        for offsets, info in places:
            part = load_part(self.folder, key, info)
            if not isinstance(part, Tensor) or part.dtype != entry.properties.dtype:
                found = part.dtype if isinstance(part, Tensor) else f"a {type(part).__name__}"
                raise UnreadableFileError(
                    self.folder / info.relative_path, f"{key} is {found}; announced: {entry.properties.dtype}"
                )
            if tuple(part.shape) == tuple(entry.size):
                return part
            if whole is None:
                whole = torch.empty(entry.size, dtype=entry.properties.dtype)
            with unreadable(self.folder / info.relative_path):
                slices = [slice(o, o + n) for o, n in zip(offsets, part.shape, strict=True)]
                whole[tuple(slices)] = part
            filled += part.numel()
        if whole is None or filled != whole.numel():
            raise ValueError(f"{key}: {filled:,} of {torch.Size(entry.size).numel():,} elements are in the files")
        return whole


class TorchDistWriter:
    """A checkpoint that megatron-core loads into any layout."""

    def __init__(self, folder: Path, specs: Mapping[str, TensorSpec], empty_objects: list[str]):
        """
        Args:
            folder: an empty one.
            specs: all tensors.
            empty_objects: keys of objects that hold nothing (the extra states of linear layers).
        """
        self.folder, self.specs = folder, dict(specs)
        self._file = HashingFile(folder / _DATA_FILE)
        self._places: dict[MetadataIndex, _StorageInfo] = {}
        self._empty_objects = empty_objects
        self.finite = True
        """Whether all tensors so far are."""
        for key in empty_objects:
            self._append(MetadataIndex(key), lambda: torch.save([None], self._file))

    def write(self, key: str, tensor: Tensor) -> None:
        """Write one of the announced tensors."""
        self.specs[key].check(key, tensor)
        tensor = tensor.contiguous()
        if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            tensor = tensor.clone()  # torch.save writes whole storages
        self.finite = self.finite and bool(torch.isfinite(tensor).all())
        index = MetadataIndex(key, torch.Size([0] * tensor.dim()))
        self._append(index, lambda: torch.save(tensor, self._file))

    @property
    def checksums(self) -> dict[str, FileChecksums]:
        """Checksums of the finished file of tensors."""
        return {_DATA_FILE: self._file.checksums()}

    def _append(self, index: MetadataIndex, save: Callable[[], None]) -> None:
        start = self._file.tell()
        with without_crc32():
            save()
        self._places[index] = _StorageInfo(_DATA_FILE, start, self._file.tell() - start)

    def finish(self, common: dict[str, Any]) -> None:
        """Write what says where the tensors are, and the plain state.

        Raises:
            ValueError: tensors are missing.
        """
        self._file.close()
        missing = self.specs.keys() - {index.fqn for index in self._places}
        if missing:
            raise ValueError(f"never written: {', '.join(sorted(missing))}")
        entries: dict[str, Any] = {key: BytesStorageMetadata() for key in self._empty_objects}
        for key, spec in self.specs.items():
            size, offsets = torch.Size(spec.shape), torch.Size([0] * len(spec.shape))
            entries[key] = TensorStorageMetadata(
                TensorProperties(dtype=spec.dtype), size, [ChunkStorageMetadata(offsets, size)]
            )
        torch.save({**common, "content_metadata": dict(CONTENT)}, self.folder / "common.pt")
        with (self.folder / METADATA_FILE).open("wb") as file:
            pickle.dump(Metadata(state_dict_metadata=entries, storage_data=self._places), file)
        backends = {
            "sharded_backend": "torch_dist",
            "sharded_backend_version": 1,
            "common_backend": "torch",
            "common_backend_version": 1,
        }
        (self.folder / "metadata.json").write_text(json.dumps(backends))
