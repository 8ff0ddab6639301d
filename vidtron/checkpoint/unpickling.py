"""Pickles read without running anything.

The stock unpickler calls what a file names. This one knows a table of exact (module, name) pairs and makes an inert
`Record` of each call. Nothing is imported, called or looked up in an object: a file can only say what it says. Readers
then make the real objects from records whose content they have checked.
"""

import io
import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

_OPCODES = (
    "PROTO FRAME STOP MARK POP POP_MARK MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET NONE NEWTRUE NEWFALSE "
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES "
    "BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_SET "
    "ADDITEMS GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD"
).split()
"""What protocols 2 to 5 write for plain values and objects; not persistent ids, extension codes, INST and OBJ."""
_KEY_TYPES = (str, int, bytes)


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names; never the object itself."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Record:
    """A call that a pickle asks for, instead of what it would give."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: Name, args: tuple[Any, ...]):
        self.name, self.args = name, args
        self.state: Any = None
        """What the object's `__setstate__` or `__dict__` would get."""


DTYPES = {Name("torch", name): dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)}
"""Immutable objects, which pickles name."""
GETATTR = Name("builtins", "getattr")
"""How Python 3.11.0 to 3.11.3 pickle an enum's member: getattr(class, its name). Later ones: class(value)."""


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle asks for something that is not in the table."""


_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]
"""The one in Python: its opcodes can be replaced."""


class RecordUnpickler(_Unpickler):
    """Reads plain values, `known` objects as they are, and records of calls of `names`."""

    def __init__(self, content: bytes, names: Collection[Name], known: Mapping[Name, Any], enums: Collection[Name]):
        """
        Args:
            content: of the pickle.
            names: of classes and functions whose calls become records.
            known: immutable objects, such as dtypes.
            enums: the classes among `names` that may stand in getattr(class, member).
        """
        super().__init__(io.BytesIO(content))
        self._names, self._known, self._enums = frozenset(names), known, frozenset(enums)

    def find_class(self, module: Any, name: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnsafePickleError("names something without a name")
        asked = Name(module, name)
        if asked in self._known:
            return self._known[asked]
        if asked in self._names or (asked == GETATTR and self._enums):
            return asked
        raise UnsafePickleError(f"asks for {module}.{name}, which could run code")

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError("refers to objects outside")

    def load_reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or not isinstance(args, tuple):
            raise UnsafePickleError(f"calls a {type(function).__name__}")
        if function == GETATTR and not (
            len(args) == 2 and isinstance(args[0], Name) and args[0] in self._enums and isinstance(args[1], str)
        ):
            raise UnsafePickleError("asks for builtins.getattr, which could run code")
        self.append(Record(function, args))

    def load_build(self) -> None:
        state = self.stack.pop()
        if not self.stack or not isinstance(self.stack[-1], Record):
            raise UnsafePickleError("changes something that is not its own object")
        self.stack[-1].state = state

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def _set(self, target: Any, items: list[Any]) -> None:
        if type(target) is not dict:
            raise UnsafePickleError(f"sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Deeply nested tuples as keys would overflow the stack when they are hashed.
            if not isinstance(key, (*_KEY_TYPES, Record)) and key is not None:
                raise UnsafePickleError(f"has a {type(key).__name__} as a key")
            target[key] = value

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend(self.stack[-1], [value])

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._extend(self.stack[-1], items)

    def _extend(self, target: Any, items: list[Any]) -> None:
        if type(target) is not list:
            raise UnsafePickleError(f"appends to a {type(target).__name__}")
        target.extend(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set or not all(isinstance(item, _KEY_TYPES) for item in items):
            raise UnsafePickleError("adds to something that is no set of plain values")
        self.stack[-1].update(items)

    def _refuse(self) -> None:
        raise UnsafePickleError("uses an opcode that no checkpoint needs")

    dispatch: dict[int, Any] = dict.fromkeys(range(256), _refuse)
    dispatch |= {getattr(pickle, code)[0]: _Unpickler.dispatch[getattr(pickle, code)[0]] for code in _OPCODES}
    dispatch |= {
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        pickle.ADDITEMS[0]: load_additems,
    }
