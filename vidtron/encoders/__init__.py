"""Video autoencoders and text encoders, frozen, and two built-in ones that need no download."""

from vidtron.encoders.base import EncodedText, Posterior, TextEncoder, VideoAutoencoder
from vidtron.encoders.factory import check, text_encoders, video_autoencoder

__all__ = [
    "EncodedText",
    "Posterior",
    "TextEncoder",
    "VideoAutoencoder",
    "check",
    "text_encoders",
    "video_autoencoder",
]
