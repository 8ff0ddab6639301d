"""One training run from its configuration to its end."""

import gc
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vidtron import checkpoint
from vidtron.checkpoint import lora_formats
from vidtron.config import yaml_file
from vidtron.config.errors import ConfigurationError
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.models import registry
from vidtron.models.layers.lora import is_adapter
from vidtron.models.layers.specs import choose_backend
from vidtron.parallel import Groups, broadcast_object, initialized, on_first_rank
from vidtron.recipe.from_config import objective_of
from vidtron.training import folder
from vidtron.training.assembly import TrainedModel, assemble
from vidtron.training.bad_samples import BadSamples
from vidtron.training.batch_size import global_batch_size
from vidtron.training.data_summary import summarize
from vidtron.training.forward_step import ForwardStep
from vidtron.training.logging import Logger
from vidtron.training.observation import Observer
from vidtron.training.resume import Progress, Restored, Saver, base_damage, restore
from vidtron.training.run_data import RunData
from vidtron.training.signals import Interrupted, StopRequests
from vidtron.training.starting_weights import start_from, weights_at
from vidtron.training.trainer import Trainer, TrainingResult


def run(config: RunConfig, world: World, observer: Observer | None = None) -> TrainingResult:
    """Train until the run is done or is asked to stop.

    Called on every rank. Whatever it sets up is gone when it returns, so that it can be called again in the same
    process.

    Args:
        config: has passed every room's check.
        world: as the launcher started this rank.
        observer: looks on; None: nobody does.

    Raises:
        ConfigurationError: data or encoders are not those of the checkpoint.
        CheckpointError: the checkpoint is of another model or optimizer.
        ConversionError: the weights to start from are not of the run's network.
        ShardError: shards cannot be read.
        TooManyBadSamplesError: more clips than `--max-bad-samples` cannot be decoded.
        NonFiniteStepError: loss or gradient norm is not finite, also when the step is run again.
        StorageError: something cannot be written, on all ranks; earlier checkpoints are as they were.
        KeyboardInterrupt: Ctrl-C came a second time.
    """
    with StopRequests(config.training, start=time.monotonic()) as requests, initialized(config, world) as groups:
        try:
            result = _run(config, groups, requests, observer or Observer())
        except Interrupted as interruption:  # while it was being set up
            if groups.rank == 0:
                print("leaving before the first step (signal); there is nothing to save", flush=True)
            result = TrainingResult(0, 0, interruption.reason, run_folder=config.checkpoint.save)
    if world.has_cuda:  # model and gradient buffers refer to each other through hooks
        gc.collect()
        torch.cuda.empty_cache()
    return result


def _run(config: RunConfig, groups: Groups, requests: StopRequests, observer: Observer) -> TrainingResult:
    requests.before_first_step(groups)
    family = registry.family_of(config.model)
    objective = objective_of(config.objective)
    with checkpoint.Search(
        config.checkpoint.load, groups, verify=config.checkpoint.verify_checkpoint
    ) as search:  # reads beside what follows
        data = RunData(config, groups, family, objective.schedule)
        if data.cache is not None:
            data.cache.on_failure = requests.fail
        requests.before_first_step(groups)
        model = assemble(family, config, groups)
        choice = search.choice()
    path, saved, remarks = _load(config, groups, model, data, choice)
    model.averages.start()  # wherever the weights have come from
    requests.before_first_step(groups)
    progress = Progress(saved.iteration, saved.consumed_samples, saved.evaluation_due) if saved else Progress()
    batch = None if config.data.bucket_config else global_batch_size(config, groups.world_size)
    config_yaml = yaml_file.dump(config)
    save = config.checkpoint.save
    if save is not None:
        on_first_rank(
            lambda: folder.prepare(
                save,
                overwrite=config.checkpoint.overwrite,
                iteration=progress.iteration,
                config_yaml=config_yaml,
                evaluates_again=progress.evaluation_due,
            ),
            groups,
        )
    logger = Logger(config, progress.iteration, active=groups.rank == 0)
    try:
        _introduce(config, groups, logger, model, data)
        if saved:
            logger.say(f"continuing after step {progress.iteration} ({progress.consumed_samples:,} samples)")
            if batch is not None and saved.global_batch_size != batch:
                logger.say(f"the global batch is {batch} from here on; it was {saved.global_batch_size}")
        for remark in remarks:
            logger.say(remark)
        return Trainer(
            config=config,
            groups=groups,
            family=family,
            model=model,
            data=data,
            forward_step=ForwardStep(objective, torch.bfloat16 if config.precision.bf16 else torch.float32),
            saver=_saver(
                config,
                groups,
                model,
                path,
                {"data": data.state(), "global_batch_size": batch},
                config_yaml,
                logger.say,
            ),
            logger=logger,
            bad_samples=BadSamples(
                data.plan,
                config.data.max_bad_samples,
                groups,
                logger.say,
                saved.bad_samples if saved else (),
            ),
            requests=requests,
            progress=progress,
            observer=observer,
        ).train()
    finally:
        logger.close()


def _load(
    config: RunConfig, groups: Groups, model: TrainedModel, data: RunData, choice: checkpoint.Choice
) -> tuple[Path | None, Restored | None, list[str]]:
    """Load what `--load` leads to: where it is, how far its run was (None for a fresh start), and what to log.

    The ranks follow what rank 0 finds.
    """
    path, adaptation = choice.path, config.adaptation
    errors = list(choice.errors)
    if path is not None and config.checkpoint.verify_checkpoint and not errors:
        errors = base_damage(path, adaptation.lora_base, partial(checkpoint.shared_inspect, groups=groups))
    if errors:
        raise ConfigurationError(errors)
    found = weights_at(config.checkpoint, path) if groups.rank == 0 else None
    weights = broadcast_object(found, 0, groups, groups.world)
    if weights is None and path is not None:
        saved = restore(path, model, data.state(), groups, adaptation.lora_base)
        return path, saved, [*choice.remarks, *saved.remarks]
    remarks = [*choice.remarks, *([] if weights is None else start_from(weights, config, model, groups))]
    if adaptation.lora_load is not None:
        form = lora_formats.format_of(adaptation.lora_load)
        family, verify = registry.family_of(config.model), config.checkpoint.verify_checkpoint
        adapters = lora_formats.read(adaptation.lora_load, form, family=family, verify=verify)
        checkpoint.take_adapters(adapters, adaptation.lora_scale, model.modules, groups)
        model.optimizer.reload_model_params()
    return (None if weights is None else weights.path), None, remarks


def _saver(
    config: RunConfig,
    groups: Groups,
    model: TrainedModel,
    path: Path | None,
    state: dict[str, Any],
    config_yaml: str,
    say: Callable[[str], None],
) -> Saver:
    """What saves all weights, or adapters alone with a record of the rest as it is now, loaded from `path`."""
    part = checkpoint.everything
    if config.adaptation.save_lora_only:
        part = is_adapter
        state = state | checkpoint.record_base(path, config.adaptation.lora_base, model.modules, groups)
    return Saver(config.checkpoint, groups, state, config_yaml=config_yaml, part=part, say=say)


def _introduce(config: RunConfig, groups: Groups, logger: Logger, model: TrainedModel, data: RunData) -> None:
    """What the run is, in a few lines."""
    layout = config.parallel
    parameters = [parameter for module in model.modules for parameter in module.parameters()]
    own = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    logger.say(
        f"{config.model} on {groups.world_size} ranks ({groups.device.type}): "
        f"tensor {layout.tensor_model_parallel_size} x pipeline {layout.pipeline_model_parallel_size} x "
        f"context {layout.context_parallel_size} x data {groups.dp_size}; {own:,} parameters on rank 0"
        f"{'' if trained == own else f', {trained:,} of them trained'}; layers: "
        f"{choose_backend(config.precision, World.from_environment())}"
    )
    if groups.rank == 0:  # the others need not go through the epoch
        summarize(data, logger.say)
