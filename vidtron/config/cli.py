"""Command line and YAML -> RunConfig.

Three layers, each over the one before: the preset of `--model`, the file of `--config`, the flags. tyro builds the
parser and its help from the dataclasses. Nothing here imports torch, so that `--help` and refusals are quick.
"""

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Protocol, get_type_hints

import tyro

from vidtron.config import yaml_file
from vidtron.config.errors import ConfigurationError, exit_with, launched_rank
from vidtron.config.flags import (
    Flag,
    accepts_none,
    convert,
    describe,
    field_documentation,
    flags,
    nearest,
    sections,
    takes_several,
)
from vidtron.config.run import RunConfig

dump = yaml_file.dump

MODEL_HELP = "Preset: the network, and the defaults of other sections that go with it. Required."
CONFIG_HELP = "YAML file with the same keys as the flags."


class Preset(Protocol):
    """A named model, as the registry of models gives it."""

    @property
    def network(self) -> Any:
        """Instance of the model's own dataclass."""

    @property
    def defaults(self) -> Mapping[str, Mapping[str, Any]]:
        """Section of RunConfig -> field -> value."""


@dataclass
class _Words:
    """An argument vector cut into flags and the words after each."""

    given: list[tuple[str, list[str]]] = field(default_factory=list)
    """(name with underscores, words), in order; a flag may come several times."""
    stray: list[str] = field(default_factory=list)
    """Words before the first flag."""
    help: bool = False

    @classmethod
    def split(cls, argv: Sequence[str]) -> "_Words":
        words = cls()
        for word in argv:
            if word in ("-h", "--help"):
                words.help = True
            elif re.match(r"--[A-Za-z]", word):
                name, equals, value = word[2:].partition("=")
                words.given.append((name.replace("-", "_"), [value] if equals else []))
            elif words.given:
                words.given[-1][1].append(word)
            else:
                words.stray.append(word)
        return words

    def last(self, name: str) -> str | None:
        """The word given to a flag of one value; the last time it is given wins."""
        for given, values in reversed(self.given):
            if given == name:
                return values[0] if len(values) == 1 else None
        return None


def parse(
    argv: Sequence[str],
    preset: Callable[[str], Preset],
    preset_names: Sequence[str],
    prog: str = "pretrain_video.py",
    description: str = "Pretrain or fine-tune a video diffusion transformer.",
) -> RunConfig:
    """The configuration of a run from its command line.

    Args:
        argv: the words after the program's name.
        preset: name of a preset -> network and defaults of the other sections.
        preset_names: legal values of --model; the first one's defaults are shown by --help without --model.

    Exits with status 0 after --help, with status 2 after printing every mistake (rank 0 only).
    """
    try:
        return _parse(argv, preset, preset_names, prog, description)
    except ConfigurationError as error:
        exit_with([*error.errors, f"`{prog} --help` lists all flags"], launched_rank())


def load(path: Path, preset: Callable[[str], Preset], preset_names: Sequence[str]) -> RunConfig:
    """The configuration that `dump` wrote. Raises ConfigurationError."""
    return _parse(["--config", str(path)], preset, preset_names, path.name, "")


def _parse(
    argv: Sequence[str],
    preset: Callable[[str], Preset],
    preset_names: Sequence[str],
    prog: str,
    description: str,
) -> RunConfig:
    words = _Words.split(argv)
    config_path = words.last("config")
    content = yaml_file.read(Path(config_path)) if config_path and not words.help else {}
    model = str(words.last("model") or content.get("model") or "")
    if words.help:
        _print_help(model if model in preset_names else preset_names[0], preset, preset_names, prog, description)
    if model not in preset_names:
        given = f"--model {model}: unknown" if model else "--model: missing"
        hint = nearest(model, preset_names) if model else ""
        raise ConfigurationError([f"{given}; accepted: {', '.join(preset_names)}{hint}"])

    base = _with_preset(model, preset(model))
    network_class: Any = type(base.network)
    table = flags(network_class)
    errors: list[str] = []
    if config_path:
        values, errors = yaml_file.convert_all(content, table, Path(config_path), also_legal=("model",))
        for section in {table[name].section for name in values}:
            changed = {name: value for name, value in values.items() if table[name].section == section}
            setattr(base, section, dataclasses.replace(getattr(base, section), **changed))
    errors += _mistakes(words, table)
    if errors:
        raise ConfigurationError(errors)
    return _run_tyro(_argv_for_tyro(words, table), base, preset_names, prog, description)


def _print_help(
    model: str, preset: Callable[[str], Preset], preset_names: Sequence[str], prog: str, description: str
) -> NoReturn:
    """Print the help with that preset's defaults and exit with status 0."""
    about = (  # tyro joins lines that are not separated by an empty one
        f"{description}\n\n"
        "A flag overrides the file of --config, which overrides the preset of --model.\n\n"
        f"The defaults shown are those of --model {model}."
    )
    try:
        try:
            _run_tyro(["--help"], _with_preset(model, preset(model)), preset_names, prog, about)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)


def _with_preset(model: str, preset: Preset) -> RunConfig:
    """The preset's network beside sections whose defaults it has changed. Nothing is shared with the preset."""
    config = RunConfig(model=model, network=dataclasses.replace(preset.network))
    for section, values in preset.defaults.items():
        setattr(config, section, dataclasses.replace(getattr(config, section), **values))
    return config


def _mistakes(words: _Words, table: dict[str, Flag]) -> list[str]:
    """Every mistake of the command line; tyro would stop at the first."""
    errors = [f"{word}: unexpected; flags start with --" for word in words.stray]
    for name, values in words.given:
        switch = table.get(name.removeprefix("no_"))
        typed = " ".join(["--" + name.replace("_", "-"), *values])
        if name in ("model", "config"):
            if len(values) != 1:
                errors.append(f"{typed}: wrong value; accepted: one word")
        elif switch is not None and switch.annotation is bool:
            if values:
                errors.append(f"{typed}: takes no value; accepted: {switch.option} or --no-{switch.option[2:]}")
        elif name not in table:
            options = [flag.option for flag in table.values()] + ["--model", "--config"]
            errors.append(f"{typed}: unknown flag{nearest('--' + name.replace('_', '-'), options)}")
        elif not _fits(values, table[name].annotation):
            errors.append(f"{typed}: wrong value; accepted: {describe(table[name].annotation)}")
    return errors


def _fits(values: list[str], annotation: Any) -> bool:
    if not values or (len(values) > 1 and not takes_several(annotation)):
        return False
    none = accepts_none(annotation) and [value.lower() for value in values] == ["none"]
    try:
        convert(None if none else values if takes_several(annotation) else values[0], annotation)
    except ValueError:
        return False
    return True


def _argv_for_tyro(words: _Words, table: dict[str, Flag]) -> list[str]:
    """The command line again, with `none` as tyro spells it."""
    argv = []
    for name, values in words.given:
        unset = name in table and accepts_none(table[name].annotation) and [v.lower() for v in values] == ["none"]
        argv += ["--" + name.replace("_", "-"), *(["None"] if unset else values)]
    return argv


def _run_tyro(argv: list[str], base: RunConfig, preset_names: Sequence[str], prog: str, description: str) -> RunConfig:
    classes = sections(type(base.network))
    described = {name: _described(section) for name, section in classes.items()}
    arguments = dataclasses.make_dataclass(
        "Arguments",
        [
            ("model", Annotated[Literal[tuple(preset_names)], tyro.conf.arg(help=MODEL_HELP)]),
            ("config", Annotated[Path | None, tyro.conf.arg(help=CONFIG_HELP)]),
            *described.items(),
        ],
    )
    shown_model = tyro.MISSING if argv == ["--help"] else base.model  # in the help a required flag has no default
    default = {name: section(**_fields(getattr(base, name))) for name, section in described.items()}
    parsed = tyro.cli(
        arguments,
        args=argv,
        default=arguments(model=shown_model, config=None, **default),
        prog=prog,
        description=description,
        config=(tyro.conf.OmitArgPrefixes,),
        console_outputs=launched_rank() == 0,
    )
    chosen = {name: section(**_fields(getattr(parsed, name))) for name, section in classes.items()}
    return RunConfig(model=base.model, **chosen)


@cache
def _described(section_class: type) -> type:
    """The same fields with their help on one line each; tyro would keep the docstrings' line breaks."""
    hints, documentation = get_type_hints(section_class), field_documentation(section_class)
    described = dataclasses.make_dataclass(
        section_class.__name__,
        [
            (f.name, Annotated[hints[f.name], tyro.conf.arg(help=documentation.get(f.name, ""))])
            for f in dataclasses.fields(section_class)
        ],
    )
    described.__doc__ = section_class.__doc__
    return described


def _fields(section: Any) -> dict[str, Any]:
    return {f.name: getattr(section, f.name) for f in dataclasses.fields(section)}
