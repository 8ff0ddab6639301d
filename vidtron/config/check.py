"""What the configuration alone can be refused for. Every other room checks what it knows more about."""

import math
from collections.abc import Iterator

from vidtron.config.run import RunConfig
from vidtron.config.world import World


def check(config: RunConfig, world: World) -> list[str]:
    """One message per error, each beginning with the flag and saying what would be accepted."""
    return [
        *_not_finite(config),
        *_out_of_range(config),
        *_check_learning_rate(config),
        *_check_evaluation(config),
        *_check_run_folder(config),
        *_check_logging(config, world),
    ]


def _out_of_range(config: RunConfig) -> Iterator[str]:
    training, optimizer, objective = config.training, config.optimizer, config.objective
    at_least_one: dict[str, float | None] = {
        "train-iters": training.train_iters,
        "global-batch-size": training.global_batch_size,
        "eval-interval": training.eval_interval,
        "eval-iters": training.eval_iters,
        "exit-interval": training.exit_interval,
        "lr-decay-iters": optimizer.lr_decay_iters,
        "save-interval": config.checkpoint.save_interval,
        "keep-latest": config.checkpoint.keep_latest,
        "log-interval": config.logging.log_interval,
    }
    above_zero: dict[str, float | None] = {
        "exit-duration-in-mins": training.exit_duration_in_mins,
        "adam-eps": optimizer.adam_eps,
        "noise-shift": objective.noise_shift,
        "scale-factor": config.encoders.scale_factor,
        "peak-tflops": config.logging.peak_tflops,
    }
    at_least_zero = {
        "seed": training.seed,
        "lr": optimizer.lr,
        "min-lr": optimizer.min_lr,
        "lr-warmup-iters": optimizer.lr_warmup_iters,
        "weight-decay": optimizer.weight_decay,
        "clip-grad": optimizer.clip_grad,
    }
    below_one: dict[str, float | None] = {
        "adam-beta1": optimizer.adam_beta1,
        "adam-beta2": optimizer.adam_beta2,
        "sgd-momentum": optimizer.sgd_momentum,
        "lr-warmup-fraction": optimizer.lr_warmup_fraction,
    }
    share = {"text-dropout": objective.text_dropout, "image-dropout": objective.image_dropout}
    for flag, value in at_least_one.items():
        if value is not None and value < 1:
            yield f"--{flag} {value}; accepted: 1 or more"
    for flag, value in above_zero.items():
        if value is not None and value <= 0:
            yield f"--{flag} {value:g}; accepted: more than 0"
    for flag, value in at_least_zero.items():
        if value < 0:
            yield f"--{flag} {value:g}; accepted: 0 or more"
    for flag, value in below_one.items():
        if value is not None and not 0 <= value < 1:
            yield f"--{flag} {value:g}; accepted: 0 or more and less than 1"
    for flag, value in share.items():
        if not 0 <= value <= 1:
            yield f"--{flag} {value:g}; accepted: 0 to 1"


def _not_finite(config: RunConfig) -> Iterator[str]:
    """nan compares false with every bound, so the other checks would let it pass."""
    for section in vars(config).values():
        if section is config.network or isinstance(section, str):
            continue
        for name, value in vars(section).items():
            if isinstance(value, float) and not math.isfinite(value):
                yield f"--{name.replace('_', '-')} {value}; accepted: a finite number"


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


def _check_evaluation(config: RunConfig) -> Iterator[str]:
    if config.training.eval_interval is not None and not config.data.valid_data_path:
        yield f"--eval-interval {config.training.eval_interval}: needs --valid-data-path SHARDS"
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
    elif checkpoint.save.exists() and not checkpoint.save.is_dir():
        yield f"--save {checkpoint.save}: not a folder; accepted: a folder, which is made if it does not exist"
    if checkpoint.finetune and checkpoint.load is None:
        yield "--finetune: needs --load CHECKPOINT"
    if checkpoint.overwrite and checkpoint.load is not None and checkpoint.load == checkpoint.save:
        yield "--overwrite: --load would read what it empties; accepted: one of the two"


def _check_logging(config: RunConfig, world: World) -> Iterator[str]:
    logging = config.logging
    if logging.wandb_project is None:
        if logging.wandb_exp_name is not None:
            yield f"--wandb-exp-name {logging.wandb_exp_name}: needs --wandb-project NAME"
    elif "wandb" not in world.packages:
        yield f"--wandb-project {logging.wandb_project}: needs the package wandb (pip install wandb)"
