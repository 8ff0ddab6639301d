"""What the configuration alone can be refused for. Every other room checks what it knows more about."""

from collections.abc import Iterator
from pathlib import Path

from vidtron.config.folders import folder_error
from vidtron.config.ranges import refusals, shown
from vidtron.config.run import RunConfig
from vidtron.config.world import World


def check(config: RunConfig, world: World) -> list[str]:
    """One message per error, each beginning with the flag and saying what would be accepted."""
    return [
        *check_values(config, world),
        *_check_learning_rate(config),
        *_check_averages(config),
        *_check_evaluation(config),
        *_check_run_folder(config),
        *_check_logging(config, world),
        *_check_adapters(config),
    ]


def check_values(config: RunConfig, world: World) -> list[str]:
    """Numbers out of their fields' ranges, names that cannot be names, and folders that cannot be written."""
    return [*(refusal.message for refusal in refusals(config)), *_check_folders(config, world)]


def _check_folders(config: RunConfig, world: World) -> Iterator[str]:
    """Folders that will be written; each is tried by one rank of those that share it."""
    latent_cache = config.encoders.latent_cache
    for flag, folder, tries in (
        ("--save", config.checkpoint.save, world.rank == 0),
        # One that is there may be whole, and only be read.
        ("--latent-cache", latent_cache, world.rank == 0 and not (latent_cache and _is_folder(latent_cache))),
        ("--data-cache-path", config.data.data_cache_path, world.local_rank == 0),
    ):
        if folder is not None and tries:
            problem = folder_error(folder)
            if problem is not None:
                yield f"{flag} {shown(str(folder))}: {problem}"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _check_learning_rate(config: RunConfig) -> Iterator[str]:
    optimizer = config.optimizer
    if optimizer.min_lr > optimizer.lr:
        yield f"--min-lr {optimizer.min_lr:g}: above --lr {optimizer.lr:g}; accepted: 0 to {optimizer.lr:g}"
    if optimizer.lr_warmup_iters and optimizer.lr_warmup_fraction is not None:
        yield (
            f"--lr-warmup-fraction {optimizer.lr_warmup_fraction:g}: --lr-warmup-iters is given too; accepted: "
            "one of the two"
        )
    decay = optimizer.lr_decay_iters or config.training.train_iters
    if decay >= 1 and optimizer.lr_warmup_iters >= decay:
        source = "--lr-decay-iters" if optimizer.lr_decay_iters else "--train-iters"
        yield f"--lr-warmup-iters {optimizer.lr_warmup_iters}; accepted: less than {source} {decay}"


def _check_averages(config: RunConfig) -> Iterator[str]:
    for flag, values in (("ema-decay", config.ema.ema_decay), ("ema-power", config.ema.ema_power)):
        if len(set(values)) < len(values):
            yield f"--{flag} {' '.join(map(str, values))}: the same twice; accepted: different numbers"


def _check_evaluation(config: RunConfig) -> Iterator[str]:
    validation = config.validation
    asked = {
        "--validation-prompts": bool(validation.validation_prompts),
        "--validation-prompts-file": validation.validation_prompts_file is not None,
    }
    if validation.validation_images and not any(asked.values()):
        yield "--validation-images: needs --validation-prompts TEXTS"
    interval = config.training.eval_interval
    if interval is not None and not config.data.valid_data_path and not any(asked.values()):
        yield f"--eval-interval {interval}: needs --valid-data-path SHARDS or --validation-prompts TEXTS"
    for flag, given in asked.items():
        if given and interval is None:
            yield f"{flag}: needs --eval-interval STEPS"
        if given and config.checkpoint.save is None:
            yield f"{flag}: needs --save FOLDER"
    if config.data.valid_data_path and config.training.eval_interval is None:
        yield f"--valid-data-path {' '.join(config.data.valid_data_path)}: needs --eval-interval STEPS"


def _check_run_folder(config: RunConfig) -> Iterator[str]:
    checkpoint = config.checkpoint
    if checkpoint.save is None:
        for flag, given in {
            "--save-interval": checkpoint.save_interval is not None,
            "--keep-latest": checkpoint.keep_latest is not None,
            "--async-save": checkpoint.async_save,
            "--exit-interval": config.training.exit_interval is not None,
            "--exit-duration-in-mins": config.training.exit_duration_in_mins is not None,
            "--overwrite": checkpoint.overwrite,
        }.items():
            if given:
                yield f"{flag}: needs --save FOLDER"
    if checkpoint.overwrite and checkpoint.load is not None and checkpoint.load == checkpoint.save:
        yield "--overwrite: --load would read what it empties; accepted: one of the two"
    if checkpoint.finetune and checkpoint.load in (None, checkpoint.save):
        yield "--finetune: starts from the weights of another run; accepted: with --load FOLDER, not that of --save"


def _check_logging(config: RunConfig, world: World) -> Iterator[str]:
    logging = config.logging
    if logging.wandb_project is None:
        if logging.wandb_exp_name is not None:
            yield f"--wandb-exp-name {logging.wandb_exp_name}: needs --wandb-project NAME"
    elif "wandb" not in world.packages:
        yield f"--wandb-project {logging.wandb_project}: needs the package wandb (pip install wandb)"


def _check_adapters(config: RunConfig) -> Iterator[str]:
    """Flags that only mean something beside --lora-rank, and what adapters do not work with."""
    given = config.adaptation
    if given.lora_rank is not None and config.precision.fp8_format is not None:
        yield f"--lora-rank {given.lora_rank}: adapters beside FP8 layers are untested; accepted: without --fp8-format"
    if given.lora_rank is None:
        for flag, value in (
            ("lora-alpha", given.lora_alpha),
            ("lora-dropout", given.lora_dropout),
            ("save-lora-only", given.save_lora_only),
            ("lora-base", given.lora_base),
            ("lora-load", given.lora_load),
        ):
            if value:
                typed = f"--{flag}" if value is True else f"--{flag} {value}"
                yield f"{typed}: there are no adapters; accepted: with --lora-rank"
