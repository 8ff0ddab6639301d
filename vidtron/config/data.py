"""Clips, the frozen encoders, and how both become latents."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from vidtron.config.ranges import Location, Range


class ClipSize(NamedTuple):
    """Size of a clip as a model is trained on it."""

    num_frames: int
    height: int
    """Pixels."""
    width: int
    """Pixels."""


@dataclass
class DataConfig:
    """Data"""

    data_path: list[Annotated[str, Location()]] = field(default_factory=list)
    """Folders of shards written by tools/build_shards.py, local or of an object store (s3://, gs://, http://); several
    are used as one, or blended where a weight stands before each: 0.7 A 0.3 B."""
    valid_data_path: list[Annotated[str, Location()]] = field(default_factory=list)
    """Folders of shards for evaluation."""
    num_frames: Annotated[int, Range(1, 10_000)] = 49
    """Frames of a training clip; 4k+1 for the causal autoencoders."""
    height: Annotated[int, Range(1, 16384)] = 480
    """Pixels; clips are resized to cover and centre-cropped."""
    width: Annotated[int, Range(1, 16384)] = 720
    """Pixels."""
    bucket_config: Path | None = None
    """YAML file of buckets, {resolution: {frames: [keep probability, global batch size]}}; it takes the place of
    --num-frames, --height, --width and --global-batch-size."""
    bucket_rule: Literal["hash", "opensora"] = "hash"
    """How a clip finds its bucket: draws by hash, or exactly as Open-Sora 1.1 and 1.2 do."""
    bucket_batch: Literal["given", "tokens", "compute"] = "given"
    """Global batch sizes of buckets: as in the YAML; with as many tokens as --global-batch-tokens says; or with as
    many FLOPs as the batch of the YAML's most expensive bucket."""
    global_batch_tokens: Annotated[int, Range(1, 1_000_000_000_000)] | None = None
    """Tokens of a global batch with --bucket-batch tokens."""
    bucket_batch_multiple: Annotated[int, Range(1, 1_000_000)] = 1
    """Global batch sizes that --bucket-batch finds are multiples of this; give one that the replicas divide."""
    shuffle_slice: Annotated[int, Range(1, 1_000_000_000)] = 256
    """Neighbouring samples of a shard that stay together in the shuffled order of an epoch."""
    shuffle_window: Annotated[int, Range(1, 1_000_000_000)] = 65536
    """Samples that are shuffled one by one; more mix better and touch more shards at a time."""
    fps: Annotated[float, Range(0.001, 1000)] | None = None
    """Frames a second taken from a clip, by its time stamps; unset: by --frame-interval."""
    frame_interval: Annotated[int, Range(1, 1_000_000)] = 1
    """Every so-many-th frame is taken."""
    clip_window: Literal["random", "centre", "sat"] = "random"
    """Which frames of a longer clip are taken: a window at random, its middle, or those of CogVideoX's own training
    code (SAT), which asks for --fps."""
    short_clip: Literal["skip", "pad", "loop"] = "pad"
    """A clip with too few frames is left out, continued with its last frame, or repeated."""
    decoder: Literal["auto", "dali", "pyav"] = "auto"
    """auto: DALI for the codecs it reads on this device, PyAV for the rest."""
    num_workers: Annotated[int, Range(0, 256)] = 1
    """Decoding processes per rank; 0: decode in the training process."""
    prefetch_samples: Annotated[int, Range(0, 4096)] = 4
    """Decoded clips that wait in memory, per rank."""
    max_bad_samples: Annotated[int, Range(0, 1_000_000_000)] = 100
    """The run stops when more samples than this could not be decoded and were replaced."""
    data_cache_path: Path | None = None
    """Folder of this node for copies of remote shards; unset: a folder of the system's temporary files."""
    data_cache_gib: Annotated[float, Range(0, 1_000_000, above=True)] = 100.0
    """Size of that folder; the copies used longest ago make room."""

    @property
    def size(self) -> ClipSize:
        """Size of the run's clips, where there are no buckets."""
        return ClipSize(self.num_frames, self.height, self.width)


@dataclass
class EncoderConfig:
    """Frozen encoders"""

    vae_path: Path | None = None
    """Local folder of a diffusers AutoencoderKLCogVideoX, AutoencoderKLWan, or AutoencoderKL, which encodes frame by
    frame; unset: the built-in space-time transform."""
    text_encoder_path: Path | None = None
    """Local folder of a transformers T5, UMT5 or CLIP encoder and its tokenizer; unset: the built-in hashed-token
    embedding."""
    text_encoder_2_path: Path | None = None
    """The same for the second text of models that take two."""
    scale_factor: Annotated[float, Range(1e-4, 1e4)] | None = None
    """Latents are the autoencoder's output times this, after its shift where it has one; unset: as the folder of
    --vae-path says, the built-in one's times 1. Autoencoders that bring mean and deviation of each channel (Wan's)
    take none."""
    posterior: Literal["sample", "mean"] = "sample"
    """Latents are drawn from what the autoencoder of --vae-path says of a clip, or are its mean (Wan). The built-in
    one leaves no choice."""
    latent_cache: Path | None = None
    """Folder of latents and text embeddings, local or shared by all nodes: read where they are there, else encoded and
    written. Each sample then keeps its frames over all epochs."""
    encode_ahead: Annotated[int, Range(0, 1000)] = 1
    """Global batches that are encoded while the model trains on another; 0: encode between the steps."""
    encoder_offload: bool = False
    """The weights of --vae-path and --text-encoder-path wait in the CPU's memory, pinned, and are copied to the GPU
    for each batch; with --encode-ahead 0 never beside the training step. The built-in encoders have none, and without
    a GPU there is nothing to do."""
    vae_tiling: bool = False
    """Autoencoder of --vae-path: encode and decode large frames in overlapping tiles. Less memory, slightly different
    latents. The built-in one has no tiles and goes on as it is."""
    vae_slicing: bool = False
    """Autoencoder of --vae-path: work on one video of a batch at a time. Clips of a training run are encoded one by
    one anyway."""
    compile_encoders: bool = False
    """Compile the encoders of --vae-path and --text-encoder-path with torch.compile: worth it for long runs of few
    sizes."""
