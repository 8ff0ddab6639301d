"""Steps aesthetic and match: what CLIP (Radford et al. 2021) says of single frames."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from vidtron.curation.frames import frames_at_shares
from vidtron.curation.step import Measure, ModelStep, missing_files
from vidtron.curation.table import CurationError, Row

_CLIP_FILES = {"config.json": "config.json", "weights (.safetensors, .bin)": "*.safetensors *.bin"}
_TOKENIZER = {"tokenizer (tokenizer.json)": "tokenizer.json vocab.json"}
_CLIP = "CLIP in the format of transformers, for instance openai/clip-vit-large-patch14"
_HEAD = "the aesthetic head sac+logos+ava1-l14-linearMSE"


@dataclass(frozen=True)
class _ClipStep(ModelStep):
    packages: ClassVar[Mapping[str, str]] = {"transformers": "transformers"}

    clip: Path | None = None
    """Local folder of CLIP ViT-L/14 in the format of transformers."""


@dataclass(frozen=True)
class Aesthetic(_ClipStep):
    """how good frames look, 1 to 10: a small network on CLIP's features"""

    name: ClassVar[str] = "aesthetic"
    adds: ClassVar[Mapping[str, pa.DataType]] = {"aesthetic": pa.float64()}

    head: Path | None = None
    """Weights (.pth or .safetensors) of the head 768-1024-128-64-16-1."""
    shares: tuple[float, ...] = (0.1, 0.5, 0.9)
    """Which frames are scored, 0 for the first and 1 for the last; the mean counts."""

    def errors(self, resuming: bool) -> list[str]:
        """Errors of the step, absent weights among them; one message each."""
        return [
            *super().errors(resuming),
            *missing_files("aesthetic --clip", self.clip, _CLIP, _CLIP_FILES),
            *missing_files("aesthetic --head", self.head, _HEAD, {}),
        ]

    def open(self, worker: int) -> Measure:
        """Load CLIP and the head."""
        import torch

        from vidtron.curation.clip_network import ClipNetwork, load_head

        assert self.clip is not None and self.head is not None
        clip = ClipNetwork(self.clip, self.torch_device(worker))
        head = load_head(self.head).to(clip.device)
        if head[0].in_features != clip.width:
            raise CurationError(
                f"--head {self.head}: takes {head[0].in_features} features, --clip {self.clip} has {clip.width}"
            )

        @torch.inference_mode()
        def measure(row: Row) -> list[Row]:
            features_BC = clip.image_features(frames_at_shares(Path(row["path"]), self.shares))
            return [{"aesthetic": float(head(features_BC).mean())}]

        return measure


@dataclass(frozen=True)
class Match(_ClipStep):
    """how well the caption fits the picture: CLIP's cosine times its scale"""

    name: ClassVar[str] = "match"
    needs: ClassVar[tuple[str, ...]] = ("path", "text")
    adds: ClassVar[Mapping[str, pa.DataType]] = {"match": pa.float64()}

    shares: tuple[float, ...] = (0.5,)
    """Which frames are compared, 0 for the first and 1 for the last; the mean counts."""

    def errors(self, resuming: bool) -> list[str]:
        """Errors of the step, absent weights among them; one message each."""
        files = {**_CLIP_FILES, **_TOKENIZER}
        return [*super().errors(resuming), *missing_files("match --clip", self.clip, _CLIP, files)]

    def open(self, worker: int) -> Measure:
        """Load CLIP and its tokenizer."""
        import torch

        from vidtron.curation.clip_network import ClipNetwork

        assert self.clip is not None
        clip = ClipNetwork(self.clip, self.torch_device(worker), text=True)

        @torch.inference_mode()
        def measure(row: Row) -> list[Row]:
            if not row["text"]:
                raise ValueError("it has no caption in the column text")
            images_BC = clip.image_features(frames_at_shares(Path(row["path"]), self.shares))
            return [{"match": float(clip.scale * (images_BC @ clip.text_features(row["text"])).mean())}]

        return measure
