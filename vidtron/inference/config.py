"""What to sample with."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from vidtron.config.parallel import ParallelConfig
from vidtron.config.ranges import Range
from vidtron.encoders.diffusers_vae import LATENT_FRAMES_AT_ONCE
from vidtron.recipe.sampler import SamplerConfig

ENCODER_PATHS = ("vae_path", "text_encoder_path", "text_encoder_2_path")
"""Flags of sampling that take the place of the training's."""


@dataclass
class GivenFramesConfig:
    """Given frames and long videos"""

    reference: list[Path] = field(default_factory=list)
    """Images and videos whose frames --mask-strategy puts into the videos, for models trained with --frame-masks."""
    mask_strategy: str | None = None
    """Latent frames that are given, as Open-Sora says it: loop,reference,reference_start,target_start,length,edit; ...
    (fields left out: 0,0,0,0,1,0; edit 0 keeps a frame, 1 makes it anew)."""
    loop: Annotated[int, Range(1, 10_000)] = 1
    """Clips of a video, each of which goes on from the last; a prompt |0|a|2|b changes with them."""
    condition_frames: Annotated[int, Range(1, 1000)] = 4
    """--loop: latent frames at the end of a clip that the next one is given."""


@dataclass
class SamplingConfig:
    """Sampling"""

    load: Path
    """Run folder (its latest checkpoint) or one iter_* folder; or weights: a folder of diffusers (a pipeline's, or
    its transformer), of SAT, or converted."""
    model: str | None = None
    """Preset of weights that no run wrote, where nothing else tells the network."""
    trust_pickle: bool = False
    """SAT: open .pt files that need more than tensors and plain values; they can run any code."""
    verify_checkpoint: bool = True
    """Compare the files of --load with their checksums."""
    lora_base: Path | None = None
    """Folder of the frozen weights below --load's adapters, if they are not where the checkpoint says."""
    sampling_steps: Annotated[int, Range(1, 10_000)] = 50
    """Evaluations of the network for one video."""
    guidance_scale: Annotated[float, Range(0, 1000)] = 6.0
    """Classifier-free guidance; 1: none."""
    ema: str | None = None
    """Sample from this average of the weights (0.9999, power_0.05; SAT's: ema); unset: from the weights."""
    dtype: Literal["fp32", "bf16"] | None = None
    """Compute in it; unset: as in the training, and weights of other formats as they are stored (fp16: bf16)."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 1234
    """The noise of a video depends on this and on the prompt's number alone."""
    negative_prompt: str | None = None
    """Guidance leads away from this text; unset: from what the training drops text to."""
    num_frames: Annotated[int, Range(1, 10_000)] | None = None
    """Frames of a video; unset: as in the training."""
    height: Annotated[int, Range(1, 16384)] | None = None
    """Pixels; unset: as in the training."""
    width: Annotated[int, Range(1, 16384)] | None = None
    """Pixels; unset: as in the training."""
    fps: Annotated[float, Range(0.001, 1000)] | None = None
    """Frames a second at which the videos play; unset: as in the training, or 8."""
    image_latent_scale: Literal["scaled", "unscaled", "inverted"] | None = None
    """Image-to-video models: the image's latents are multiplied by the scale factor (SAT's training), by 1 (its
    sampling) or by 1 / scale factor (diffusers with invert_scale_latents); unset: as in the training."""
    split_guidance: Literal["auto", "on", "off"] = "auto"
    """Run the network with text and without it on two replicas at once. auto: where the videos are done sooner so,
    as with fewer prompts than replicas."""
    vae_path: Path | None = None
    """Local folder of a diffusers autoencoder; unset: the training's autoencoder."""
    text_encoder_path: Path | None = None
    """Local folder of a transformers text encoder and its tokenizer; unset: the training's text encoder."""
    text_encoder_2_path: Path | None = None
    """The same for the second text of models that take two."""
    vae_tiling: bool = False
    """Autoencoder of --vae-path: decode overlapping tiles of the picture. Less memory, a slightly different result."""
    vae_frames_at_once: Annotated[int, Range(2, 10_000)] = LATENT_FRAMES_AT_ONCE
    """Autoencoder of --vae-path: latent frames that are decoded at a time. More are faster and take more memory; Wan's
    are always decoded one by one."""
    method: SamplerConfig = field(default_factory=SamplerConfig)
    given: GivenFramesConfig = field(default_factory=GivenFramesConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
