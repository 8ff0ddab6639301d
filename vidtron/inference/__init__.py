"""Sampling latents with a trained model, decoding them, and videos on disk."""
