"""Starts the run of a layout: as many ranks as it needs, on this machine."""

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vidtron.checkpoint import latest
from vidtron.config import yaml_file
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.training.comparison.layouts import Layout
from vidtron.training.run_checks import errors_of

LOG = "log.txt"
CONFIG = "config.yaml"


class FailedRunError(RuntimeError):
    """The ranks of a layout have ended with an error; says how, with the end of what they have printed."""


def without_files(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """A run that leaves nothing behind and stops for nothing; and what of it was left out, by flag.

    The length of the run stays, for the learning rate may depend on it.
    """
    left_out = []
    given = config.checkpoint
    if given.load is not None and given.load == given.save and latest(given.load) is None:  # a run yet to start
        config = replace(config, checkpoint=replace(given, load=None))
    changes = (
        ("checkpoint", {"save": None, "save_interval": None, "async_save": False, "overwrite": False}),
        ("training", {"eval_interval": None, "exit_interval": None, "exit_duration_in_mins": None}),
        ("logging", {"wandb_project": None, "tensorboard": False}),
    )
    for name, values in changes:
        section = getattr(config, name)
        left_out += [
            f"--{field.replace('_', '-')}"
            for field, value in values.items()
            if getattr(section, field) != value and field != "tensorboard"
        ]
        config = replace(config, **{name: replace(section, **values)})
    return config, left_out


def with_common_batch(config: RunConfig, layouts: Sequence[Layout]) -> RunConfig:
    """The run with a global batch that all layouts can divide, where it has none of its own."""
    training = config.training
    if training.global_batch_size is not None or config.data.bucket_config is not None:
        return config
    samples = training.micro_batch_size * math.lcm(*(layout.samples_divisor for layout in layouts))
    return replace(config, training=replace(training, global_batch_size=samples))


def layout_errors(flag: str, layout: Layout, config: RunConfig, machine: World, devices: int) -> list[str]:
    """Why the run cannot be under a layout.

    Args:
        flag: that names the layout.
        layout: to be checked.
        config: of the run.
        machine: as one rank alone would have it.
        devices: GPUs of it; without any, any number of ranks shares its CPU.
    """
    told = f"{flag} {layout.name}"
    if machine.has_cuda and layout.ranks > devices:
        return [
            f"{told}: needs {layout.ranks} ranks, and this machine has {devices} GPUs; accepted: layouts of at most "
            f"{devices} ranks (CUDA_VISIBLE_DEVICES= in the environment compares on the CPU)"
        ]
    try:
        applied = layout.applied(config)
    except ValueError as error:
        return [f"{told}: {error}"]
    memory = machine.memory if machine.has_cuda else machine.memory // layout.ranks
    world = replace(machine, size=layout.ranks, rank=0, local_rank=0, memory=memory)
    return [f"{told}: {error}" for error in errors_of(applied, world)]


def run_layout(layout: Layout, config: RunConfig, folder: Path, command: Sequence[str]) -> None:
    """Run a layout to its end.

    Args:
        layout: of the run.
        config: of the run, without the layout.
        folder: made; takes the run's configuration and what it prints.
        command: what torchrun starts, with its arguments; `--config FILE` is added.

    Raises:
        FailedRunError: it has not ended well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(yaml_file.dump(layout.applied(config)), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(layout.ranks)]
    # What this process was started under, if anything, is not the ranks' launcher.
    launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in launcher}
    with (
        (folder / LOG).open("w", encoding="utf-8") as log,
        subprocess.Popen(
            [*launch, *command, "--config", str(folder / CONFIG)], stdout=log, stderr=log, env=environment
        ) as process,
    ):
        try:
            status = process.wait()
        except BaseException:  # torchrun ends its ranks with itself
            process.terminate()
            raise
    if status:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        own = [line for line in lines if line.startswith(("error: ", "[rank"))]  # the others are torchrun's
        end = "\n".join(f"    {line}" for line in (own or lines)[-20:])
        raise FailedRunError(f"{layout.name}: ended with status {status}; what it printed last:\n{end}")
