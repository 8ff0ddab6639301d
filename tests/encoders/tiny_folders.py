"""Tiny randomly initialised diffusers and transformers folders, for tests that load encoders."""

from collections.abc import Sequence
from pathlib import Path

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


def make_tiny_t5(folder: Path, width: int = 32, words: Sequence[str] = WORDS) -> Path:
    """A T5 encoder of two layers with a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    torch.manual_seed(0)
    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in words)]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = T5Config(
        vocab_size=len(pieces),
        d_model=width,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    T5EncoderModel(config).save_pretrained(folder)
    return folder


def check_encoders(run: RunConfig, world: World, *, width: int = 32, geometry: LatentGeometry = CAUSAL) -> list[str]:
    """What is wrong with a run's encoders beside a model of one text of `width` numbers and those latents."""
    return encoders.check(run, world, geometry, (TextSpec(16, width),))
