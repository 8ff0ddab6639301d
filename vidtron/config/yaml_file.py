"""Configurations as YAML: flat, with the flags' names as keys."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from vidtron.config.errors import ConfigurationError
from vidtron.config.flags import Flag, convert, describe, nearest, sections, to_plain
from vidtron.config.run import RunConfig


def read(path: Path) -> dict[str, Any]:
    """Key (underscores) -> value as YAML understands it. Raises ConfigurationError for everything that is not a flat
    mapping of distinct names."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigurationError([f"--config {path}: {reason}; accepted: a YAML file"]) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError([f"--config {path}: not YAML: {' '.join(str(error).split())}"]) from error
    if content is None:
        return {}
    if not isinstance(node, yaml.MappingNode) or not all(isinstance(key, str) for key in content):
        raise ConfigurationError([f"--config {path}: accepted: a mapping of flag names to values"])
    names = [key.value.replace("-", "_") for key, _ in node.value]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError([f"{path}: {name} is given more than once" for name in twice])
    return {key.replace("-", "_"): value for key, value in content.items()}


def convert_all(
    content: dict[str, Any], table: dict[str, Flag], path: Path, also_legal: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The values as the fields' types, and a message for each key that is unknown or has a wrong value."""
    values, errors = {}, []
    for name, value in content.items():
        if name in also_legal:
            continue
        if name not in table:
            errors.append(f"{path}: unknown key {name}{nearest(name, [*table, *also_legal])}")
            continue
        try:
            values[name] = convert(value, table[name].annotation)
        except ValueError:
            errors.append(f"{path}: {name}: {value!r}; accepted: {describe(table[name].annotation)}")
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
