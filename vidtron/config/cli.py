"""Command line and YAML -> RunConfig.

Three layers, each over the one before: the preset of `--model`, the file of `--config`, the flags. Flags and YAML are
converted by the same function; tyro writes the help from the dataclasses. Nothing here imports torch, so that
`--help` and refusals are quick.
"""

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Protocol

import tyro

from vidtron.config import yaml_file
from vidtron.config.adapt_preset import adapt_preset
from vidtron.config.choices import Choices
from vidtron.config.errors import ConfigurationError, exit_with
from vidtron.config.flags import (
    Flag,
    accepts_none,
    convert,
    describe,
    flags,
    nearest,
    sections,
    takes_several,
)
from vidtron.config.launcher import launched_rank
from vidtron.config.network import NetworkConfig
from vidtron.config.program import described
from vidtron.config.ranges import shown
from vidtron.config.run import RunConfig

dump = yaml_file.dump

MODEL_HELP = "Preset: the network, and the defaults of other sections that go with it. Required."
CONFIG_HELP = "YAML file with the same keys as the flags."
PLUGIN_HELP = (
    "Modules of model families that are not installed, to be found in PYTHONPATH. They run as a part of the program."
)


class Preset(Protocol):
    """A named model, as the registry of models gives it."""

    @property
    def network(self) -> NetworkConfig:
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

    def all(self, name: str) -> list[str]:
        """The words given to a flag, all times together."""
        return [word for given, values in self.given if given == name for word in values]

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
    *,
    choices: Choices | None = None,
) -> RunConfig:
    """The configuration of a run from its command line.

    Args:
        argv: the words after the program's name.
        preset: name of a preset -> network and defaults of the other sections.
        preset_names: legal values of --model; the first one's defaults are shown by --help without --model.
        prog: name of the program.
        description: of the program, for --help.
        choices: legal values of the fields that name what another room has (`OneOf`); None: they take any text.

    Exits with status 0 after --help, with status 2 after printing every mistake (rank 0 only).
    """
    try:
        config, remarks = _parse(argv, preset, preset_names, prog, description, choices)
    except ConfigurationError as error:
        exit_with([*error.errors, f"`{prog} --help` lists all flags"], launched_rank())
    if launched_rank() == 0:
        for remark in remarks:
            print(f"note: {remark}", file=sys.stderr)
    return config


def plugins_in(argv: Sequence[str]) -> list[str]:
    """The modules of --plugin."""
    return _Words.split(argv).all("plugin")


def without_plugins(argv: Sequence[str]) -> list[str]:
    """The command line without --plugin and its modules: for programs with parsers of their own."""
    kept: list[str] = []
    inside = False
    for word in argv:
        if word.startswith("-"):
            inside = word == "--plugin"
            if inside or word.startswith("--plugin="):
                continue
        if not inside:
            kept.append(word)
    return kept


def load(
    path: Path, preset: Callable[[str], Preset], preset_names: Sequence[str], *, choices: Choices | None = None
) -> RunConfig:
    """The configuration that `dump` wrote. Arguments as of `parse`. Raises ConfigurationError."""
    return _parse(["--config", str(path)], preset, preset_names, path.name, "", choices)[0]


def _parse(
    argv: Sequence[str],
    preset: Callable[[str], Preset],
    preset_names: Sequence[str],
    prog: str,
    description: str,
    choices: Choices | None,
) -> tuple[RunConfig, list[str]]:
    """The configuration, and what of the preset was changed to fit what is given."""
    words = _Words.split(argv)
    config_path = words.last("config")
    content = yaml_file.read(Path(config_path)) if config_path is not None and not words.help else {}
    model = str(words.last("model") or content.get("model") or "")
    if words.help:
        shown_model = model if model in preset_names else preset_names[0]
        _print_help(shown_model, preset, preset_names, prog, description, choices)
    if model not in preset_names:
        given = f"--model {shown(model)}: unknown" if model else "--model: missing"
        hint = nearest(model, preset_names) if model else ""
        raise ConfigurationError([f"{given}; accepted: {', '.join(preset_names)}{hint}"])

    base = _with_preset(model, preset(model))
    network_class: Any = type(base.network)
    table = flags(network_class, choices)
    values: dict[str, Any] = {}
    errors: list[str] = []
    if config_path is not None:
        values, errors = yaml_file.convert_all(content, table, Path(config_path), also_legal=("model",))
    errors += _mistakes(words, table)
    if errors:
        raise ConfigurationError(errors)
    values |= _given(words, table)
    _with_values(base, values, table)
    return base, adapt_preset(base, values)


def _print_help(
    model: str,
    preset: Callable[[str], Preset],
    preset_names: Sequence[str],
    prog: str,
    description: str,
    choices: Choices | None,
) -> NoReturn:
    """Print the help with that preset's defaults and exit with status 0."""
    about = (  # tyro joins lines that are not separated by an empty one
        f"{description}\n\n"
        "A flag overrides the file of --config, which overrides the preset of --model.\n\n"
        f"The defaults shown are those of --model {model}."
    )
    try:
        try:
            _tyro_help(_with_preset(model, preset(model)), preset_names, prog, about, choices)
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


def _tyro_help(
    base: RunConfig, preset_names: Sequence[str], prog: str, description: str, choices: Choices | None
) -> None:
    classes = {name: described(section, choices) for name, section in sections(type(base.network)).items()}
    arguments = dataclasses.make_dataclass(
        "Arguments",
        [
            ("model", Annotated[Literal[tuple(preset_names)], tyro.conf.arg(help=MODEL_HELP)]),
            ("config", Annotated[Path | None, tyro.conf.arg(help=CONFIG_HELP)]),
            ("plugin", Annotated[list[str], tyro.conf.arg(help=PLUGIN_HELP)]),
            *classes.items(),
        ],
    )
    default = {name: section(**vars(getattr(base, name))) for name, section in classes.items()}
    tyro.cli(
        arguments,
        args=["--help"],
        default=arguments(model=tyro.MISSING, config=None, plugin=[], **default),  # a required flag has no default
        prog=prog,
        description=description,
        config=(tyro.conf.OmitArgPrefixes,),
        console_outputs=launched_rank() == 0,
    )


def _mistakes(words: _Words, table: dict[str, Flag]) -> list[str]:
    """Every mistake of the command line; tyro would stop at the first."""
    errors = [f"{shown(word)}: unexpected; flags start with --" for word in words.stray]
    for name, values in words.given:
        switch = table.get(name.removeprefix("no_"))
        typed = " ".join([shown("--" + name.replace("_", "-")), *(shown(value) or "''" for value in values)])
        if name == "plugin":  # loaded before
            continue
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
    try:
        _value(values, annotation)
    except ValueError:
        return False
    return True


def _value(words: list[str], annotation: Any) -> Any:
    """The words after a flag as its field's value. Raises ValueError."""
    if accepts_none(annotation) and [word.lower() for word in words] == ["none"]:
        return None
    return convert(words if takes_several(annotation) else words[0], annotation)


def _given(words: _Words, table: dict[str, Flag]) -> dict[str, Any]:
    """Field -> value of every flag; the last one of a name wins. `_mistakes` has found none."""
    values: dict[str, Any] = {}
    for name, given in words.given:
        if name in ("model", "config", "plugin"):
            continue
        if name in table and table[name].annotation is not bool:
            values[name] = _value(given, table[name].annotation)
        else:
            switch = name if name in table else name.removeprefix("no_")
            values[switch] = name == switch
    return values


def _with_values(config: RunConfig, values: dict[str, Any], table: dict[str, Flag]) -> None:
    """Put the values into their sections."""
    for section in {table[name].section for name in values}:
        changed = {name: value for name, value in values.items() if table[name].section == section}
        setattr(config, section, dataclasses.replace(getattr(config, section), **changed))
