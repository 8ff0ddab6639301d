"""The classes of pretrained encoders: one line for each."""

from vidtron.encoders.autoencoder_kl import ImageAutoencoder
from vidtron.encoders.autoencoder_kl_cogvideox import CogVideoXAutoencoder
from vidtron.encoders.autoencoder_kl_wan import WanAutoencoder
from vidtron.encoders.clip import CLIPTextEncoder
from vidtron.encoders.diffusers_vae import DiffusersAutoencoder
from vidtron.encoders.t5 import T5TextEncoder
from vidtron.encoders.transformers_text import TransformersTextEncoder
from vidtron.encoders.umt5 import UMT5TextEncoder

_AUTOENCODERS: tuple[type[DiffusersAutoencoder], ...] = (
    CogVideoXAutoencoder,
    ImageAutoencoder,
    WanAutoencoder,
)
_TEXT_ENCODERS: tuple[type[TransformersTextEncoder], ...] = (
    T5TextEncoder,
    UMT5TextEncoder,
    CLIPTextEncoder,
)

AUTOENCODERS = {one.CLASS_NAME: one for one in _AUTOENCODERS}
"""By the `_class_name` of a folder's config.json."""
TEXT_ENCODERS = {one.MODEL_TYPE: one for one in _TEXT_ENCODERS}
"""By the `model_type` of a folder's config.json."""
