"""What a preset sets gives way to what the user asked."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

from vidtron.config.run import RunConfig

Change = Callable[[str, str, object, str], None]
"""Section, field, value and why."""


def adapt_preset(config: RunConfig, given: Collection[str]) -> list[str]:
    """Change values that nobody gave where what was given would be refused beside them.

    Args:
        config: is changed.
        given: fields of any section that flags or a file gave; they stay as they are.

    Returns:
        One line for each change, for the user.
    """
    remarks: list[str] = []

    def change(section: str, name: str, value: object, reason: str) -> None:
        part = getattr(config, section)
        before = getattr(part, name)
        if name in given or before == value:
            return
        setattr(config, section, dataclasses.replace(part, **{name: value}))
        told = "none" if value is None else value
        remarks.append(f"--{name.replace('_', '-')} is {told} instead of {config.model}'s {before}: {reason}")

    _adapt_warm_up(config, change)
    schedule = config.objective.schedule
    if "schedule" in given and not schedule.startswith(("zero-snr", "ddpm-")):
        change("objective", "noise_shift", 1.0, f"--schedule {schedule} has no table to shift")
    if config.data.frame_interval > 1:
        change("data", "fps", None, f"--frame-interval {config.data.frame_interval} counts frames")
    elif config.data.bucket_rule == "opensora":
        change("data", "fps", None, "--bucket-rule opensora counts frames")
    _adapt_output(config, given, change)
    return remarks


def _adapt_warm_up(config: RunConfig, change: Change) -> None:
    optimizer, iterations = config.optimizer, config.training.train_iters
    if optimizer.lr_warmup_fraction is not None:
        change("optimizer", "lr_warmup_iters", 0, "--lr-warmup-fraction is given")
        return
    decay = iterations if optimizer.lr_decay_iters is None else optimizer.lr_decay_iters
    if decay >= 1 and optimizer.lr_warmup_iters >= decay:
        source = "--train-iters" if optimizer.lr_decay_iters is None else "--lr-decay-iters"
        change("optimizer", "lr_warmup_iters", decay - 1, f"the warm-up is shorter than {source} {decay}")


def _adapt_output(config: RunConfig, given: Collection[str], change: Change) -> None:
    """A network that predicts a variance has a second half of output channels."""
    network: Any = config.network  # of families with channels that depend on it
    variance = config.objective.predicted_variance
    if variance == "none" or "out_channels" in given or not hasattr(network, "latent_channels"):
        return
    latent = network.channels
    reason = f"--predicted-variance {variance} takes as many channels again as the latent has"
    if network.in_channels == 2 * latent:  # channels alone would not tell an image condition from wider latents
        change("network", "latent_channels", latent, reason)
    change("network", "out_channels", 2 * latent, reason)
