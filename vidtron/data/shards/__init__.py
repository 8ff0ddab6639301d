"""Folders of shards: their index, and reading from them."""
