"""A family of models outside vidtron: a small diffusion transformer as unlike CogVideoX as its layers allow.

Latents of 20 channels, 3 frames x 24 x 24 pixels each, in clips of 3n + 2 frames; two texts with masks, which enter by
cross-attention, and a pooled vector; modulation by tables; norms over all heads; gated MLPs; a learned variance.
"""

from toydit.config import PRESETS
from vidtron.models.registration import Registration

REGISTRATION = Registration(PRESETS, "toydit.family:FAMILY")
