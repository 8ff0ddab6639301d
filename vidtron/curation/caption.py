"""Step caption: text by a vision-language model of transformers, from a local folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from vidtron.config.ranges import Range
from vidtron.curation.frames import frames_at_shares
from vidtron.curation.step import Measure, ModelStep, missing_files
from vidtron.curation.table import Row

PROMPT = (
    "Describe this video in at most six sentences, so that it could be filmed again from your words: what is seen, "
    "what happens, where, in which light and style, and how the camera moves. Do not mention the frames."
)
_FILES = {
    "config.json": "config.json",
    "weights (.safetensors, .bin)": "*.safetensors *.bin",
    "tokenizer (tokenizer.json)": "tokenizer.json tokenizer.model vocab.json",
    "processor (preprocessor_config.json or processor_config.json)": "preprocessor_config.json processor_config.json",
}
_MODEL = (
    "a vision-language model of transformers, for instance llava-hf/llava-v1.6-mistral-7b-hf or Qwen/Qwen2.5-VL-7B"
)


@dataclass(frozen=True)
class Caption(ModelStep):
    """captions by a vision-language model"""

    name: ClassVar[str] = "caption"
    adds: ClassVar[Mapping[str, pa.DataType]] = {"text": pa.string()}
    packages: ClassVar[Mapping[str, str]] = {"transformers": "transformers"}

    model: Path | None = None
    """Local folder of a vision-language model in the format of transformers."""
    prompt: str = PROMPT
    """What the model is asked."""
    shares: tuple[float, ...] = (0.1, 0.5, 0.9)
    """Which frames it sees, 0 for the first and 1 for the last; models made for one picture get one: 0.5."""
    short_side: Annotated[int, Range(1, 16384)] = 336
    """Pixels; frames are made smaller to it."""
    max_new_tokens: Annotated[int, Range(1, 1_000_000)] = 300
    """Longest caption."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; auto: as they are stored."""

    def errors(self, resuming: bool) -> list[str]:
        """Errors of the step, absent weights among them; one message each."""
        return [*super().errors(resuming), *missing_files("caption --model", self.model, _MODEL, _FILES)]

    def open(self, worker: int) -> Measure:
        """Load the model and its processor."""
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        device = self.torch_device(worker)
        dtype = self.dtype if self.dtype == "auto" else getattr(torch, self.dtype)
        processor = AutoProcessor.from_pretrained(self.model, local_files_only=True)
        model = AutoModelForImageTextToText.from_pretrained(self.model, local_files_only=True, dtype=dtype)
        model = model.to(device).eval().requires_grad_(False)
        prompt = chat(processor, self.prompt, len(self.shares))

        @torch.inference_mode()
        def measure(row: Row) -> list[Row]:
            images = [smaller(frame, self.short_side) for frame in frames_at_shares(Path(row["path"]), self.shares)]
            inputs = processor(images=images, text=prompt, return_tensors="pt").to(device, model.dtype)
            tokens = model.generate(**inputs, do_sample=False, max_new_tokens=self.max_new_tokens)
            answer = tokens[:, inputs["input_ids"].shape[1] :]
            text = " ".join(processor.batch_decode(answer, skip_special_tokens=True)[0].split())
            if not text:
                raise ValueError("the model said nothing")
            return [{"text": text}]

        return measure


def chat(processor: Any, prompt: str, images: int) -> str:
    """The prompt as the model was trained to see it: by its chat template, or LLaVA's first form without one."""
    if getattr(processor, "chat_template", None):
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": prompt}]
        return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    token = getattr(processor, "image_token", "<image>")
    return f"USER: {' '.join([token] * images)} {prompt} ASSISTANT:"


def smaller(frame_HWC: np.ndarray, short_side: int) -> Any:
    """A picture of PIL, its short side at most so long."""
    from PIL import Image

    image = Image.fromarray(frame_HWC)
    scale = short_side / min(image.size)
    if scale >= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
