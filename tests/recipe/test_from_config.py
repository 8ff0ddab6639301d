"""Flags -> the mathematics they name."""

from dataclasses import replace

import pytest
import torch

from vidtron.config import cli
from vidtron.config.data import ClipSize
from vidtron.config.objective import ObjectiveConfig
from vidtron.config.run import RunConfig
from vidtron.diffusion.continuous import EDMSchedule, FlowSchedule
from vidtron.diffusion.density import LogitNormal, LogNormal, Mode, timesteps_at
from vidtron.diffusion.objective import Objective
from vidtron.diffusion.parameterization import EDM, CleanLatent, Epsilon, FlowVelocity, Velocity
from vidtron.diffusion.schedule import DDPMSchedule, ZeroTerminalSNRSchedule
from vidtron.diffusion.timesteps import RankGroups
from vidtron.diffusion.weighting import P2, Constant, EDMWeighting, MinSNR, SATClamp, SoftMinSNR
from vidtron.encoders.normalisation import ByChannel, ByFactor
from vidtron.models.cogvideox.config import PRESETS
from vidtron.models.registry import preset, preset_names
from vidtron.recipe.choices import choices
from vidtron.recipe.condition_latents import image_normalisation
from vidtron.recipe.from_config import (
    objective_of,
    rank_groups_of,
    schedule_of,
    timestep_shift_of,
    timesteps_of,
)

ZERO_SNR = {"schedule": "zero-snr"}
SIZE = ClipSize(17, 64, 96)
QUANTILES = torch.linspace(0, 0.999, 50, dtype=torch.float64)


def run(**objective) -> RunConfig:
    return RunConfig(model="none", network=None, objective=ObjectiveConfig(**objective))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"parameterization": "velocity"}, Velocity()),
        ({"parameterization": "epsilon"}, Epsilon()),
        ({"parameterization": "x0"}, CleanLatent()),
        ({"parameterization": "flow"}, FlowVelocity()),
        ({"parameterization": "flow-to-data"}, FlowVelocity(to_data=True)),
        ({"parameterization": "edm", "data_std": 0.5}, EDM(0.5)),
    ],
)
def test_parameterizations(flags, expected):
    assert objective_of(ObjectiveConfig(schedule="edm", **flags)).parameterization == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"loss_weighting": "constant"}, Constant()),
        ({"loss_weighting": "min-snr", "snr_gamma": 3.0}, MinSNR(3.0)),
        ({"loss_weighting": "soft-min-snr", "snr_gamma": 4.0}, SoftMinSNR(4.0)),
        ({"loss_weighting": "edm", "data_std": 0.5}, EDMWeighting(0.5)),
        ({"loss_weighting": "sat-clamp"}, SATClamp()),
        ({"loss_weighting": "sat-clamp", "sat_clamp": 5.0}, SATClamp(5.0)),
        ({"loss_weighting": "p2"}, P2()),
    ],
)
def test_weightings(flags, expected):
    assert objective_of(ObjectiveConfig(**flags)).weighting == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({**ZERO_SNR, "noise_shift": 3.0}, ZeroTerminalSNRSchedule(3.0)),
        (
            {**ZERO_SNR, "noise_shift": 3.0, "noise_shift_after_rescale": True},
            ZeroTerminalSNRSchedule(3.0, shift_after_rescale=True),
        ),
        (
            {**ZERO_SNR, "noise_shift": 3.0, "noise_shift_keep_start": True},
            ZeroTerminalSNRSchedule(3.0, keep_start=True),
        ),
        ({"schedule": "ddpm-linear"}, DDPMSchedule.linear()),
        ({"schedule": "ddpm-scaled-linear", "noise_shift": 2.0}, DDPMSchedule.scaled_linear(shift=2.0)),
        ({"schedule": "ddpm-cosine"}, DDPMSchedule.cosine()),
        ({"schedule": "flow"}, FlowSchedule()),
        ({"schedule": "edm", "edm_sigma_max": 10.0, "edm_rho": 5.0}, EDMSchedule(sigma_max=10.0, rho=5.0)),
    ],
)
def test_schedules(flags, expected):
    ours = schedule_of(ObjectiveConfig(**flags))
    assert type(ours) is type(expected)
    timesteps = expected.timestep(QUANTILES)
    assert torch.equal(ours.timestep(QUANTILES), timesteps)
    assert torch.equal(ours.sigma(timesteps), expected.sigma(timesteps))


@pytest.mark.parametrize(
    ("flags", "density"),
    [
        ({"timestep_density": "log-normal"}, LogNormal(-1.2, 1.2)),
        ({"timestep_density": "log-normal", "density_mean": 0.0, "density_std": 2.0}, LogNormal(0.0, 2.0)),
        ({"timestep_density": "logit-normal"}, LogitNormal(0.0, 1.0)),
        ({"timestep_density": "logit-normal", "density_std": 0.5}, LogitNormal(0.0, 0.5)),
        ({"timestep_density": "mode", "density_mode_scale": 0.7}, Mode(0.7)),
    ],
)
@pytest.mark.parametrize("part", [(0.0, 1.0), (0.2, 0.6)])
def test_densities(flags, density, part):
    drawn = timesteps_of(run(schedule="flow", timestep_range=part, **flags), FlowSchedule(), SIZE)(QUANTILES)
    assert torch.equal(drawn, timesteps_at(density, FlowSchedule(), QUANTILES, part))


def test_speed_draws_fewer_of_the_noisiest():
    config = run(schedule="ddpm-linear", timestep_density="speed")
    drawn = timesteps_of(config, schedule_of(config.objective), SIZE)(QUANTILES)
    assert (drawn >= 700).double().mean() < 0.2


def test_shift_by_size_is_open_soras():
    config = run(schedule="flow", timestep_shift=2.0, timestep_shift_by_size=True)
    config.data = replace(config.data, height=144, width=256, num_frames=51)
    shift = 2.0 * (144 * 256 / 512**2) ** 0.5 * 15**0.5
    assert timestep_shift_of(config, config.data.size) == pytest.approx(shift)
    drawn = timesteps_of(config, FlowSchedule(), config.data.size)(QUANTILES)
    torch.testing.assert_close(drawn / (1000 - drawn), shift * QUANTILES / (1 - QUANTILES))
    assert timestep_shift_of(run(timestep_shift=2.0), SIZE) == 2.0


def test_rank_groups():
    def groups(**flags):
        return rank_groups_of(ObjectiveConfig(timestep_sampling="rank-groups", **flags))

    assert groups(timestep_ranks=12) == RankGroups(12, 4)
    assert groups(timestep_ranks=80, timestep_groups=40) == RankGroups(80, 40)
    assert groups(timestep_ranks=8, timestep_groups=40) == RankGroups(8, 1)
    assert rank_groups_of(ObjectiveConfig()) is None


def test_scale_of_image_latents():
    scales = ("scaled", "unscaled", "inverted")
    of_videos = ByFactor(0.7, 0.1)
    found = [image_normalisation(run(image_latent_scale=choice), of_videos) for choice in scales]
    assert found == [of_videos, ByFactor(), ByFactor(1 / 0.7, 0.1)]
    with pytest.raises(ValueError, match=r"--image-latent-scale inverted: .* accepted: scaled, unscaled"):
        image_normalisation(run(image_latent_scale="inverted"), ByChannel((0.0,), (1.0,)))


OF_COGVIDEOX = {
    "schedule": "zero-snr",
    "noise_shift": 1.0,
    "parameterization": "velocity",
    "loss_type": "l2",
    "loss_weighting": "constant",
    "timestep_density": "uniform",
    "timestep_sampling": "stratified",
    "timestep_shift": 1.0,
    "predicted_variance": "none",
    "offset_noise": 0.0,
    "text_dropout": 0.1,
    "null_text": "zeros",
    "image_dropout": 0.05,
    "image_noise": True,
    "image_latent_scale": "scaled",
    "image_latent_frames": "first",
}
"""What these fields were when the section's defaults were CogVideoX's."""
SHIFTS = {"cogvideox-2b": 3.0, "cogvideox-tiny": 100.0}


@pytest.mark.parametrize("name", PRESETS)
def test_a_file_without_the_objective_means_the_familys(name, tmp_path):
    """Also one that an earlier vidtron wrote, before there was a flag."""
    file = tmp_path / "config.yaml"
    file.write_text(f"model: {name}\n")
    for config in (
        cli.load(file, preset, preset_names(), choices=choices()),
        cli.parse(["--model", name], preset, preset_names()),
    ):
        expected = OF_COGVIDEOX | {"noise_shift": SHIFTS.get(name, 1.0)}
        assert {field: getattr(config.objective, field) for field in expected} == expected


@pytest.mark.parametrize("name", PRESETS)
def test_presets_keep_cogvideoxs_objective(name):
    config = ObjectiveConfig(**preset(name).defaults["objective"])
    ours, theirs = objective_of(config), Objective(ZeroTerminalSNRSchedule(config.noise_shift))
    assert (ours.parameterization, ours.weighting, ours.loss_type, ours.variance) == (
        Velocity(),
        Constant(),
        "l2",
        "none",
    )
    assert torch.equal(ours.schedule.alpha_table, theirs.schedule.alpha_table)
