"""Folders of latents and text embeddings that were encoded before."""
