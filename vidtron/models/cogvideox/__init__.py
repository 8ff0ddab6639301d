"""CogVideoX 2B, 5B, 5B-I2V, 1.5-5B, 1.5-5B-I2V (arXiv:2408.06072)."""

from vidtron.models.cogvideox.config import PRESETS
from vidtron.models.registration import Registration

REGISTRATION = Registration(PRESETS, "vidtron.models.cogvideox.family:FAMILY")
