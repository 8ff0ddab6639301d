"""Cached latents of a run: read where they are there, else encoded and written (`--latent-cache`)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from vidtron.config.errors import ConfigurationError
from vidtron.config.run import RunConfig
from vidtron.data.decoding.loader import Clip
from vidtron.data.latents.header import LatentCacheError
from vidtron.data.latents.parts import Content
from vidtron.data.latents.store import LatentStore, Size
from vidtron.data.planning.plan import Plan, PlannedSample
from vidtron.encoders.base import TextEncoder, VideoAutoencoder
from vidtron.encoders.factory import encoded_terms
from vidtron.models.inputs import SampleSpec
from vidtron.training.encoded import EncodedClip, from_tensors, to_tensors
from vidtron.training.packing import text_name

KINDS = {"first_frame": (torch.uint8,), "mask": (torch.bool,)}
"""Types of an entry's tensors that are not floating point, by the end of their names."""


def cache_terms(
    config: RunConfig,
    plan: Plan,
    dtype: torch.dtype,
    autoencoder: VideoAutoencoder,
    text_encoders: Sequence[TextEncoder],
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
        **encoded_terms(config.encoders, dtype, autoencoder, text_encoders),
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
        text_encoders: Sequence[TextEncoder],
        spec: SampleSpec,
    ) -> None:
        """
        Args:
            folder: new, or a cache made with the same terms.
            config: the run.
            plan: of the training, with fixed windows.
            dtype: of the encoders.
            autoencoder: of the run.
            text_encoders: of the run.
            spec: of the model's samples.

        Raises:
            ConfigurationError: the folder cannot be used; with every reason.
        """
        terms = cache_terms(config, plan, dtype, autoencoder, text_encoders, image_conditioned=spec.image_latents)
        self._plan = plan
        self._autoencoder = autoencoder
        self._spec = spec
        self._empty = tuple(encoder.encode([""])[0].to(torch.device("cpu")) for encoder in text_encoders)
        sizes = [bucket.size for bucket in plan.buckets]
        try:
            self.store = LatentStore(folder, terms, sizes, len(plan.index), self._problem)
        except LatentCacheError as error:
            raise ConfigurationError(error.errors) from error
        self.on_failure: Callable[[LatentCacheError], None] = _raise
        """Called, from any thread, where something cannot be written; unless it raises, the run goes on without."""

    def lookup(self, sample: PlannedSample, frame_numbers: Sequence[int]) -> EncodedClip | None:
        """The sample as it was encoded before, on the CPU; None where it was not.

        Raises:
            LatentCacheError: it cannot be read now.
        """
        key = self._plan.index[sample.row].key
        tensors = self.store.get(sample.row, key, sample.bucket.size, frame_numbers)
        return None if tensors is None else from_tensors(tensors, self._empty)

    def record(self, clip: Clip, encoded: EncodedClip) -> None:
        """Write what was encoded of a clip, unless it is there, or could not be used again."""
        content = self.content(clip, encoded)
        if not self._problem(clip.size, content.tensors):
            self._try(lambda: self.store.put(clip.row, clip.size, content))

    def content(self, clip: Clip, encoded: EncodedClip) -> Content:
        """The entry of a clip."""
        return Content(clip.key, clip.frame_numbers, to_tensors(encoded, self._empty, self._spec.texts))

    def sync(self) -> None:
        """Return when all that was recorded is on the disk."""
        self._try(self.store.sync)

    def close(self) -> None:
        """End what is being written. May be called again."""
        self._try(self.store.close)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except LatentCacheError as error:
            self.on_failure(error)

    def _problem(self, size: Size, tensors: Mapping[str, torch.Tensor]) -> str:
        """Why the tensors of an entry are not what this run's encoders would give for a clip of a size; empty if
        they may be."""
        shapes = self._shapes(size, tensors)
        if tensors.keys() != shapes.keys():
            return f"it holds {', '.join(sorted(tensors)) or 'nothing'} for {', '.join(sorted(shapes))}"
        for name, tensor in tensors.items():
            shape, expected = tuple(tensor.shape), shapes[name]
            if shape != expected:
                return f"{name} has the shape {shape} for {expected}"
            kinds = KINDS.get(name.rpartition(".")[2], (torch.float32, torch.bfloat16))
            if tensor.dtype not in kinds:
                return f"{name} is of {tensor.dtype} for {' or '.join(map(str, kinds))}"
            if not torch.isfinite(tensor).all():
                return f"{name} is not finite"
        return ""

    def _shapes(self, size: Size, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of a good entry; a text may have fewer rows than the encoder gives."""
        _, height, width = size
        moments = self._autoencoder.geometry.latent_shape(*size)
        shapes: dict[str, tuple[int, ...]] = {"mean": moments}
        if self._autoencoder.has_variance:
            shapes["logvar"] = moments
        for number, text in enumerate(self._spec.texts):
            stored = tensors.get(text_name(number))
            rows = text.length if stored is None or stored.dim() != 2 else min(len(stored), text.length)
            shapes[text_name(number)] = (rows, text.width)
            if text.masked:
                shapes[text_name(number, "mask")] = (text.length,)
            if text.pooled_width:
                shapes[text_name(number, "pooled")] = (text.pooled_width,)
        if self._spec.image_latents:
            shapes["first_frame"] = (3, height, width)
        return shapes


def _raise(error: LatentCacheError) -> None:
    raise error
