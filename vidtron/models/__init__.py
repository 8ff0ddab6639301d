"""The networks, built from megatron-core layers."""
