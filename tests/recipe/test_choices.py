"""The tables of choices: through command line, files and help to what is built; and one entry more in each."""

import re
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from tests.config.test_check import WORLD
from vidtron.config import cli
from vidtron.config.errors import ConfigurationError
from vidtron.config.flags import flags
from vidtron.config.objective import ObjectiveConfig
from vidtron.config.program import parse_arguments
from vidtron.diffusion.continuous import FlowSchedule
from vidtron.diffusion.density import Uniform
from vidtron.diffusion.parameterization import FlowVelocity
from vidtron.diffusion.schedule import DDPMSchedule
from vidtron.models.registry import preset, preset_names
from vidtron.recipe.check import check
from vidtron.recipe.choices import (
    DENSITIES,
    PARAMETERIZATIONS,
    SAMPLERS,
    SCHEDULES,
    TABLES,
    TABULATED,
    WEIGHTINGS,
    Choice,
    Sampler,
    choices,
)
from vidtron.recipe.from_config import objective_of, timesteps_of
from vidtron.recipe.sampler import SamplerConfig, check_sampler, sample_latents

TINY = ["--model", "cogvideox-tiny"]


def parsed(*argv: str):
    return cli.parse([*TINY, *argv], preset, preset_names(), choices=choices())


@pytest.fixture
def tables(monkeypatch):
    """Tables that a test may add to."""
    for table in TABLES:
        monkeypatch.setattr(table, "_choices", dict(table._choices))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.field)
def test_every_choice_is_explained_and_a_flag_takes_it(table, capsys, monkeypatch):
    assert list(table) and all(table.meanings().values())
    if table is SAMPLERS:
        return
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        parsed("--help")
    text = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    for name, meaning in table.meanings().items():
        assert f"{name}: {meaning}" in text
        assert getattr(parsed(table.flag, name).objective, table.field) == name


def test_every_choice_is_made():
    config = ObjectiveConfig()
    for table in (SCHEDULES, PARAMETERIZATIONS, WEIGHTINGS):
        assert all(table[name].make(config) is not None for name in table)
    for name in DENSITIES:
        quantiles = torch.tensor([0.25, 0.75], dtype=torch.float64)
        low, high = DENSITIES[name].make(config, DDPMSchedule.linear()).inverse_cdf(quantiles)
        assert low < high


@pytest.mark.parametrize("table", [table for table in TABLES if table is not SAMPLERS], ids=lambda table: table.field)
def test_a_name_of_nothing(table, tmp_path, capsys):
    accepted = ", ".join(table)
    with pytest.raises(SystemExit) as left:
        parsed(table.flag, "nothing")
    assert left.value.code == 2
    assert f"error: {table.flag} nothing: wrong value; accepted: {accepted}\n" in capsys.readouterr().err
    file = tmp_path / "config.yaml"
    file.write_text(f"model: cogvideox-tiny\n{table.field}: nothing\n")
    with pytest.raises(ConfigurationError) as caught:
        cli.load(file, preset, preset_names(), choices=choices())
    assert caught.value.errors == [f"{file}: {table.field}: 'nothing'; accepted: {accepted}"]
    unknown = cli.load(file, preset, preset_names())  # a reader that builds nothing of it takes any text
    assert check(unknown, WORLD) == [f"{table.flag} nothing: wrong value; accepted: {accepted}"]
    with pytest.raises(ValueError, match=f"^{table.flag} nothing: wrong value; accepted: "):
        timesteps_of(unknown, objective_of(unknown.objective).schedule, unknown.data.size)


def test_a_name_is_taken_once(tables):
    WEIGHTINGS.add("constant", WEIGHTINGS["constant"])
    with pytest.raises(ValueError, match="--loss-weighting constant: there is one of this name"):
        WEIGHTINGS.add("constant", Choice(lambda config: None))


class Late(Uniform):
    """Twice as often at the noisy end as it would be."""

    def inverse_cdf(self, quantiles):
        return quantiles.double().sqrt()


@dataclass
class Arguments:
    """A program with a sampler's flags."""

    method: SamplerConfig = field(default_factory=SamplerConfig)


def test_one_entry_makes_a_density(tables, capsys):
    DENSITIES.add("late", Choice(lambda config, schedule: Late(), "late", needs=TABULATED))
    config = parsed("--timestep-density", "late")
    assert check(config, WORLD) == []
    quantiles = torch.tensor([0.0, 0.25, 0.81])
    drawn = timesteps_of(config, objective_of(config.objective).schedule, config.data.size)(quantiles)
    assert drawn.tolist() == [0.0, 500.0, 900.0]
    assert "late: late" in flags(type(config.network), choices())["timestep_density"].help
    flow = parsed("--timestep-density", "late", "--schedule", "flow", "--parameterization", "flow")
    accepted = "uniform, log-normal, logit-normal, mode"
    assert check(flow, WORLD) == [f"--timestep-density late: not with --schedule flow; accepted: {accepted}"]


def test_one_entry_makes_a_schedule_a_parameterization_and_a_weighting(tables):
    class Weighting:
        def __call__(self, alpha_B, sigma_B, x0_error_B, power):
            return 7 * torch.ones_like(alpha_B)

    SCHEDULES.add("straight", Choice(lambda config: FlowSchedule(), "rectified flow again"))
    PARAMETERIZATIONS.add("backwards", Choice(lambda config: FlowVelocity(to_data=True)))
    WEIGHTINGS.add("seven", Choice(lambda config: Weighting()))
    words = "--schedule straight --parameterization backwards --loss-weighting seven"
    config = parsed(*words.split())
    assert check(config, WORLD) == []
    objective, x0, noise = objective_of(config.objective), torch.full((1, 2), 2.0), torch.zeros(1, 2)
    assert objective.losses(torch.zeros(1, 2), x0, noise, torch.tensor([500.0])).tolist() == [28.0]


def test_one_entry_makes_a_sampler(tables, capsys):
    def leap(config, walk):
        return walk.denoise(walk.noise, walk.levels[0]).x0

    SAMPLERS.add("leap", Sampler(leap, "one step, whatever is asked"))
    config = parse_arguments(Arguments, ["--sampler", "leap"], None, choices()).method
    run = parsed()
    assert config.sampler == "leap" and check_sampler(config, run, 50, latent_channels=16) == []
    noise = torch.ones(1, 2, 3, 1, 1)
    made = sample_latents(
        lambda noisy, timestep: 3 * noisy, noise, config, run, 50, lambda step: noise, lambda steps: steps
    )
    assert made.unique().tolist() == [-3.0]  # velocity at pure noise: x0 = -output
    with pytest.raises(SystemExit) as left:
        parse_arguments(Arguments, ["--sampler", "nothing"], None, choices())
    told = " ".join(capsys.readouterr().err.split())
    assert left.value.code == 2 and "leap" in told
    (error,) = check_sampler(SamplerConfig(sampler="nothing"), run, 50, latent_channels=16)
    assert error.startswith("--sampler nothing: wrong value; accepted: ddim, ") and error.endswith(", leap")


def test_a_plugin_brings_a_density(tables, tmp_path, monkeypatch):
    """As a family's module is imported before the command line is read."""
    (tmp_path / "own_density.py").write_text(
        "from vidtron.models.registration import Registration\n"
        "from vidtron.recipe.choices import DENSITIES, Choice\n"
        "REGISTRATION = Registration({}, '')\n"
        "DENSITIES.add('own', Choice(lambda config, schedule: None, 'a density of its own'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    from vidtron.models.registry import with_plugins

    argv = [*TINY, "--plugin", "own_density", "--timestep-density", "own"]
    with_plugins(argv)
    assert cli.parse(argv, preset, preset_names(), choices=choices()).objective.timestep_density == "own"


def test_needs_are_asked_of_the_schedule():
    assert TABULATED.fits(DDPMSchedule.linear()) and not TABULATED.fits(FlowSchedule())
    assert SAMPLERS["ancestral"].fits(DDPMSchedule.linear()) and not SAMPLERS["ancestral"].fits(SimpleNamespace())
