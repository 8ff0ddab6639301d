"""Open-Sora 1.1 (STDiT2) and 1.2 (STDiT3): spatial and temporal attention in turns, texts by cross-attention."""

from vidtron.models.registration import Registration
from vidtron.models.stdit.config import PRESETS

REGISTRATION = Registration(PRESETS, "vidtron.models.stdit.family:FAMILY")
