"""CLIP (Radford et al. 2021) from a local folder, and the aesthetic head on its features.

Shapes: B images, C features.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vidtron.config.foreign_json import parse_json
from vidtron.curation.step import load_state
from vidtron.curation.table import CurationError

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipNetwork:
    """A CLIP model of a local folder, frozen."""

    def __init__(self, folder: Path, device: torch.device, text: bool = False) -> None:
        from transformers import AutoTokenizer, CLIPModel

        self.device = device
        self._model = CLIPModel.from_pretrained(folder, local_files_only=True).to(device).eval().requires_grad_(False)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True) if text else None
        config = self._model.config
        self.width = int(config.projection_dim)
        self.scale = float(self._model.logit_scale.exp())
        self._side = int(config.vision_config.image_size)
        self._length = int(config.text_config.max_position_embeddings)
        self._mean, self._std = _normalisation(folder)

    def image_features(self, frames: list[np.ndarray]) -> Tensor:
        """Features of images, each of length 1: [B, C]."""
        pixels = torch.stack([self._pixels(frame) for frame in frames]).to(self.device)
        output = self._model.get_image_features(pixel_values=pixels)
        return torch.nn.functional.normalize(_tensor(output).float(), dim=-1)

    def text_features(self, text: str) -> Tensor:
        """[C] of length 1; the text is cut at CLIP's 77 tokens."""
        assert self._tokenizer is not None
        tokens = self._tokenizer(text, truncation=True, max_length=self._length, return_tensors="pt").to(self.device)
        output = self._model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return torch.nn.functional.normalize(_tensor(output).float(), dim=-1)[0]

    def _pixels(self, frame_HWC: np.ndarray) -> Tensor:
        """CLIP's own preprocessing: bicubic to the short side, square from the centre, normalised. Done here because
        transformers' image processors ask for torchvision."""
        height, width = frame_HWC.shape[:2]
        scale = self._side / min(height, width)
        size = (max(self._side, int(width * scale)), max(self._side, int(height * scale)))
        image = Image.fromarray(frame_HWC).resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - self._side) // 2, (size[1] - self._side) // 2
        square_HWC = np.asarray(image.crop((left, top, left + self._side, top + self._side)))
        pixels_CHW = torch.from_numpy(square_HWC.copy()).permute(2, 0, 1).float() / 255
        return (pixels_CHW - torch.tensor(self._mean)[:, None, None]) / torch.tensor(self._std)[:, None, None]


def load_head(path: Path) -> torch.nn.Sequential:
    """Linear layers, one after another and with nothing between them, from a state dictionary whose names end in
    NUMBER.weight and NUMBER.bias.

    Raises:
        CurationError: not such a file.
    """
    state = load_state(path)
    numbered = {int(name.split(".")[-2]): name for name in state if name.endswith(".weight")}
    if not numbered:
        raise CurationError(
            f"--head {path}: no names like layers.0.weight in it; accepted: the aesthetic head's state dictionary"
        )
    layers = []
    for _, name in sorted(numbered.items()):
        weight, bias = state[name].float(), state[name.removesuffix("weight") + "bias"].float()
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight, layer.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
        layers.append(layer)
    return torch.nn.Sequential(*layers).requires_grad_(False).eval()


def _normalisation(folder: Path) -> tuple[list[float], list[float]]:
    path = folder / "preprocessor_config.json"
    try:
        about: dict[str, Any] = parse_json(path.read_bytes()) if path.is_file() else {}
        return list(about.get("image_mean", _MEAN)), list(about.get("image_std", _STD))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CurationError(f"{path}: cannot be read ({error}); accepted: that of a CLIP model") from error


def _tensor(output: Any) -> Tensor:
    """transformers 4 returns features, transformers 5 an object that holds them."""
    return output if isinstance(output, Tensor) else output.pooler_output
