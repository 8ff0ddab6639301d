"""Cached latents of a run: read where they are there, else encoded and written (`--latent-cache`)."""

from collections.abc import Sequence
from pathlib import Path

import torch

from vidtron.config.errors import ConfigurationError
from vidtron.config.run import RunConfig
from vidtron.data.decoding.loader import Clip
from vidtron.data.latents.header import LatentCacheError
from vidtron.data.latents.parts import Content
from vidtron.data.latents.store import LatentStore
from vidtron.data.planning.plan import Plan, PlannedSample
from vidtron.encoders.base import TextEncoder, VideoAutoencoder
from vidtron.encoders.factory import encoded_terms
from vidtron.training.encoded import EncodedClip, from_tensors, to_tensors


def cache_terms(
    config: RunConfig,
    plan: Plan,
    dtype: torch.dtype,
    autoencoder: VideoAutoencoder,
    text_encoder: TextEncoder,
    *,
    image_conditioned: bool,
) -> dict[str, str]:
    """What decides the entries of a run's cache, by the flags that set it."""
    data = config.data
    window = data.clip_window if data.clip_window != "random" else f"random of --seed {config.training.seed}"
    if data.clip_window == "random" and data.bucket_config is not None:
        window += f", --bucket-rule {data.bucket_rule}"
    sizes = sorted({tuple(bucket.size) for bucket in plan.buckets})
    return {
        **encoded_terms(config.encoders, dtype, autoencoder, text_encoder),
        "--data-path (the shards)": plan.index.fingerprint,
        "--num-frames, --height, --width or --bucket-config": ", ".join(f"{t} x {h} x {w}" for t, h, w in sizes),
        "--fps": "unset" if data.fps is None else f"{data.fps:g}",
        "--frame-interval": str(data.frame_interval),
        "--short-clip": data.short_clip,
        "--clip-window": window,
        "--model (first frames of image-to-video)": "kept" if image_conditioned else "not kept",
    }


class LatentCache:
    """The cache of one rank. `lookup` may be called from the loader's threads."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        plan: Plan,
        dtype: torch.dtype,
        autoencoder: VideoAutoencoder,
        text_encoder: TextEncoder,
        *,
        image_conditioned: bool,
    ) -> None:
        """
        Args:
            folder: new, or a cache made with the same terms.
            config: the run.
            plan: of the training, with fixed windows.
            dtype: of the encoders.
            autoencoder: of the run.
            text_encoder: of the run.
            image_conditioned: first frames are kept.

        Raises:
            ConfigurationError: the folder cannot be used; with every reason.
        """
        terms = cache_terms(config, plan, dtype, autoencoder, text_encoder, image_conditioned=image_conditioned)
        try:
            self.store = LatentStore(folder, terms, [bucket.size for bucket in plan.buckets])
        except LatentCacheError as error:
            raise ConfigurationError(error.errors) from error
        self._plan = plan
        self._empty_LE = text_encoder.encode([""])[0].float().cpu()

    def lookup(self, sample: PlannedSample, frame_numbers: Sequence[int]) -> EncodedClip | None:
        """The sample as it was encoded before, on the CPU; None where it was not.

        Raises:
            LatentCacheError: the entry shows other frames, or cannot be read.
        """
        key = self._plan.index[sample.row].key
        tensors = self.store.get(sample.row, key, sample.bucket.size, frame_numbers)
        return None if tensors is None else from_tensors(tensors, self._empty_LE)

    def record(self, clip: Clip, encoded: EncodedClip) -> None:
        """Write what was encoded of a clip, unless it is there.

        Raises:
            LatentCacheError: it cannot be written.
        """
        self.store.put(clip.row, clip.size, self.content(clip, encoded))

    def content(self, clip: Clip, encoded: EncodedClip) -> Content:
        """The entry of a clip."""
        return Content(clip.key, clip.frame_numbers, to_tensors(encoded, self._empty_LE))

    def sync(self) -> None:
        """Return when all that was recorded is on the disk."""
        self.store.sync()

    def close(self) -> None:
        """End what is being written. May be called again."""
        self.store.close()
