"""Run configuration: one dataclass per concern, command line and YAML."""
