"""Sampling with a trained model, and files of video."""
