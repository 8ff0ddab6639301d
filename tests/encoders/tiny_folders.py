"""Tiny randomly initialised diffusers and transformers folders, for tests that load encoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vidtron import encoders
from vidtron.config.geometry import LatentGeometry
from vidtron.config.run import RunConfig
from vidtron.config.text import TextSpec
from vidtron.config.world import World
from vidtron.encoders.space_time import CAUSAL

WORDS = ("a", "clip", "of", "the", "street", "with", "bikes", "and", "taxi", "man", "in", "car")


def make_tiny_vae(folder: Path, latent_channels: int = 16) -> Path:
    """An AutoencoderKLCogVideoX with CogVideoX's geometry and few channels."""
    from diffusers import AutoencoderKLCogVideoX

    torch.manual_seed(0)
    AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        temporal_compression_ratio=4,
    ).save_pretrained(folder)
    return folder


def make_tiny_image_vae(folder: Path, **config: Any) -> Path:
    """An AutoencoderKL with Stable Diffusion's geometry and few channels; `config` overrides its fields."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    AutoencoderKL(
        **{
            "block_out_channels": (8, 8, 8, 8),
            "norm_num_groups": 2,
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            **config,
        }
    ).save_pretrained(folder)
    return folder


def make_tiny_wan_vae(folder: Path) -> Path:
    """An AutoencoderKLWan with Wan 2.1's geometry, mean and deviation, and few channels."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=4, num_res_blocks=1).save_pretrained(folder)
    return folder


def make_tiny_wan_2_2_vae(folder: Path) -> Path:
    """The same of Wan 2.2's 5B model: 48 channels of 16 x 16 pixels."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=8,
        num_res_blocks=1,
        z_dim=48,
        latents_mean=[0.02 * channel - 0.5 for channel in range(48)],
        latents_std=[0.4 + 0.01 * channel for channel in range(48)],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    ).save_pretrained(folder)
    return folder


def _write_tokenizer(folder: Path, words: Sequence[str], before: str = "") -> int:
    """A tokenizer of a few words, `before` in front of each caption and </s> behind it; returns how many tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in words), *filter(None, [before])]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{before} $A </s>".strip(),
        special_tokens=[(piece, pieces.index(piece)) for piece in filter(None, ("</s>", before))],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return len(pieces)


_T5_SIZES = {"d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu"}


def make_tiny_t5(folder: Path, width: int = 32, words: Sequence[str] = WORDS) -> Path:
    """A T5 encoder of two layers with a tokenizer of a few words."""
    from transformers import T5Config, T5EncoderModel

    tokens = _write_tokenizer(folder, words)
    torch.manual_seed(0)
    T5EncoderModel(T5Config(vocab_size=tokens, d_model=width, **_T5_SIZES)).save_pretrained(folder)
    return folder


def make_tiny_umt5(folder: Path, width: int = 32) -> Path:
    """The same of UMT5."""
    from transformers import UMT5Config, UMT5EncoderModel

    tokens = _write_tokenizer(folder, WORDS)
    torch.manual_seed(0)
    UMT5EncoderModel(UMT5Config(vocab_size=tokens, d_model=width, **_T5_SIZES)).save_pretrained(folder)
    return folder


def make_tiny_clip(folder: Path, tokenizer: Path | None = None, *, projected: bool = False) -> Path:
    """A CLIP text encoder of two layers and 10 positions: 32 features, 24 after the projection where it has one."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokens = _write_tokenizer(tokenizer or folder, WORDS, "<s>")
    config = CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=32,
        intermediate_size=64,
        projection_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=10,
        pad_token_id=0,
        bos_token_id=tokens - 1,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).save_pretrained(folder)
    return folder


def check_encoders(run: RunConfig, world: World, *, width: int = 32, geometry: LatentGeometry = CAUSAL) -> list[str]:
    """What is wrong with a run's encoders beside a model of one text of `width` numbers and those latents."""
    return encoders.check(run, world, geometry, (TextSpec(16, width),))
