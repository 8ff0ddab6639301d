"""Errors of a run that only the trainer can tell, found before any work."""

from vidtron.checkpoint import base_errors
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.data.index import ShardIndex
from vidtron.data.plan import Plan
from vidtron.training import folder
from vidtron.training.resume import data_errors, find_checkpoint


def check(config: RunConfig, world: World) -> list[str]:
    """One message per error, each beginning with the flag and saying what would be accepted.

    Encoders are compared with a checkpoint's when the run has opened them.
    """
    latest = find_checkpoint(config.checkpoint.load)
    errors = folder.check_folders(config.checkpoint, latest)
    lora_base = config.adaptation.lora_base
    if latest is None and lora_base is not None:
        errors.append(f"--lora-base {lora_base}: there are no adapters to go on with; accepted: with --load")
    if latest is not None:
        errors += base_errors(latest, lora_base)
    if latest is None or errors or config.checkpoint.finetune:
        return errors
    plan = Plan.from_config(ShardIndex.open(config.data.data_path), config.data, config.training.seed)
    return data_errors(latest, {"--data-path": plan.fingerprint()})
