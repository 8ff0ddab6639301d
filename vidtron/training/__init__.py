"""The trainer: clips to latents, steps, evaluation, logging, resumption."""

from vidtron.training.checks import check
from vidtron.training.clip_fit import clip_fit
from vidtron.training.run import run
from vidtron.training.trainer import TrainingResult

__all__ = ["TrainingResult", "check", "clip_fit", "run"]
