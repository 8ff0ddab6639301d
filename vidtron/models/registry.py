"""Names of models -> presets, and families -> what builds them.

A family is a package (or module) with `PRESETS`, which are light, so that the command line can read them, and the path
of its `Family`, which is imported when it is asked for. vidtron's own stand in one table; those of other packages come
by the entry-point group `vidtron.families`, and those of a module that is not installed by `--plugin MODULE`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import cast

from vidtron.config.cli import plugins_in, without_plugins
from vidtron.config.errors import ConfigurationError, exit_with
from vidtron.config.launcher import launched_rank
from vidtron.models.family import Family
from vidtron.models.preset import Preset
from vidtron.models.registration import Registration

OWN = ("vidtron.models.cogvideox", "vidtron.models.stdit")
"""vidtron's families. Each module has a `REGISTRATION`."""
GROUP = "vidtron.families"
"""Entry points of other packages: NAME = "module:REGISTRATION"."""
ATTRIBUTE = "REGISTRATION"


class Registry:
    """The families that are known, and their presets."""

    def __init__(self) -> None:
        self._of_preset: dict[str, Registration] = {}
        self._sources: dict[str, str] = {}

    @property
    def registrations(self) -> list[Registration]:
        """Entries of all families, in the order in which they became known."""
        found: list[Registration] = []
        for registration in self._of_preset.values():
            if registration not in found:
                found.append(registration)
        return found

    def add(self, registration: Registration, source: str) -> None:
        """Register a family's presets; registering it again is no error.

        Args:
            registration: of the family.
            source: where it comes from, for messages.

        Raises:
            ConfigurationError: another family has a preset of the same name.
        """
        for name, preset in registration.presets.items():
            known = self._of_preset.get(name)
            if known is not None and known.presets[name] != preset:
                raise ConfigurationError(
                    [f"{source}: its preset {name} is also one of {self._sources[name]}; accepted: another name"]
                )
            self._of_preset[name], self._sources[name] = registration, source

    def names(self) -> tuple[str, ...]:
        """Names of all presets."""
        return tuple(self._of_preset)

    def registration(self, preset_name: str) -> Registration:
        """Entry of the family that has the preset. Raises ValueError: there is none."""
        if preset_name not in self._of_preset:
            raise ValueError(f"--model {preset_name}: accepted: {', '.join(self._of_preset)}")
        return self._of_preset[preset_name]


@cache
def _registry() -> Registry:
    """vidtron's own families and those of installed packages."""
    registry = Registry()
    for module in OWN:
        registry.add(getattr(importlib.import_module(module), ATTRIBUTE), module)
    for point in importlib.metadata.entry_points(group=GROUP):
        registry.add(_checked(point.load(), point.value), f"the entry point {point.name} = {point.value}")
    return registry


def load_plugins(modules: Iterable[str]) -> None:
    """Make the families of modules known that are not installed (`--plugin`).

    Args:
        modules: importable names.

    Raises:
        ConfigurationError: one cannot be imported or has no `REGISTRATION`.
    """
    for module in modules:
        try:
            found = getattr(importlib.import_module(module), ATTRIBUTE, None)
        except ImportError as error:
            raise ConfigurationError(
                [f"--plugin {module}: cannot be imported ({error}); accepted: a module in PYTHONPATH"]
            ) from error
        _registry().add(_checked(found, f"--plugin {module}"), f"--plugin {module}")


def with_plugins(argv: Sequence[str]) -> list[str]:
    """Make the families known that a command line names by --plugin; the command line without that flag.

    Exits with status 2 where a module cannot be used.
    """
    try:
        load_plugins(plugins_in(argv))
    except ConfigurationError as error:
        exit_with(error.errors, launched_rank())
    return without_plugins(argv)


def _checked(found: object, source: str) -> Registration:
    if not isinstance(found, Registration):
        raise ConfigurationError(
            [f"{source}: no {ATTRIBUTE}; accepted: a module with {ATTRIBUTE} = Registration(presets, family)"]
        )
    return found


def preset_names() -> tuple[str, ...]:
    """All names that `--model` takes."""
    return _registry().names()


def preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        ValueError: there is none.
    """
    return _registry().registration(name).presets[name]


def family_of(name: str) -> Family:
    """The family of the preset `name`.

    Raises:
        ValueError: there is no such preset.
    """
    return _family(_registry().registration(name))


def relatives(name: str) -> Mapping[str, Preset]:
    """All presets of the family that has the preset `name`. Raises ValueError: there is no such preset."""
    return _registry().registration(name).presets


def families() -> list[Family]:
    """All known families; their modules are imported."""
    return [_family(registration) for registration in _registry().registrations]


def _family(registration: Registration) -> Family:
    module, _, attribute = registration.family.partition(":")
    return cast(Family, getattr(importlib.import_module(module), attribute))
