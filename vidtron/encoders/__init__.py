"""Video autoencoders and text encoders, frozen, and two built-in ones that need no download."""

from vidtron.encoders.base import EncodedText, Posterior, TextEncoder, VideoAutoencoder
from vidtron.encoders.factory import check, text_encoders, video_autoencoder
from vidtron.encoders.normalisation import Normalisation, normalisation_of

__all__ = [
    "EncodedText",
    "Normalisation",
    "Posterior",
    "TextEncoder",
    "VideoAutoencoder",
    "check",
    "normalisation_of",
    "text_encoders",
    "video_autoencoder",
]
