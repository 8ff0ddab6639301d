"""What the configuration alone can be refused for. Every other room checks what it knows more about."""

import math
from collections.abc import Iterator

from vidtron.config.objective_check import check_objective
from vidtron.config.run import RunConfig
from vidtron.config.world import World


def check(config: RunConfig, world: World) -> list[str]:
    """One message per error, each beginning with the flag and saying what would be accepted."""
    return [
        *_not_finite(config),
        *_out_of_range(config),
        *check_objective(config, world),
        *_check_learning_rate(config),
        *_check_averages(config),
        *_check_evaluation(config),
        *_check_run_folder(config),
        *_check_logging(config, world),
        *_check_adapters(config),
    ]


def _out_of_range(config: RunConfig) -> Iterator[str]:
    training, optimizer = config.training, config.optimizer
    at_least_one: dict[str, float | None] = {
        "train-iters": training.train_iters,
        "global-batch-size": training.global_batch_size,
        "eval-interval": training.eval_interval,
        "eval-iters": training.eval_iters,
        "eval-sigma-bins": config.validation.eval_sigma_bins,
        "exit-interval": training.exit_interval,
        "lr-decay-iters": optimizer.lr_decay_iters,
        "save-interval": config.checkpoint.save_interval,
        "keep-latest": config.checkpoint.keep_latest,
        "log-interval": config.logging.log_interval,
        "lora-rank": config.adaptation.lora_rank,
    }
    above_zero: dict[str, float | None] = {
        "exit-duration-in-mins": training.exit_duration_in_mins,
        "adam-eps": optimizer.adam_eps,
        "scale-factor": config.encoders.scale_factor,
        "peak-tflops": config.logging.peak_tflops,
        "lora-alpha": config.adaptation.lora_alpha,
    }
    at_least_zero = {
        "seed": training.seed,
        "lr": optimizer.lr,
        "min-lr": optimizer.min_lr,
        "lr-warmup-iters": optimizer.lr_warmup_iters,
        "weight-decay": optimizer.weight_decay,
        "clip-grad": optimizer.clip_grad,
        "validation-guidance-scale": config.validation.validation_guidance_scale,
    }
    below_one: dict[str, float | None] = {
        "adam-beta1": optimizer.adam_beta1,
        "adam-beta2": optimizer.adam_beta2,
        "sgd-momentum": optimizer.sgd_momentum,
        "lr-warmup-fraction": optimizer.lr_warmup_fraction,
        "lora-dropout": config.adaptation.lora_dropout,
    }
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


def _check_averages(config: RunConfig) -> Iterator[str]:
    # Widths from that of the uniform average on have no power function that rises.
    for flag, values, limit in (
        ("ema-decay", config.ema.ema_decay, 1.0),
        ("ema-power", config.ema.ema_power, 12**-0.5),
    ):
        for value in values:
            if not 0 < value < limit:
                yield f"--{flag} {value:g}; accepted: more than 0 and less than {limit:.4g}"
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
    elif checkpoint.save.exists() and not checkpoint.save.is_dir():
        yield f"--save {checkpoint.save}: not a folder; accepted: a folder, which is made if it does not exist"
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
