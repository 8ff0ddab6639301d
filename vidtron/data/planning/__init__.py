"""Which frames of which sample stand at which position of a run."""
