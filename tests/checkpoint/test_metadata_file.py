"""`.metadata` is believed only as far as the files beside it bear it out, and read whichever Python wrote it."""

import enum
import io
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import MetadataIndex

from tests.checkpoint.checkpoints import sat
from vidtron import checkpoint
from vidtron.checkpoint import CheckpointError, UnreadableFileError, metadata_file
from vidtron.checkpoint.metadata_file import read_metadata
from vidtron.checkpoint.reading import read_common
from vidtron.checkpoint.torch_files import load_torch_file
from vidtron.checkpoint.unpickling import Name, Record, RecordUnpickler, UnsafePickleError

DEBIANS_PYTHON = Path("/usr/bin/python3.11")


class _Pickler(pickle.Pickler):
    """Pickles the members of enums in one of the forms that Pythons have."""

    def __init__(self, file, form):
        super().__init__(file)
        self.form = form

    def reducer_override(self, obj):
        if not isinstance(obj, enum.Enum):
            return NotImplemented
        return (getattr, (type(obj), obj.name)) if self.form == "getattr" else (type(obj), (obj.value,))


def dumped(metadata, form="getattr") -> bytes:
    out = io.BytesIO()
    _Pickler(out, form).dump(metadata)
    return out.getvalue()


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "run"
    checkpoint.convert(sat("2b"), folder, save_format="megatron")
    return checkpoint.latest(folder)


@pytest.fixture
def folder(converted, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(converted, tmp_path / converted.name))


def stored(folder):
    return pickle.loads((folder / ".metadata").read_bytes())


@pytest.mark.parametrize("form", ["getattr", "value"])
def test_enums_of_either_python(folder, form, tmp_path):
    """Debian's 3.11.2 writes getattr(class, name); 3.11.4 and later class(value)."""
    before = read_metadata(folder)
    content = dumped(stored(folder), form)
    assert (b"getattr" in content) == (form == "getattr")
    (folder / ".metadata").write_bytes(content)
    after = read_metadata(folder)
    assert after.state_dict_metadata == before.state_dict_metadata and after.storage_data == before.storage_data
    checkpoint.convert(folder, tmp_path / "out", save_format="sat", verify_checkpoint=False)


@pytest.mark.skipif(not DEBIANS_PYTHON.exists(), reason="no such interpreter")
def test_an_enum_from_another_interpreter():
    """As it pickles an enum, whichever form that is."""
    program = "import enum, pickle, sys; E = enum.Enum('E', {'A': 0}); E.__module__ = '__main__'; " + (
        "sys.stdout.buffer.write(pickle.dumps(E.A))"
    )
    content = subprocess.run([DEBIANS_PYTHON, "-c", program], capture_output=True, check=True).stdout
    enums = [Name("__main__", "E")]
    record = RecordUnpickler(content, enums, {}, enums).load()
    assert isinstance(record, Record) and record.args in (((0,)), (enums[0], "A"))
    with pytest.raises(UnsafePickleError):
        RecordUnpickler(content, [], {}, []).load()


@pytest.mark.parametrize(
    "member", ["mro", "__class__", "name", "TORCH_CONTIGUOUS_FORMAT.value", "", "torch_contiguous_format"]
)
def test_getattr_gives_members_alone(folder, member):
    content = dumped(stored(folder)).replace(
        b"\x8c\x17TORCH_CONTIGUOUS_FORMAT", b"\x8c" + bytes([len(member)]) + member.encode()
    )
    assert member.encode() in content
    (folder / ".metadata").write_bytes(b"\x80\x04" + content[content.index(b"\x8c") :])  # without the frame's length
    with pytest.raises(UnreadableFileError, match="has no memory format"):
        read_metadata(folder)


def _first(metadata, *, tensor=True):
    return next(key for key in metadata.storage_data if (key.offset is not None) == tensor)


def _weight(metadata):
    return metadata.state_dict_metadata[_first(metadata).fqn]


def _place(field, value):
    return lambda m: setattr(m.storage_data[_first(m)], field, value)


def _entry(field, value):
    return lambda m: setattr(_weight(m), field, value)


WRONG = {
    "no dict of tensors": lambda m: setattr(m, "state_dict_metadata", ["a"]),
    "no dict of places": lambda m: setattr(m, "storage_data", []),
    "nothing of places": lambda m: setattr(m, "storage_data", None),
    "a place of no tensor": lambda m: m.storage_data.__setitem__(5, m.storage_data[_first(m)]),
    "an entry of another kind": lambda m: m.state_dict_metadata.__setitem__(_first(m).fqn, [1]),
    "a number as a name": lambda m: m.state_dict_metadata.__setitem__(7, _weight(m)),
    "above": _place("relative_path", "../__0_0.distcp"),
    "absolute": _place("relative_path", "/etc/passwd"),
    "the folder": _place("relative_path", "."),
    "null byte": _place("relative_path", "a\0b"),
    "bytes as a path": _place("relative_path", b"__0_0.distcp"),
    "a file that is not there": _place("relative_path", "__9_9.distcp"),
    "negative offset": _place("offset", -1),
    "offset beyond": _place("offset", 10**15),
    "offset of a bool": _place("offset", True),
    "negative length": _place("length", -5),
    "no length": _place("length", None),
    "short length": _place("length", 3),
    "length of text": _place("length", "10"),
    "huge number": _place("length", 10**300),
    "compressed": _place("transform_descriptors", ["zstd"]),
    "giant shape": _entry("size", torch.Size([2**40, 2**20])),
    "no shape": _entry("size", (3, 4)),
    "chunks of text": _entry("chunks", "abc"),
    "no chunks": _entry("chunks", []),
    "a chunk outside": lambda m: setattr(_weight(m).chunks[0], "offsets", torch.Size([9] * len(_weight(m).size))),
    "giant chunk": lambda m: (
        setattr(_weight(m), "size", torch.Size([2**40] * len(_weight(m).size))),
        setattr(_weight(m).chunks[0], "sizes", torch.Size([2**40] * len(_weight(m).size))),
    ),
    "no properties": _entry("properties", None),
    "the same bytes twice": lambda m: [vars(p).update(offset=0, length=10**5) for p in m.storage_data.values()],
    "a place missing": lambda m: m.storage_data.pop(_first(m)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_content(name, folder):
    metadata = stored(folder)
    WRONG[name](metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UnreadableFileError, match=rf"^{folder}/[^\n]+$"):
        read_metadata(folder)


def test_no_metadata_at_all(folder):
    for content in (
        pickle.dumps([1, 2]),
        pickle.dumps(None),
        b"",
        b"\x80\x04",
        b"garbage",
        b"\x80\x04r\xff\xff\xff\xff.",
    ):
        (folder / ".metadata").write_bytes(content)
        with pytest.raises(UnreadableFileError, match=r"/\.metadata: [^\n]+$"):
            read_metadata(folder)


@pytest.mark.parametrize("file", [".metadata", "common.pt", "metadata.json", "__0_0.distcp"])
def test_cut_off_anywhere(file, folder):
    """Every reading function says which file it is."""
    content = (folder / file).read_bytes()
    for share in (0, 0.1, 0.5, 0.9, 0.999):
        (folder / file).write_bytes(content[: int(len(content) * share)])
        with pytest.raises(CheckpointError, match=rf"{file}: [^\n]+$"):
            read_common(folder)
            checkpoint.read_full_state(folder)


def test_a_pipe_is_not_waited_for(folder):
    import os

    (folder / "__0_0.distcp").unlink()
    os.mkfifo(folder / "__0_0.distcp")
    with pytest.raises(UnreadableFileError, match=r"__0_0\.distcp: not a file"):
        read_metadata(folder)


def test_a_changed_file_is_read_again(folder):
    read_metadata(folder)
    metadata = stored(folder)
    metadata.storage_data.pop(_first(metadata))
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UnreadableFileError, match="no file has the part"):
        read_metadata(folder)


def test_tensors_that_are_larger_than_their_file(tmp_path):
    file = tmp_path / "bomb.pt"
    torch.save({"module": {"x": torch.zeros(1).expand(2**40)}}, file)
    with pytest.raises(UnreadableFileError, match=r"bomb\.pt: claims a tensor of shape \[1099511627776\]"):
        load_torch_file(file)
    torch.save({"x": torch.empty(3, device="meta")}, file)
    with pytest.raises(UnreadableFileError, match="without elements of its own"):
        load_torch_file(file)
    torch.save({"x": torch.zeros(4).expand(3, 4)}, file)  # small, and stored once
    assert load_torch_file(file)["x"].shape == (3, 4)


def test_a_checkpoint_of_another_format(folder):
    for content, told in (("[]", "names the format"), ('{"sharded_backend": "zarr"}', "zarr"), ("{", "metadata.json")):
        (folder / "metadata.json").write_text(content)
        with pytest.raises(UnreadableFileError, match=told):
            read_common(folder)


def test_a_target_that_cannot_be_read_back_is_an_error(tmp_path, monkeypatch):
    """As on an interpreter whose pickles the reader would not know."""
    monkeypatch.setattr(metadata_file, "_NAMES", metadata_file._NAMES[1:])
    with pytest.raises(checkpoint.ConversionError, match=r"--save \S+/run: what was written cannot be read back"):
        checkpoint.convert(sat("2b"), tmp_path / "run", save_format="megatron")
    assert list(tmp_path.iterdir()) == []


def test_indices_of_parts_are_kept():
    index = MetadataIndex("a", torch.Size([1, 2]), 3)
    record = RecordUnpickler(pickle.dumps(index), metadata_file._NAMES, {}, []).load()
    assert metadata_file._Checked(Path())._index(record) == index
