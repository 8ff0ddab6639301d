"""What the configurations of all networks have in common."""

from dataclasses import Field
from typing import Any, ClassVar, Protocol, TypeVar


class NetworkConfig(Protocol):
    """A family's configuration of its network: a dataclass whose fields are flags."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    num_layers: int
    hidden_size: int
    num_attention_heads: int


NetworkT = TypeVar("NetworkT", bound=NetworkConfig)
"""The configuration of one family."""
NetworkT_contra = TypeVar("NetworkT_contra", bound=NetworkConfig, contravariant=True)
"""The same, where it is only received."""
