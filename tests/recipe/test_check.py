"""Objectives that the configuration alone can be refused for."""

import dataclasses

import pytest

from tests.config.test_check import WORLD, config
from vidtron.config.check import check as check_config
from vidtron.config.objective import ObjectiveConfig
from vidtron.recipe.check import check
from vidtron.recipe.choices import SCHEDULES

COGVIDEOX = {"schedule": "zero-snr", "parameterization": "velocity"}
FLOW = {"schedule": "flow", "parameterization": "flow"}
EDM = {"schedule": "edm", "parameterization": "edm"}
LINEAR = {"schedule": "ddpm-linear", "parameterization": "epsilon"}
GROUPS = {"timestep_sampling": "rank-groups", "timestep_ranks": 16}


def objective(world_size: int = 1, **values):
    """Errors of a run with these fields of the objective; those of other sections as section__field."""
    named = {name if "__" in name else f"objective__{name}": value for name, value in {**COGVIDEOX, **values}.items()}
    run, world = config(**named), dataclasses.replace(WORLD, size=world_size)
    return [*check_config(run, world), *check(run, world)]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"noise_shift": 3.0, "noise_shift_after_rescale": True},
        {"noise_shift": 3.0, "noise_shift_keep_start": True},
        {"schedule": "ddpm-linear", "parameterization": "epsilon", "predicted_variance": "learned"},
        {
            "schedule": "ddpm-linear",
            "parameterization": "epsilon",
            "timestep_density": "speed",
            "loss_weighting": "p2",
        },
        {**FLOW, "timestep_density": "logit-normal", "density_mean": 0.5, "timestep_shift": 3.0},
        {**FLOW, "timestep_shift_by_size": True},
        {**EDM, "timestep_density": "log-normal", "loss_weighting": "edm"},
        {"schedule": "edm", "parameterization": "epsilon", "edm_sigma_max": 200.0},
        {"loss_weighting": "sat-clamp", "sat_clamp": 5.0, "loss_type": "l1"},
        {"timestep_range": (0.4, 1.0)},
        {**GROUPS, "training__global_batch_size": 32},
        {**GROUPS, "timestep_groups": 4, "world_size": 16},
        {**GROUPS, "timestep_ranks": 8, "timestep_groups": 40, "world_size": 8},  # as published: off up to 8 ranks
    ],
)
def test_accepted(values):
    assert objective(**values) == []


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ({"density_mode_scale": 2.0}, "--density-mode-scale 2; accepted: -1 to 1.75"),
        ({"timestep_range": (0.5, 0.5)}, "--timestep-range 0.5 0.5; accepted: 0 <= FROM < TO <= 1"),
        ({"timestep_range": (0.5, 1.5)}, "--timestep-range 1.5; accepted: 0 to 1"),
        ({"timestep_shift": 0.0}, "--timestep-shift 0; accepted: 0.001 to 1000"),
        ({"snr_gamma": -1.0}, "--snr-gamma -1"),
        ({"offset_noise": -0.1}, "--offset-noise -0.1; accepted: 0 to 100"),
        ({"text_dropout": 1.5}, "--text-dropout 1.5; accepted: 0 to 1"),
        ({"image_dropout": -0.5}, "--image-dropout -0.5"),
        (
            {"schedule": "edm", "parameterization": "edm", "edm_sigma_max": 0.001},
            "--edm-sigma-max 0.001; accepted: more",
        ),
        ({"schedule": "flow"}, "--parameterization velocity: not with --schedule flow; accepted: epsilon, x0, flow,"),
        ({"parameterization": "epsilon"}, "--parameterization epsilon: not with --schedule zero-snr"),
        ({"predicted_variance": "learned"}, "--predicted-variance learned: not with --schedule zero-snr"),
        ({"timestep_density": "speed"}, "--timestep-density speed: not with --schedule zero-snr"),
        ({**FLOW, "noise_shift": 3.0}, "--noise-shift: needs --schedule zero-snr or ddpm-*"),
        (
            {"noise_shift_after_rescale": True, "noise_shift_keep_start": True},
            "--noise-shift-keep-start: needs --schedule zero-snr, and the shift before",
        ),
        ({"edm_rho": 3.0}, "--edm-rho: needs --schedule edm"),
        ({"sat_clamp": 5.0}, "--sat-clamp: needs --loss-weighting sat-clamp"),
        ({"density_mean": 0.0}, "--density-mean: needs --timestep-density log-normal or logit-normal"),
        ({"timestep_ranks": 8}, "--timestep-ranks: needs --timestep-sampling rank-groups"),
        ({"timestep_groups": 8}, "--timestep-groups: needs --timestep-sampling rank-groups"),
        (
            {"timestep_shift_by_size": True, "data__num_frames": 9},
            "--timestep-shift-by-size: --num-frames 9;",
        ),
        ({"timestep_sampling": "rank-groups"}, "--timestep-sampling rank-groups: needs --timestep-ranks"),
        ({**GROUPS, "timestep_groups": 3, "world_size": 16}, "--timestep-groups 3; accepted: a divisor of"),
        ({**GROUPS, "world_size": 8}, "--timestep-ranks 16: accepted: a divisor of the global batch, 8"),
        (
            {**GROUPS, "world_size": 16, "timestep_shift": 2.0},
            "--timestep-sampling rank-groups: accepted: --",
        ),
    ],
)
def test_refused(values, start):
    (error,) = objective(**values)
    assert error.startswith(start)


def test_every_mistake_at_once():
    errors = objective(snr_gamma=0.0, timestep_shift=-1.0, parameterization="epsilon")
    assert len(errors) == 3


def test_defaults_are_a_plain_rectified_flow():
    assert check(config(), WORLD) == []
    default = ObjectiveConfig()
    assert (default.schedule, default.parameterization, default.loss_weighting) == ("flow", "flow", "constant")
    assert (default.timestep_density, default.timestep_sampling) == ("uniform", "stratified")
    assert (default.null_text, default.image_noise, default.image_dropout) == ("empty-prompt", False, 0.0)


def test_names_of_nothing_are_told_alone():
    errors = objective(schedule="zero-snt", loss_weighting="none", noise_shift_keep_start=True)
    assert errors == [
        f"--schedule zero-snt: wrong value; accepted: {', '.join(SCHEDULES)}",
        "--loss-weighting none: wrong value; accepted: constant, min-snr, soft-min-snr, edm, sat-clamp, p2",
    ]
