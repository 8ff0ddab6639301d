"""Configurations as YAML: flat, with the flags' names as keys; and the reader of all YAML that users write."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from vidtron.config.errors import ConfigurationError
from vidtron.config.flags import Flag, convert, describe, nearest, sections, to_plain
from vidtron.config.ranges import name_error, shown
from vidtron.config.run import RunConfig

MOST_BYTES = 512 * 1024
MOST_NESTING = 16
MOST_TOLD = 60
_MERGE = "tag:yaml.org,2002:merge"
_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BaseLoader):
    """Plain values alone, each key of a mapping once; every mistake is a YAMLError that knows its line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=True)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:  # 2001-99-99, !!int abc
            given = shown(str(node.value)[:MOST_TOLD])
            raise yaml.constructor.ConstructorError(None, None, f"'{given}' is no value", node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == _MERGE or not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "accepted as a key: a plain word", key.start_mark)
            if key.value in seen:
                told = f"{shown(key.value)} is given more than once"
                raise yaml.constructor.ConstructorError(None, None, told, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=True)


def load(path: Path, flag: str, accepted: str) -> Any:
    """What a YAML file holds. Time and memory are bounded by the file's size, and that is bounded.

    Args:
        path: the file.
        flag: that named it, for messages.
        accepted: what the file is to hold, for messages.

    Raises:
        ConfigurationError: one message with the flag, the file and the line where there is one.
    """
    told = f"{flag} {shown(str(path))}"
    problem = name_error(str(path))
    if problem is not None:
        raise ConfigurationError([f"{told}: {problem}"])
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigurationError([f"{told}: {reason}; accepted: {accepted}"]) from error
    if len(content) > MOST_BYTES:
        raise ConfigurationError([f"{told}: larger than {MOST_BYTES:,} bytes; accepted: {accepted}, of at most these"])
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigurationError([f"{told}: not YAML: {_reason(error)}; accepted: {accepted}"]) from error


def read(path: Path) -> dict[str, Any]:
    """Key (underscores) -> value as YAML understands it. Raises ConfigurationError for everything that is not a flat
    mapping of distinct names."""
    content = load(path, "--config", "a YAML file of flag names and values")
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigurationError([f"--config {path}: accepted: a mapping of flag names to values"])
    names = [key.replace("-", "_") for key in content]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError([f"{path}: {shown(name)} is given more than once" for name in twice])
    return dict(zip(names, content.values(), strict=True))


def _check_events(text: str) -> None:
    """Refuse what could make a short text a large value or a deep one, before anything is built of it."""
    depth = 0
    for event in yaml.parse(text, Loader=_BaseLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.constructor.ConstructorError(
                None, None, "anchors (&) and aliases (*) are not accepted; write the value out", event.start_mark
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_NESTING:
            raise yaml.constructor.ConstructorError(None, None, "nested too deep", event.start_mark)


def _reason(error: yaml.YAMLError) -> str:
    """What is wrong, and where, on one line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if problem is None:  # of characters: a position in the text instead of a line
        return shown(" ".join(str(error).split()))
    return shown(problem) + (f" (line {mark.line + 1})" if mark is not None else "")


def convert_all(
    content: dict[str, Any], table: dict[str, Flag], path: Path, also_legal: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The values as the fields' types, and a message for each key that is unknown or has a wrong value."""
    values, errors = {}, []
    for name, value in content.items():
        if name in also_legal:
            continue
        if name not in table:
            errors.append(f"{path}: unknown key {shown(name)}{nearest(name, [*table, *also_legal])}")
            continue
        try:
            values[name] = convert(value, table[name].annotation)
        except ValueError:
            told = f"'{shown(value)}'" if isinstance(value, str) else shown(value)
            errors.append(f"{path}: {name}: {told}; accepted: {describe(table[name].annotation)}")
    return values, errors


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML that `--config` reads back to an equal one."""
    text = [yaml.safe_dump({"model": config.model}, sort_keys=False)]
    for name, section_class in sections(type(config.network)).items():
        section = getattr(config, name)
        values = {field.name: to_plain(getattr(section, field.name)) for field in dataclasses.fields(section_class)}
        if values:
            title = " ".join((section_class.__doc__ or name).strip().split("\n")[0].split())
            text.append(f"\n# {title}\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000))
    return "".join(text)
