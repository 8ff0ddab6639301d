"""Flags -> samplers and guidance."""

import pytest
import torch

from tests.diffusion.mixture import MEAN, VARIANCE, ideal_x0
from vidtron.config.objective import ObjectiveConfig
from vidtron.config.run import RunConfig
from vidtron.diffusion.editing import AncestralEdit, FlowEdit
from vidtron.diffusion.guidance import ConstantScale, DynamicScale
from vidtron.diffusion.levels import Level
from vidtron.recipe.from_config import objective_of
from vidtron.recipe.sampler import (
    SamplerConfig,
    check_sampler,
    frame_edit,
    guidance_of,
    guided_channels,
    sample_latents,
)

FLOW = {"schedule": "flow", "parameterization": "flow"}
EDM = {"schedule": "edm", "parameterization": "edm"}
LINEAR = {"schedule": "ddpm-linear", "parameterization": "epsilon"}


COGVIDEOX = {"schedule": "zero-snr", "parameterization": "velocity"}


def run(**objective) -> RunConfig:
    return RunConfig(model="none", network=None, objective=ObjectiveConfig(**{**COGVIDEOX, **objective}))


def ideal_network(config: RunConfig):
    """A network that knows the mixture, in the parameterization of the run."""
    objective = objective_of(config.objective)

    def network(seen, timestep):
        alpha, sigma = (level.squeeze() for level in objective.schedule.levels([timestep]))
        noisy = seen / objective.parameterization.input_scale(alpha, sigma)
        x0 = ideal_x0(noisy, alpha, sigma)
        output = objective.parameterization.target(x0, (noisy - alpha * x0) / sigma, alpha, sigma)
        return output if objective.variance == "none" else torch.cat((output, -torch.ones_like(output)), dim=-3)

    return network


def sampled(config: RunConfig, steps=100, **flags):
    noise = torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def draw(step):
        return torch.randn(noise.shape, generator=torch.Generator().manual_seed(step + 1), dtype=torch.float64)

    method = SamplerConfig(**flags)
    return sample_latents(ideal_network(config), noise, method, config, steps, draw, lambda steps: steps)


@pytest.mark.parametrize(
    ("objective", "flags"),
    [
        ({}, {}),
        ({}, {"sampler": "dpmpp-2m-sde", "sampler_table": "sat"}),
        ({}, {"sampler": "dpmpp-2m"}),
        ({}, {"sampler_eta": 1.0}),
        ({}, {"sampler_eta": 1.0, "sampler_table": "sat"}),
        (FLOW, {"sampler": "euler"}),
        (FLOW, {"sampler": "heun"}),
        ({**FLOW, "timestep_shift": 3.0}, {"sampler": "euler"}),
        (EDM, {"sampler": "heun"}),
        (LINEAR, {"sampler": "ancestral", "timestep_spacing": "even"}),
        (LINEAR, {"sampler": "ancestral", "timestep_spacing": "ddim", "ancestral_variance": "posterior"}),
        ({**LINEAR, "predicted_variance": "learned"}, {"sampler": "ancestral"}),
        ({**LINEAR, "predicted_variance": "ignored"}, {"sampler": "dpmpp-2m"}),
    ],
)
def test_every_sampler_samples_the_data(objective, flags):
    out = sampled(run(**objective), **flags)
    assert out.mean().item() == pytest.approx(MEAN, abs=0.06)
    assert out.var().item() == pytest.approx(VARIANCE, rel=0.1)


def test_samplers_differ():
    outs = [
        sampled(run(), steps=6, **flags)
        for flags in (
            {},
            {"sampler_table": "sat"},
            {"sampler_eta": 0.5},
            {"sampler": "dpmpp-2m"},
            {"sampler": "dpmpp-2m-sde"},
            {"sampler": "heun"},
            {"sampler": "ancestral"},
            {"sampler": "ancestral", "ancestral_variance": "posterior"},
            {"timestep_spacing": "even"},
        )
    ]
    for i, first in enumerate(outs):
        for second in outs[:i]:
            assert (first - second).abs().max() > 1e-3
    torch.testing.assert_close(sampled(run(), steps=6, sampler="euler"), outs[0])


@pytest.mark.parametrize(
    ("objective", "flags", "steps", "start"),
    [
        ({}, {}, 0, "--sampling-steps 0: accepted: 1 or more"),
        ({}, {}, 1000, "--sampling-steps 1000: 1000 sampling steps; accepted: 1 to 999"),
        ({}, {"timestep_spacing": "ddim"}, 999, "--sampling-steps 999: no whole stride"),
        ({}, {"sampler_table": "sat"}, 1, "--sampling-steps 1: 1 sampling step with SAT's table"),
        (FLOW, {"sampler_table": "sat"}, 10, "--sampler-table sat: not with --schedule flow; accepted: training"),
        ({}, {"sampler_eta": 1.5}, 10, "--sampler-eta 1.5: accepted: 0 to 1"),
        ({}, {"sampler_eta": 0.5, "sampler": "heun"}, 10, "--sampler-eta 0.5: accepted: 0 to 1 with --sampler ddim"),
        (EDM, {"sampler": "ancestral"}, 10, "--sampler ancestral: not with --schedule edm"),
        (FLOW, {"timestep_spacing": "even"}, 10, "--timestep-spacing even: needs --schedule zero-snr or ddpm-*"),
        ({}, {"guidance_channels": 17}, 10, "--guidance-channels 17: accepted: 1 to 16"),
    ],
)
def test_refused(objective, flags, steps, start):
    (error,) = check_sampler(SamplerConfig(**flags), run(**objective), steps, latent_channels=16)
    assert error.startswith(start)


def test_accepted():
    for objective, flags in (({}, {"sampler": "dpmpp-2m-sde", "sampler_table": "sat"}), (FLOW, {}), (EDM, {})):
        assert check_sampler(SamplerConfig(**flags), run(**objective), 50, latent_channels=16) == []


def test_guidance():
    assert guidance_of(SamplerConfig(), 6.0, 50) == ConstantScale(6.0)
    assert guidance_of(SamplerConfig(guidance="dynamic"), 6.0, 50) == DynamicScale(6.0, 50)
    assert guided_channels(SamplerConfig(), run(), 4) is None
    assert guided_channels(SamplerConfig(guidance_channels=3), run(), 4) == 3
    assert guided_channels(SamplerConfig(), run(**LINEAR, predicted_variance="learned"), 4) == 4


@pytest.mark.parametrize(
    ("flags", "sampler", "rule", "changed"),
    [
        ({}, "ddim", AncestralEdit, False),
        (LINEAR, "ancestral", AncestralEdit, True),
        (FLOW, "euler", FlowEdit, False),
    ],
)
def test_rules_of_given_frames(flags, sampler, rule, changed):
    """Whether a frame that is kept takes the result of the last step."""
    share = torch.tensor([0.0, 1.0])
    edit = frame_edit(SamplerConfig(sampler=sampler), run(**flags), share, lambda step: torch.zeros(1, 2, 1, 1, 1))
    assert type(edit) is rule
    latents = torch.ones(1, 2, 1, 1, 1)
    for step, level in enumerate([Level(600, 0.4, 0.6), Level(200, 0.8, 0.2)]):
        _, mask, moves = edit.enter(latents, step, 2, level)
        assert mask.flatten().tolist() == [False, True]
        assert moves.flatten().tolist() == [changed and step == 1, True]
