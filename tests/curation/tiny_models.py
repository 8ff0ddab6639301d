"""Tiny randomly initialised models in transformers' format, for the steps that run networks."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

WORDS = ("a", "dog", "runs", "on", "the", "street", "USER:", "ASSISTANT:", "video")
IMAGE_TOKEN = "<image>"
IMAGE_SIDE, PATCH = 28, 14


def tokenizer(end: str) -> Any:
    """One token for each known word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", end, IMAGE_TOKEN]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if end == "<end>":
        made.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token=end,
        additional_special_tokens=[IMAGE_TOKEN], padding_side="left",
    )  # fmt: skip


def vision_config() -> dict[str, Any]:
    return dict(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=IMAGE_SIDE, patch_size=PATCH, projection_dim=12,
    )  # fmt: skip


def make_clip(folder: Path) -> Path:
    """A CLIP model with 12 features."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    words = tokenizer("<end>")
    words.save_pretrained(folder)
    text = dict(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, projection_dim=12, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=vision_config(), projection_dim=12)
    CLIPModel(config).save_pretrained(folder)
    return folder


def make_head(path: Path, features: int = 12) -> Path:
    """The aesthetic head's shape with fewer numbers, under the names that its authors gave."""
    torch.manual_seed(1)
    sizes = [features, 8, 6, 4, 2, 1]
    state = {}
    for number, (ins, outs) in zip((0, 2, 4, 6, 7), pairwise(sizes), strict=True):
        state[f"layers.{number}.weight"] = torch.randn(outs, ins)
        state[f"layers.{number}.bias"] = torch.randn(outs)
    torch.save(state, path)
    return path


def make_llava(folder: Path, template: bool) -> Path:
    """A LLaVA that answers with random words."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(2)
    words = tokenizer("</s>")
    text = dict(
        model_type="llama", vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **vision_config()}, text_config=text,
        image_token_index=3, vision_feature_layer=-1,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight[: words.convert_tokens_to_ids(WORDS[0])] = 0  # it says words, not special tokens
    model.save_pretrained(folder)
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    part = "{{ '<image> ' if part['type'] == 'image' else part['text'] }}"
    chat = "USER: {% for part in messages[0]['content'] %}" + part + "{% endfor %} ASSISTANT:"
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIDE}, crop_size=side),
        tokenizer=words, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=chat if template else None,
    ).save_pretrained(folder)  # fmt: skip
    return folder
