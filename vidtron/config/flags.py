"""The flat list of flags behind the nested dataclasses, and the conversion of single values to a field's type."""

import ast
import dataclasses
import difflib
import inspect
import textwrap
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from vidtron.config.choices import Choices, explained, resolved
from vidtron.config.ranges import annotations, range_of
from vidtron.config.run import RunConfig


@dataclass(frozen=True)
class Flag:
    """One field of one section of the run configuration."""

    name: str
    """Field name and YAML key, with underscores."""
    section: str
    """Field of RunConfig that holds it."""
    annotation: Any
    """Its type, with the range of its numbers."""
    help: str
    """Its docstring on one line."""

    @property
    def option(self) -> str:
        """The flag as it is typed."""
        return "--" + self.name.replace("_", "-")


def sections(network_class: type) -> dict[str, type]:
    """Section name -> dataclass, in the order of help and YAML: the model's network first."""
    hints = typing.get_type_hints(RunConfig)
    names = [field.name for field in dataclasses.fields(RunConfig) if field.name not in ("model", "network")]
    return {"network": network_class} | {name: hints[name] for name in names}


def flags(network_class: type, choices: Choices | None = None) -> dict[str, Flag]:
    """Flag name (underscores) -> Flag, for every section. Raises TypeError if two sections share a name.

    Args:
        network_class: the model's own dataclass.
        choices: of the fields that take names of other rooms.
    """
    return {name: _with_choices(flag, choices) for name, flag in _declared(network_class).items()}


def _with_choices(flag: Flag, choices: Choices | None) -> Flag:
    return dataclasses.replace(
        flag,
        annotation=resolved(flag.annotation, choices),
        help=explained(flag.help, flag.annotation, choices),
    )


@cache
def _declared(network_class: type) -> dict[str, Flag]:
    table: dict[str, Flag] = {}
    for section, section_class in sections(network_class).items():
        hints = annotations(section_class)
        documentation = field_documentation(section_class)
        for field in dataclasses.fields(section_class):
            if field.name in table or field.name in ("model", "config", "plugin", "help"):
                raise TypeError(f"two flags are named {field.name}; one of them in {section_class.__name__}")
            table[field.name] = Flag(field.name, section, hints[field.name], documentation.get(field.name, ""))
    return table


@cache
def field_documentation(section_class: type) -> dict[str, str]:
    """The string below each field of a dataclass (its bases included), each on one line."""
    found: dict[str, str] = {}
    for owner in reversed(section_class.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


def nearest(name: str, legal: Iterable[str]) -> str:
    """A hint with the legal names most like `name`; empty if none is."""
    close = difflib.get_close_matches(name, list(legal), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _plain(annotation: Any) -> Any:
    """The type without its metadata."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def accepts_none(annotation: Any) -> bool:
    """Whether a field may be unset."""
    annotation = _plain(annotation)
    return get_origin(annotation) in (Union, types.UnionType) and types.NoneType in get_args(annotation)


def takes_several(annotation: Any) -> bool:
    """Whether a flag takes a list of words."""
    annotation = _plain(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return any(takes_several(part) for part in get_args(annotation))
    return get_origin(annotation) in (list, tuple)


def describe(annotation: Any) -> str:
    """What a field accepts, in words."""
    if get_origin(annotation) is Annotated:
        accepted = range_of(annotation)
        return describe(_plain(annotation)) + ("" if accepted is None else f", {accepted}")
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if part is types.NoneType else describe(part) for part in parts)
    if origin is Literal:
        return ", ".join(str(part) for part in parts)
    if origin is list:
        return f"a list, each {describe(parts[0])}"
    if origin is tuple:
        return f"{len(parts)} values, each {describe(parts[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}[annotation]


def convert(value: Any, annotation: Any) -> Any:
    """A value from YAML, or the words of a flag, as the type of a field.

    Args:
        value: what YAML gave; numbers may also come as text (YAML 1.1 reads 1e-5 as text).
        annotation: int, float, bool, str, Path, Literal, list[...], tuple[...] or a union of these with None.
    Raises:
        ValueError: the value is not of the type. The caller names the flag and says what would be. Ranges of numbers
            are for `ranges.refusals`.
    """
    annotation = _plain(annotation)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none" and types.NoneType in parts):
            if types.NoneType in parts:
                return None
            raise ValueError
        for part in parts:
            if part is not types.NoneType:
                try:
                    return convert(value, part)
                except ValueError:
                    continue
        raise ValueError
    if origin is Literal:
        for part in parts:
            if (type(value) is type(part) and value == part) or str(part) == value:
                return part
        raise ValueError
    if origin is list:
        return [convert(item, parts[0]) for item in (value if isinstance(value, list) else [value])]
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(parts):
            raise ValueError
        return tuple(convert(item, part) for item, part in zip(value, parts, strict=True))
    return _convert_scalar(value, annotation)


def _convert_scalar(value: Any, annotation: type) -> Any:
    if not isinstance(value, str | int | float | date) or isinstance(value, bool) != (annotation is bool):
        raise ValueError
    if annotation is bool:
        return value
    if annotation is int and isinstance(value, float):
        raise ValueError
    if annotation is Path and value == "":  # which would be the current folder
        raise ValueError
    return annotation(str(value))


def to_plain(value: Any) -> Any:
    """A field's value as YAML's safe dumper takes it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value
