"""Texts that are names of what other rooms have: a field says of which table, and programs hand over the names.

As with the presets of `--model`, nothing of ours is imported for it. Where no names are handed over, as to a reader of
a run's configuration that builds nothing of it, a field takes any text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

Choices = Mapping[str, Mapping[str, str]]
"""Table -> name -> what it stands for, in a few words."""


@dataclass(frozen=True)
class OneOf:
    """Metadata of a text: a name of a table (`sampler: Annotated[str, OneOf("sampler")]`)."""

    table: str


def table_of(annotation: Any, choices: Choices | None) -> Mapping[str, str] | None:
    """The names that a type takes with what they stand for; None where it does not name a table, or one that is not
    among the choices."""
    if choices is None or get_origin(annotation) is not Annotated:
        return None
    named = next((part for part in get_args(annotation) if isinstance(part, OneOf)), None)
    return None if named is None else choices.get(named.table)


def resolved(annotation: Any, choices: Choices | None) -> Any:
    """The type with the names in it that it takes; itself where it takes none of a table."""
    table = table_of(annotation, choices)
    return annotation if table is None else Literal[tuple(table)]


def explained(text: str, annotation: Any, choices: Choices | None) -> str:
    """A field's help, with what each name that it takes stands for."""
    table = table_of(annotation, choices)
    if table is None:
        return text
    return f"{text} {'; '.join(f'{name}: {meaning}' if meaning else name for name, meaning in table.items())}."
