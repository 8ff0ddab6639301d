"""Names of models -> presets, and families -> what builds them.

Presets are light, so that the command line can read them; a family is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from vidtron.models.cogvideox.config import PRESETS as COGVIDEOX_PRESETS
from vidtron.models.preset import Preset

if TYPE_CHECKING:
    from megatron.core.transformer.module import MegatronModule

    from vidtron.config.data import ClipSize
    from vidtron.config.run import RunConfig
    from vidtron.config.world import World
    from vidtron.parallel import Groups

_PRESETS: dict[str, Preset] = {**COGVIDEOX_PRESETS}


class Family(Protocol):
    """What the trainer asks of a kind of model."""

    @property
    def name(self) -> str: ...

    def build(
        self,
        run: RunConfig,
        groups: Groups,
        *,
        pre_process: bool = True,
        post_process: bool = True,
        vp_stage: int | None = None,
    ) -> MegatronModule: ...

    def parameter_names(self, run: RunConfig) -> list[str]: ...
    def weight_sizes(self, run: RunConfig) -> dict[str, int]: ...
    def check(self, run: RunConfig, world: World) -> list[str]: ...
    def latent_shape(self, run: RunConfig, size: ClipSize | None = None) -> tuple[int, int, int, int]: ...
    def tokens_per_sample(self, run: RunConfig, size: ClipSize | None = None) -> int: ...
    def sequence_length(self, run: RunConfig, size: ClipSize | None = None) -> int: ...
    def flops_per_sample(self, run: RunConfig, size: ClipSize | None = None) -> float: ...
    def rounded_size(self, run: RunConfig, height: int, width: int) -> tuple[int, int]: ...
    def nearest_frames(self, run: RunConfig, num_frames: int) -> tuple[int, ...]: ...
    def size_errors(self, run: RunConfig, size: ClipSize) -> list[str]: ...
    def image_conditioned(self, network: Any) -> bool: ...
    def temporal_patch(self, network: Any) -> int: ...


def preset_names() -> tuple[str, ...]:
    """All names that `--model` takes."""
    return tuple(_PRESETS)


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in _PRESETS:
        raise ValueError(f"--model {name}: accepted: {', '.join(_PRESETS)}")
    return _PRESETS[name]


def family_of(name: str) -> Family:
    """The family of the preset `name`."""
    match preset(name).family:
        case "cogvideox":
            from vidtron.models.cogvideox.family import CogVideoXFamily

            return CogVideoXFamily()
        case unknown:
            raise ValueError(f"preset {name} names the family {unknown!r}, which does not exist")
