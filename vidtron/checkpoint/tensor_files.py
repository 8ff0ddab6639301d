"""Files of tensors written piece by piece: safetensors, and the zip archives of `torch.save`.

The stock writers take all tensors at once; these take names, shapes and types first and then one tensor at a time, so
that no more than that one is in memory.
"""

import contextlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import torch
from torch import Tensor

_SAFETENSORS_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_STORAGE_TYPES = {
    torch.float32: torch.FloatStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.float16: torch.HalfStorage,
}
_ALIGNMENT = 64
_CHUNK = 1 << 24


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a tensor that is not yet read or written."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def check(self, name: str, tensor: Tensor) -> None:
        """Raise ValueError if the tensor's shape or dtype is another."""
        if tuple(tensor.shape) != self.shape or tensor.dtype != self.dtype:
            raise ValueError(
                f"{name}: {tensor.dtype} {list(tensor.shape)}; announced: {self.dtype} {list(self.shape)}"
            )


def _copy(file: Any, tensor: Tensor) -> None:
    data = memoryview(tensor.contiguous().view(torch.uint8).reshape(-1).numpy()) if tensor.numel() else memoryview(b"")
    for start in range(0, len(data), _CHUNK):
        file.write(data[start : start + _CHUNK])


class SafetensorsFile:
    """A safetensors file (https://github.com/huggingface/safetensors, the format's section)."""

    def __init__(
        self, path: Path, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] = MappingProxyType({})
    ):
        """
        Args:
            path: made.
            specs: all tensors of the file.
            metadata: texts of the header.
        """
        self.specs = dict(specs)
        self._left = set(specs)
        self._offsets: dict[str, int] = {}
        header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
        end = 0
        for name, spec in self.specs.items():
            self._offsets[name] = end
            end += spec.nbytes
            header[name] = {
                "dtype": _SAFETENSORS_TYPES[spec.dtype],
                "shape": list(spec.shape),
                "data_offsets": [self._offsets[name], end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._file: BinaryIO = path.open("wb")
        self._file.write(struct.pack("<Q", len(text)) + text)
        self._start = self._file.tell()
        self._file.truncate(self._start + end)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one of the announced tensors."""
        self.specs[name].check(name, tensor)
        self._left.remove(name)
        self._file.seek(self._start + self._offsets[name])
        _copy(self._file, tensor)

    def close(self) -> None:
        """Finish the file. Raises ValueError: announced tensors are missing."""
        self._file.close()
        if self._left:
            raise ValueError(f"{self._file.name}: never written: {', '.join(sorted(self._left))}")


@dataclass(frozen=True)
class _StorageStub:
    dtype: torch.dtype
    key: str
    elements: int


@dataclass(frozen=True)
class _TensorStub:
    storage: _StorageStub
    shape: tuple[int, ...]


class _StubPickler(pickle.Pickler):
    """Pickles stubs as torch.save pickles tensors (torch/serialization.py, persistent_id; torch/_tensor.py,
    _reduce_ex_internal)."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _StorageStub):
            return "storage", _STORAGE_TYPES[obj.dtype], obj.key, "cpu", obj.elements
        return None

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, _TensorStub):
            return NotImplemented
        stride = torch.empty(obj.shape, device="meta").stride()
        return torch._utils._rebuild_tensor_v2, (obj.storage, 0, obj.shape, stride, False, {})


class _Archive(zipfile.ZipFile):
    """One that was never closed, since something else has failed, is let go of in silence: its disk may be full."""

    def __del__(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.close()


class PtFile:
    """A file for `torch.load`: {'module': {name: tensor}}, as deepspeed and SAT write it."""

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]):
        """
        Args:
            path: made.
            specs: all tensors of the file.
        """
        self.specs = dict(specs)
        self._left = set(specs)
        self._keys = {name: str(number) for number, name in enumerate(self.specs)}
        self._root = path.stem
        self._zip = _Archive(path, "w", zipfile.ZIP_STORED, allowZip64=True)
        stubs = {
            name: _TensorStub(_StorageStub(spec.dtype, self._keys[name], torch.Size(spec.shape).numel()), spec.shape)
            for name, spec in self.specs.items()
        }
        content = io.BytesIO()
        _StubPickler(content, protocol=2).dump({"module": stubs})
        self._record("data.pkl", content.getvalue())
        self._record("byteorder", b"little")

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one of the announced tensors."""
        spec = self.specs[name]
        spec.check(name, tensor)
        self._left.remove(name)
        with self._open(f"data/{self._keys[name]}", spec.nbytes) as file:
            _copy(file, tensor)

    def close(self) -> None:
        """Finish the file. Raises ValueError: announced tensors are missing."""
        self._record("version", b"3\n")
        self._zip.close()
        if self._left:
            raise ValueError(f"{self._zip.filename}: never written: {', '.join(sorted(self._left))}")

    def _record(self, name: str, content: bytes) -> None:
        with self._open(name, len(content)) as file:
            file.write(content)

    def _open(self, name: str, size: int) -> Any:
        """A record whose content begins at a multiple of the alignment, so that it can be mapped."""
        info = zipfile.ZipInfo(f"{self._root}/{name}")
        info.file_size = size
        assert self._zip.fp is not None
        header = 30 + len(info.filename.encode()) + (20 if size * 1.05 > zipfile.ZIP64_LIMIT else 0)
        padding = -(self._zip.fp.tell() + header + 4) % _ALIGNMENT
        info.extra = struct.pack("<HH", 0x4246, padding) + b"Z" * padding  # torch's own field, "FB"
        return self._zip.open(info, "w")
