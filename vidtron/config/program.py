"""Command lines of programs whose arguments are nested dataclasses: help with ranges, and one check of all values."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import tyro

from vidtron.config.choices import Choices, explained, resolved
from vidtron.config.errors import exit_with
from vidtron.config.flags import field_documentation
from vidtron.config.launcher import launched_rank
from vidtron.config.ranges import annotations, range_of, refusals, shown

T = TypeVar("T")


def described(section: type, choices: Choices | None = None) -> type:
    """A section's fields with their help on one line each and the accepted range; tyro would keep the docstrings' line
    breaks. Fields that hold dataclasses are described too, and those that take names of other rooms have theirs."""
    hints, declared, documentation = get_type_hints(section), annotations(section), field_documentation(section)
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(section):
        hint: Any = hints[field.name]
        default: Any = {}
        if dataclasses.is_dataclass(hint):
            hint = described(hint, choices)  # type: ignore[arg-type]
            if field.default_factory is not dataclasses.MISSING or field.default is not dataclasses.MISSING:
                default = {"default_factory": hint}
        else:
            annotation = declared[field.name]
            accepted, named = range_of(annotation), resolved(annotation, choices)
            text = explained(documentation.get(field.name, ""), annotation, choices)
            text += "" if accepted is None else f" (accepted: {accepted})"
            hint = Annotated[hint if named is annotation else named, tyro.conf.arg(help=text)]
            if field.default is not dataclasses.MISSING:
                default = {"default": field.default}
            elif field.default_factory is not dataclasses.MISSING:
                default = {"default_factory": field.default_factory}
        fields.append((field.name, hint, dataclasses.field(**default)))
    made = dataclasses.make_dataclass(section.__name__, fields)
    made.__doc__ = section.__doc__
    return made


def parse_arguments(
    arguments: type[T], argv: Sequence[str], description: str | None, choices: Choices | None = None
) -> T:
    """The arguments of a program as a dataclass of dataclasses; `choices` of fields that take names of other rooms.

    Exits with status 0 after --help, with status 2 where no check can work with a value. Other values outside their
    ranges are the caller's to tell, beside what else is wrong.
    """
    errors = _empty_paths(arguments, argv)
    if errors:
        exit_with(errors, launched_rank())
    shape: Any = arguments
    parsed: Any = tyro.cli(
        described(shape, choices),
        args=list(argv),
        config=(tyro.conf.OmitArgPrefixes,),
        description=description,
        console_outputs=launched_rank() == 0,
    )
    result = _original(arguments, parsed)
    refused = list(refusals(result))
    if any(refusal.hopeless for refusal in refused):
        exit_with([refusal.message for refusal in refused], launched_rank())
    return result


def _original(section: type[T], parsed: Any) -> T:
    hints = get_type_hints(section)
    values = {}
    for field in dataclasses.fields(section):  # type: ignore[arg-type]
        value, hint = getattr(parsed, field.name), hints[field.name]
        values[field.name] = _original(hint, value) if dataclasses.is_dataclass(hint) else value  # type: ignore[arg-type]
    return section(**values)


def _empty_paths(section: type, argv: Sequence[str]) -> list[str]:
    """An empty word would be the current folder, once it is a path."""
    paths, option, errors = _path_options(section), "", []
    for word in argv:
        value = word
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            option = option.replace("_", "-")
            if not equals:
                continue
        if value == "" and option in paths:
            errors.append(f"{shown(option)} '': an empty name; accepted: a path, . for the current folder")
    return errors


def _path_options(section: type) -> set[str]:
    found: set[str] = set()
    for name, hint in get_type_hints(section).items():
        if dataclasses.is_dataclass(hint):
            found |= _path_options(hint)  # type: ignore[arg-type]
        elif Path in (hint, *get_args(hint)):
            found.add("--" + name.replace("_", "-"))
    return found
