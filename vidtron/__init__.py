"""vidtron: pretraining and fine-tuning of video diffusion transformers on megatron-core."""

__version__ = "0.1.0"
