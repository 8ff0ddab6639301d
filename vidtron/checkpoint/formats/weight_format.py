"""What a format of weights is to the rest of the package, and what those of other programs share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vidtron.checkpoint.formats.base import (
    Content,
    ConversionError,
    Preset,
    Reading,
    WeightSource,
    WeightTarget,
    with_settings,
)
from vidtron.config.network import NetworkConfig
from vidtron.models import registry
from vidtron.models.family import Family
from vidtron.models.foreign import ForeignModel


class WeightFormat(Protocol):
    """A format in which weights are stored on disk."""

    @property
    def name(self) -> str:
        """Name of the format in `--load-format` and `--save-format`."""
        ...

    def detects(self, path: Path) -> bool:
        """Whether marker files, or the header of a file, say that there are weights in this format.

        Raises:
            ConversionError: a `config.json` there is damaged.
        """
        ...

    def open(self, path: Path, preset: Preset | None, reading: Reading) -> WeightSource:
        """The weights at a path; with no preset the files tell the network.

        Raises:
            ConversionError: they are damaged or of no known network, or something was asked for that the format has
                not.
        """
        ...

    def network(self, model: str, network: NetworkConfig) -> NetworkConfig:
        """A network as the format's own code runs it. Raises ConversionError: the format does not know its family."""
        ...

    def target(self, folder: Path, content: Content, options: Mapping[str, Any]) -> WeightTarget:
        """A writer of weights into an empty folder; `options` are those of the format, by their flags' names.

        Raises:
            ConversionError: the format cannot hold them so.
        """
        ...

    def file_for(self, save: Path) -> str | None:
        """The file of a target's folder that alone gets the name `save`; None: the folder does."""
        ...

    def read_back(self, folder: Path, content: Content) -> WeightSource:
        """Open what was just written, to check it."""
        ...


class ForeignFormat(ABC):
    """Base class of the formats of other programs."""

    name: str
    kind: type[ForeignModel]
    """The container that a family must have stated for it."""

    def model_of(self, preset: str) -> Any:
        """The networks of a preset's family in this format. Raises ConversionError: it has none."""
        model = registry.family_of(preset).foreign.get(self.name)
        if isinstance(model, self.kind):
            return model
        accepted = ", ".join([*registry.family_of(preset).foreign, "megatron"])
        raise ConversionError(
            f"{self.name}: networks of {preset}'s family have no names in this format; accepted: {accepted}"
        )

    def known(self) -> list[tuple[Family, Any]]:
        """The families that stand in the format, and how."""
        found = ((family, family.foreign.get(self.name)) for family in registry.families())
        return [(family, model) for family, model in found if isinstance(model, self.kind)]

    def network(self, model: str, network: NetworkConfig) -> NetworkConfig:
        """A network as the format's own code runs it."""
        return with_settings(network, self.model_of(model).settings)

    def file_for(self, save: Path) -> str | None:
        """The file of a target's folder that alone gets the name `save`; None: the folder does."""
        return None

    def read_back(self, folder: Path, content: Content) -> WeightSource:
        """Open what was just written, to check it."""
        return self.open(folder, (content.model, content.network), Reading())

    @abstractmethod
    def detects(self, path: Path) -> bool:
        """Whether marker files, or the header of a file, say that there are weights in this format."""

    @abstractmethod
    def open(self, path: Path, preset: Preset | None, reading: Reading) -> WeightSource:
        """Open the weights at a path."""

    @abstractmethod
    def target(self, folder: Path, content: Content, options: Mapping[str, Any]) -> WeightTarget:
        """A writer of weights into an empty folder."""


def possessive(name: str) -> str:
    """Possessive of a format's name: `diffusers'`, `Wan's`."""
    return f"{name}'" if name.endswith("s") else f"{name}'s"


Recognized = TypeVar("Recognized")


def only(found: Sequence[Recognized], known: Sequence[Recognized], path: Path) -> Recognized:
    """The one that recognizes its files, or the one there is: a damaged file may be of no one's any more.

    Args:
        found: that recognize them.
        known: all.
        path: of the files, for the message.

    Raises:
        ConversionError: none or several do.
    """
    if len(found) == 1 or len(known) == 1:
        return (found or known)[0]
    reason = "more than one family knows" if found else "no family knows"
    raise ConversionError(f"--load {path}: {reason} tensors of these names; accepted: --model")
