"""How a family's networks stand in the formats of other programs.

A family states one object for each format that it knows (`Family.foreign`), of the class of the container that the
format is: a folder of safetensors beside a config.json, one safetensors file, or SAT's files. The checkpoint room
reads and writes the containers; what stands in them it asks these.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any, ClassVar, Generic

from torch import Tensor

from vidtron.config.data import ClipSize
from vidtron.config.geometry import LatentGeometry
from vidtron.config.network import NetworkConfig, NetworkT
from vidtron.models.inputs import ModelInput
from vidtron.models.layers.checkpoint_rules import Row, Shape

ReadTensor = Callable[[str], Tensor]
"""Name -> tensor."""


@dataclass(frozen=True)
class SampleSize:
    """The clips that weights are for, where a format says so or holds tables for them."""

    frames: int
    """Of the video."""
    height: int
    """In latent pixels."""
    width: int


def sample_of_clip(clip: ClipSize, geometry: LatentGeometry) -> SampleSize:
    """The sample size of clips of this size in pixels."""
    return SampleSize(clip.num_frames, clip.height // geometry.spatial_ratio, clip.width // geometry.spatial_ratio)


def clip_of_sample(sample: SampleSize, geometry: LatentGeometry) -> ClipSize:
    """The clip size in pixels of a sample size; inverse of `sample_of_clip`."""
    return ClipSize(sample.frames, sample.height * geometry.spatial_ratio, sample.width * geometry.spatial_ratio)


class ForeignModel(ABC, Generic[NetworkT]):
    """A family's networks in one format."""

    settings: ClassVar[Mapping[str, object]] = MappingProxyType({})
    """Fields of the network that the format's own code fixes and no tensor shows: an epsilon. They are part of every
    network that is read or written."""
    peer: ClassVar[str | None] = None
    """The package that has the network too, for `--verify`; see `peer_output`."""

    @abstractmethod
    def rows(self, network: NetworkT) -> list[Row]:
        """The table of names and layouts, expanded: every tensor of ours, and those that hold it in the format."""

    def peer_output(self, network: NetworkT, read: ReadTensor, inputs: ModelInput) -> Tensor:
        """Output of the peer's own network, as ours gives it, fp32. Asked for only where `peer` is installed.

        Args:
            network: with the format's settings.
            read: one of our tensors by its name; they are to be held one layer at a time.
            inputs: of the network.
        """
        raise NotImplementedError


class ConfiguredModel(ForeignModel[NetworkT]):
    """Safetensors and a configuration: that of a config.json, or the metadata in the header of a single file.

    `shapes` are those of the tensors that lie beside it: name -> shape. A format without any configuration tells its
    networks by them alone.
    """

    @abstractmethod
    def recognizes(self, config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> bool:
        """Whether the configuration describes one of this family's networks in this format."""

    @abstractmethod
    def read_config(
        self, config: Mapping[str, Any], shapes: Mapping[str, Shape]
    ) -> tuple[NetworkT, SampleSize | None]:
        """The network that a configuration describes, and its sample size where that is stated.

        Raises:
            ValueError: it describes something that the family's network is not; all of it is named.
        """

    @abstractmethod
    def write_config(self, network: NetworkT, sample: SampleSize) -> Mapping[str, Any]:
        """The configuration that describes a network; in a single file, strings to strings."""

    def untold(self, config: Mapping[str, Any]) -> list[str]:
        """Sizes that a configuration leaves to the format's defaults, so that they may be those of other weights."""
        return []


class ConfigFolder(ConfiguredModel[NetworkT]):
    """A folder with config.json, which alone is recognized (`shapes` are empty then), and safetensors.

    The folder may also be a part of another, as diffusers' `transformer/` is of a pipeline.
    """

    stem: ClassVar[str] = "diffusion_pytorch_model"
    """Of the names of the files with the weights."""
    class_name: ClassVar[str] = ""
    """`_class_name` in config.json; empty: `recognizes` looks for something else."""

    def recognizes(self, config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> bool:
        """Whether config.json names this format's class of network."""
        return config.get("_class_name") == self.class_name


class SingleFile(ConfiguredModel[NetworkT]):
    """A family's networks as one safetensors file each."""


class SatCheckpoint(ForeignModel[NetworkT]):
    """Files of SAT's trainer, whose code may have several versions that do not take the same files.

    Names are those after the prefix of the network in the engine.
    """

    versions: ClassVar[tuple[str, ...]]
    """Of the format's own code."""
    unread_tables: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Tables that the code wants and never reads -> our tensor whose type they have."""

    @abstractmethod
    def rows(self, network: NetworkT, version: str | None = None) -> list[Row]:
        """The table for a version's files; unset: of the version that is the network's own."""

    @abstractmethod
    def version_of(self, network: NetworkT, asked: str | None) -> str:
        """The version that a file is written for. Raises ValueError: the asked one cannot build the network."""

    @abstractmethod
    def version_in(self, shapes: Mapping[str, Shape]) -> str:
        """The version whose layouts a file has."""

    @abstractmethod
    def recognizes(self, names: Collection[str]) -> bool:
        """Whether a file with these tensors holds one of this family's networks."""

    @abstractmethod
    def one_layer(self) -> NetworkT:
        """Any network of one layer, whose table tells the names of a layer."""

    @abstractmethod
    def parameters(self, content: Any) -> dict[str, Any]:
        """Network parameters in upstream's YAML or model_config.json, as read; empty if there are none.

        Raises:
            ValueError: values are of another type or out of range; all of them are named.
        """

    @abstractmethod
    def read_tensors(
        self, shapes: Mapping[str, Shape], read: ReadTensor, parameters: Mapping[str, Any]
    ) -> tuple[NetworkT, SampleSize]:
        """The network of a file, and the size of its tables; `parameters` go before what the tensors show.

        Raises:
            ValueError: tensors that would tell are missing, or nothing tells some part of it; `--model` would.
        """

    @abstractmethod
    def sample_in(
        self, network: NetworkT, shapes: Mapping[str, Shape], read: ReadTensor, parameters: Mapping[str, Any]
    ) -> SampleSize:
        """Sample size of a file's tables, where the network is known."""

    @abstractmethod
    def described(self, network: NetworkT) -> str:
        """A network that was told by tensors alone, for the warning that says so."""

    @abstractmethod
    def write_parameters(
        self, network: NetworkT, sample: SampleSize, version: str, lora: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """The content of model_config.json; `lora` are `r` and `lora_alpha` of adapters in the file."""

    def table_names(self, network: NetworkT) -> Collection[str]:
        """Tables that a file may have, which are computed and not learned."""
        return ()

    def tables(self, network: NetworkT, sample: SampleSize, version: str) -> dict[str, Tensor]:
        """The tables that a version's files have, fp32, made for clips of `sample`."""
        return {}

    def tables_like(self, network: NetworkT, sample: SampleSize, names: Collection[str]) -> dict[str, Tensor]:
        """Computed values of the tables among a file's `names`."""
        return {}

    def is_table(self, stored: Tensor, computed: Tensor) -> bool:
        """Whether a stored table, of any type, is the computed one up to rounding; the shapes are equal."""
        raise NotImplementedError


def settings_in(network: NetworkConfig, foreign: Mapping[str, ForeignModel]) -> dict[str, Any]:
    """Field -> its value in a network, of all that any of its family's formats fixes (`ForeignModel.settings`)."""
    return {field: getattr(network, field) for model in foreign.values() for field in model.settings}


def changed_settings(
    theirs: NetworkConfig, ours: NetworkConfig, foreign: Mapping[str, ForeignModel]
) -> list[tuple[str, Any, Any]]:
    """(field, its value in `theirs`, in `ours`) of those in which two networks of a family differ."""
    values = settings_in(ours, foreign)
    return [
        (field, value, values[field])
        for field, value in settings_in(theirs, foreign).items()
        if value != values[field]
    ]


def diffusers_version() -> str:
    """Value of `_diffusers_version` in a config.json: the installed version, or the oldest that knows all networks."""
    try:
        return version("diffusers")
    except PackageNotFoundError:
        return "0.32.0"
