"""From samples to frames, in processes ahead of their use."""
