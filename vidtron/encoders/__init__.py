"""Video autoencoders and text encoders, frozen, and two built-in ones that need no download."""

from vidtron.encoders.base import Posterior, TextEncoder, VideoAutoencoder
from vidtron.encoders.factory import check, text_encoder, video_autoencoder

__all__ = ["Posterior", "TextEncoder", "VideoAutoencoder", "check", "text_encoder", "video_autoencoder"]
