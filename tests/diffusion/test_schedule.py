"""Schedules, subsets of their timesteps, and shifts."""

import math

import pytest
import torch

from vidtron.diffusion.continuous import EDMSchedule, FlowSchedule, resolution_shift, shift_fractions
from vidtron.diffusion.levels import sampling_levels
from vidtron.diffusion.schedule import DDPMSchedule, ZeroTerminalSNRSchedule
from vidtron.diffusion.timesteps import space_timesteps, trailing_timesteps

SCHEDULES = {
    "zero-snr": ZeroTerminalSNRSchedule(3.0),
    "linear": DDPMSchedule.linear(),
    "scaled-linear": DDPMSchedule.scaled_linear(),
    "cosine": DDPMSchedule.cosine(),
    "flow": FlowSchedule(),
    "edm": EDMSchedule(),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_grows_with_the_fraction(name):
    schedule = SCHEDULES[name]
    fractions = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    timesteps = schedule.timestep(fractions)
    ratios = schedule.sigma(timesteps) / schedule.alpha(timesteps)
    assert (ratios.diff() > 0).all()
    if name in ("flow", "edm"):
        torch.testing.assert_close(ratios.double(), schedule.ratio(fractions), rtol=1e-5, atol=1e-7)
    alphas, sigmas = schedule.levels(timesteps.tolist())
    torch.testing.assert_close(schedule.alpha(timesteps), alphas.float(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(schedule.sigma(timesteps), sigmas.float(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_timestep_of_a_ratio_has_that_ratio(name):
    schedule = SCHEDULES[name]
    timesteps = schedule.timestep(torch.linspace(0.05, 0.95, 19, dtype=torch.float64))
    alpha, sigma = schedule.levels(timesteps.tolist())
    torch.testing.assert_close(schedule.timestep_of_ratio(sigma / alpha), timesteps)


@pytest.mark.parametrize("name", ["zero-snr", "linear", "scaled-linear", "cosine"])
def test_tables_keep_the_variance(name):
    alpha, sigma = SCHEDULES[name].levels(range(1000))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1000, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("after", [False, True])
def test_terminal_snr_is_zero(shift, after):
    schedule = ZeroTerminalSNRSchedule(shift, shift_after_rescale=after)
    assert schedule.alpha_table[-1] == 0
    assert schedule.sigma_table[-1] == 1


def test_shift_divides_the_signal_to_noise_ratio():
    plain, shifted = (DDPMSchedule.linear(shift=shift).alpha_bar for shift in (1.0, 4.0))
    torch.testing.assert_close(plain / (1 - plain), 4 * shifted / (1 - shifted), rtol=1e-9, atol=0)


def test_cosine_schedule_is_the_papers():
    time = torch.arange(1, 991, dtype=torch.float64) / 1000  # the last betas are cut off
    expected = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(DDPMSchedule.cosine().alpha_bar[:990], expected, rtol=1e-9, atol=0)


def test_flow_shift_multiplies_the_ratio():
    fractions = torch.linspace(0, 0.99, 20, dtype=torch.float64)
    schedule = FlowSchedule()
    torch.testing.assert_close(schedule.ratio(shift_fractions(fractions, 3.0)), 3 * schedule.ratio(fractions))
    torch.testing.assert_close(shift_fractions(shift_fractions(fractions, 3.0), 1 / 3.0), fractions)


def test_resolution_shift_refuses_videos_that_have_none():
    with pytest.raises(ValueError, match=r"9 frames: .* at least 17"):
        resolution_shift(256, 256, 9)


def test_karras_ramp_is_the_papers():
    levels = sampling_levels(EDMSchedule(0.002, 80.0, 7.0), 18)
    ends = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [(ends[0] + i / 17 * (ends[1] - ends[0])) ** 7 for i in range(18)]
    assert [level.sigma for level in levels] == pytest.approx([*expected, 0.0], rel=1e-9)
    assert [level.timestep for level in levels[:-1]] == pytest.approx([250 * math.log(s) for s in expected])


@pytest.mark.parametrize("timesteps", [0, 1])
def test_schedules_refuse_too_few_timesteps(timesteps):
    with pytest.raises(ValueError, match="2 or more"):
        ZeroTerminalSNRSchedule(1.0, timesteps)


def test_schedules_refuse_what_is_no_level():
    for wrong in (lambda: ZeroTerminalSNRSchedule(0.0), lambda: DDPMSchedule.linear(shift=-1.0)):
        with pytest.raises(ValueError, match="noise shift"):
            wrong()
    with pytest.raises(ValueError, match="0 < least < greatest"):
        EDMSchedule(1.0, 0.5)


def test_trailing_timesteps_are_the_references():
    assert trailing_timesteps(50)[:3] == [999, 979, 959]
    assert trailing_timesteps(50)[-1] == 19


def test_spacings():
    linear = SCHEDULES["linear"]
    kept = {
        spacing: [level.timestep for level in sampling_levels(linear, 4, spacing=spacing)[:-1]]
        for spacing in ("trailing", "even", "ddim")
    }
    assert kept == {"trailing": [999, 749, 499, 249], "even": [999, 666, 333, 0], "ddim": [750, 500, 250, 0]}


def test_impossible_steps_are_refused():
    with pytest.raises(ValueError, match="1 to 999"):
        sampling_levels(SCHEDULES["linear"], 1000)
    with pytest.raises(ValueError, match="zero-terminal-SNR schedule alone"):
        sampling_levels(SCHEDULES["linear"], 10, table="sat")
    with pytest.raises(ValueError, match="no whole stride"):
        space_timesteps(1000, "ddim7000")
    with pytest.raises(ValueError, match="400 of a section of 334"):
        space_timesteps(1000, "400,1,1")
    with pytest.raises(ValueError, match="1 or more"):
        sampling_levels(SCHEDULES["flow"], 0)
