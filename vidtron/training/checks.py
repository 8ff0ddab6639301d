"""Errors of a run that only the trainer can tell, found before any work."""

from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.training import folder
from vidtron.training.resume import find_checkpoint


def check(config: RunConfig, world: World) -> list[str]:
    """One message per error, each beginning with the flag and saying what would be accepted."""
    return folder.check_folders(config.checkpoint, find_checkpoint(config.checkpoint.load))
