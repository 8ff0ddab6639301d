"""Errors of a run that only the trainer can tell, found before any work."""

from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.data.index import ShardIndex
from vidtron.data.plan import Plan
from vidtron.training import folder
from vidtron.training.resume import data_errors, find_checkpoint
from vidtron.training.starting_weights import find_weights, folder_errors, weights_errors


def check(config: RunConfig, world: World) -> list[str]:
    """One message per error, each beginning with the flag and saying what would be accepted.

    Encoders are compared with a checkpoint's when the run has opened them.
    """
    weights = find_weights(config.checkpoint)
    if weights is not None:
        return [*folder_errors(config.checkpoint, weights), *weights_errors(config, weights)]
    latest = find_checkpoint(config.checkpoint.load)
    errors = folder.check_folders(config.checkpoint, latest)
    if latest is None or errors:
        return errors
    plan = Plan.from_config(ShardIndex.open(config.data.data_path), config.data, config.training.seed)
    return data_errors(latest, {"--data-path": plan.fingerprint()})
