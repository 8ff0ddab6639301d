"""Values and combinations that the configuration alone can be refused for."""

import dataclasses
from pathlib import Path

import pytest

from vidtron.config.check import check
from vidtron.config.run import RunConfig
from vidtron.config.world import World

WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False, packages=frozenset({"wandb"}))


def config(**values) -> RunConfig:
    """A run with `section__field=value` changed."""
    run = RunConfig(model="none", network=None)
    for name, value in values.items():
        section, field = name.split("__")
        assert field in {f.name for f in dataclasses.fields(getattr(run, section))}
        setattr(getattr(run, section), field, value)
    return run


def test_defaults_are_accepted():
    assert check(config(), WORLD) == []


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ({"training__train_iters": 0}, "--train-iters 0; accepted: 1 to 1,000,000,000"),
        ({"training__eval_iters": -1}, "--eval-iters -1"),
        ({"training__global_batch_size": 0}, "--global-batch-size 0"),
        ({"training__exit_duration_in_mins": 0.0, "checkpoint__save": Path("x")}, "--exit-duration-in-mins 0;"),
        ({"training__exit_interval": 5}, "--exit-interval: needs --save"),
        ({"training__seed": -1}, "--seed -1"),
        ({"optimizer__lr": -1.0, "optimizer__min_lr": -2.0}, "--lr -1; accepted: 0 to 1000"),
        ({"optimizer__lr": float("nan")}, "--lr nan; accepted: 0 to 1000"),
        ({"optimizer__min_lr": 1.0}, "--min-lr 1: above --lr 1e-05"),
        ({"optimizer__adam_beta1": 1.0}, "--adam-beta1 1; accepted: 0 or more and less than 1"),
        ({"optimizer__adam_beta2": -0.1}, "--adam-beta2 -0.1"),
        ({"optimizer__clip_grad": -1.0}, "--clip-grad -1; accepted: 0 to 1,000,000,000"),
        ({"optimizer__lr_warmup_iters": 1000}, "--lr-warmup-iters 1000; accepted: less than --train-iters 1000"),
        ({"optimizer__lr_warmup_iters": 9, "optimizer__lr_decay_iters": 9}, "--lr-warmup-iters 9; accepted: less"),
        ({"optimizer__lr_warmup_iters": 9, "optimizer__lr_warmup_fraction": 0.1}, "--lr-warmup-fraction 0.1"),
        ({"optimizer__lr_warmup_fraction": 1.0}, "--lr-warmup-fraction 1; accepted: 0 or more and less than 1"),
        ({"objective__noise_shift": 0.0}, "--noise-shift 0"),
        ({"objective__text_dropout": 1.5}, "--text-dropout 1.5; accepted: 0 to 1"),
        ({"ema__ema_decay": [0.5, 1.0]}, "--ema-decay 1; accepted: more than 0 and less than 1"),
        ({"ema__ema_decay": [float("nan")]}, "--ema-decay nan; accepted: more than 0"),
        ({"ema__ema_decay": [0.5, 0.5]}, "--ema-decay 0.5 0.5: the same twice"),
        ({"ema__ema_power": [0.3]}, "--ema-power 0.3; accepted: more than 0 and less than 0.2887"),
        ({"training__eval_interval": 5}, "--eval-interval 5: needs --valid-data-path"),
        (
            {"training__eval_interval": 5, "validation__validation_prompts": ["a"]},
            "--validation-prompts: needs --save",
        ),
        (
            {"validation__validation_prompts_file": Path("p"), "checkpoint__save": Path("x")},
            "--validation-prompts-file: needs --eval-interval",
        ),
        ({"validation__eval_sigma_bins": 0}, "--eval-sigma-bins 0"),
        ({"validation__validation_guidance_scale": -1.0}, "--validation-guidance-scale -1"),
        ({"data__valid_data_path": ["v"]}, "--valid-data-path v: needs --eval-interval"),
        ({"checkpoint__save_interval": 5}, "--save-interval: needs --save"),
        ({"checkpoint__keep_latest": 5}, "--keep-latest: needs --save"),
        ({"checkpoint__keep_latest": 0, "checkpoint__save": Path("x")}, "--keep-latest 0"),
        ({"checkpoint__async_save": True}, "--async-save: needs --save"),
        ({"checkpoint__overwrite": True}, "--overwrite: needs --save"),
        ({"checkpoint__save": Path(__file__)}, f"--save {__file__}: not a folder"),
        (
            {"checkpoint__save": Path("x"), "checkpoint__load": Path("x"), "checkpoint__overwrite": True},
            "--overwrite: --load would read what it empties",
        ),
        ({"logging__log_interval": 0}, "--log-interval 0"),
        ({"logging__peak_tflops": 0.0}, "--peak-tflops 0"),
        ({"logging__wandb_exp_name": "a"}, "--wandb-exp-name a: needs --wandb-project"),
        ({"encoders__scale_factor": 0.0}, "--scale-factor 0"),
    ],
)
def test_one_error(values: dict, start: str):
    (error,) = [e for e in check(config(**values), WORLD) if not e.startswith("--min-lr -2")]
    assert error.startswith(start)


def test_all_errors_at_once():
    errors = check(config(training__train_iters=0, optimizer__clip_grad=-1.0, checkpoint__async_save=True), WORLD)
    assert [error.split()[0].rstrip(":") for error in errors] == ["--train-iters", "--clip-grad", "--async-save"]


def test_wandb_needs_its_package():
    without = dataclasses.replace(WORLD, packages=frozenset())
    run = config(logging__wandb_project="p")
    assert check(run, WORLD) == []
    (error,) = check(run, without)
    assert "package wandb" in error
    assert check(config(), without) == []  # tensorboard absent is no error
