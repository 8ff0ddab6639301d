"""Samplers on a Gaussian mixture, whose denoiser is known: the right distribution, the right order of convergence."""

import itertools
import math
from functools import cache

import pytest
import torch

from tests.diffusion.mixture import MEAN, THIRD, VARIANCE, ideal_denoiser, ideal_x0
from vidtron.diffusion.continuous import EDMSchedule, FlowSchedule
from vidtron.diffusion.denoising import Denoised, Denoiser
from vidtron.diffusion.guidance import ConstantScale, DynamicScale, guided
from vidtron.diffusion.levels import Level, sampling_levels
from vidtron.diffusion.parameterization import EDM, CleanLatent, Epsilon, FlowVelocity, Velocity
from vidtron.diffusion.samplers import ancestral, ddim, dpmpp_2m, euler, heun
from vidtron.diffusion.schedule import DDPMSchedule, ZeroTerminalSNRSchedule
from vidtron.diffusion.variance import ReversePosterior

SCHEDULES = {
    "zero-snr": ZeroTerminalSNRSchedule(),
    "linear": DDPMSchedule.linear(),
    "flow": FlowSchedule(),
    "edm": EDMSchedule(),
}


STARTS = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64).view(-1, 1, 1, 1)


def starting_noise(count=20_000, seed=0):
    """Evenly spread quantiles of the normal distribution, shuffled: the start itself has the right moments."""
    quantiles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return torch.special.ndtri(quantiles)[order].view(count, 1, 1, 1)


def drawing(count=20_000):
    """Noise of each step, whoever asks and in whatever order."""
    return lambda step: starting_noise(count, seed=step + 1)


def stochastic_dpm(*given, **flags):
    return dpmpp_2m(*given, stochastic=True, **flags)


def full_ddim(*given, **flags):
    return ddim(*given, eta=1.0, **flags)


CASES = [
    (sampler, schedule, steps, noisy)
    for sampler, steps, noisy, schedules in [
        (ddim, 200, False, SCHEDULES),
        (full_ddim, 300, True, ("zero-snr", "linear", "flow")),
        (euler, 200, False, ("flow", "edm")),
        (heun, 60, False, SCHEDULES),
        (dpmpp_2m, 60, False, SCHEDULES),
        (stochastic_dpm, 120, True, SCHEDULES),
        (ancestral, 300, True, ("zero-snr", "linear")),
    ]
    for schedule in schedules
]


@pytest.mark.parametrize(("sampler", "schedule", "steps", "noisy"), CASES)
def test_moments(sampler, schedule, steps, noisy):
    levels = sampling_levels(SCHEDULES[schedule], steps)
    out = sampler(ideal_denoiser, starting_noise(), levels, **({"draw": drawing()} if noisy else {}))
    centred = out - MEAN
    assert centred.mean().abs() < 0.02
    assert (centred**2).mean().item() == pytest.approx(VARIANCE, rel=0.05 if noisy else 0.03)
    assert (centred**3).mean().item() == pytest.approx(THIRD, rel=0.06)
    left = (out < -0.4).double().mean().item()  # between the two humps
    expected = 0.3 * 0.5 * (1 + math.erf(0.8 / 0.3 / 2**0.5)) + 0.7 * 0.5 * (1 + math.erf(-1.2 / 0.5 / 2**0.5))
    assert left == pytest.approx(expected, abs=0.01)


def smooth_levels(steps, path):
    """Levels even in a smooth parameter, from much noise to little; both ends are the same for every number."""
    times = torch.linspace(0.95, 0.02, steps + 1, dtype=torch.float64)
    if path == "flow":
        return [Level(t, 1 - t, t) for t in times.tolist()]
    if path == "vp":
        return [Level(t, math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)) for t in times.tolist()]
    return [Level(t, 1.0, math.exp(8 * t - 4)) for t in times.tolist()]


@cache
def converged(path):
    """Where the flow ends."""
    return heun(ideal_denoiser, STARTS, smooth_levels(2048, path))


@pytest.mark.parametrize("path", ["flow", "vp", "edm"])
@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (euler, 1), (heun, 2), (dpmpp_2m, 2)])
def test_order_of_convergence(sampler, order, path):
    counts = (64, 128, 256)
    outs = [sampler(ideal_denoiser, STARTS, smooth_levels(steps, path)) for steps in counts]
    exact = converged(path)
    errors = [(out - exact).abs().mean().item() for out in outs]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(
    ("parameterization", "schedule"),
    [
        (Velocity(), "zero-snr"),
        (FlowVelocity(), "zero-snr"),
        (EDM(0.5), "zero-snr"),
        (CleanLatent(), "zero-snr"),
        (Epsilon(), "linear"),
        (FlowVelocity(), "flow"),
        (FlowVelocity(to_data=True), "flow"),
        (EDM(0.5), "edm"),
        (Epsilon(), "edm"),
    ],
)
def test_a_sampler_does_not_know_the_parameterization(parameterization, schedule):
    """A network of any parameterization that knows the ideal denoiser gives what the ideal denoiser gives."""
    levels = {level.timestep: level for level in sampling_levels(SCHEDULES[schedule], 10)}

    def network(seen, timestep):
        alpha, sigma = (torch.tensor(v, dtype=torch.float64) for v in (levels[timestep].alpha, levels[timestep].sigma))
        noisy = seen / parameterization.input_scale(alpha, sigma)
        x0 = ideal_x0(noisy, alpha, sigma)
        return parameterization.target(x0, (noisy - alpha * x0) / sigma, alpha, sigma)

    noise = starting_noise(200)
    for sampler in (ddim, dpmpp_2m):
        walked = list(levels.values())
        ours = sampler(Denoiser(network, parameterization), noise, walked)
        torch.testing.assert_close(ours, sampler(ideal_denoiser, noise, walked), rtol=0, atol=1e-9)


def test_learned_variance_between_its_ends():
    """-1 is the posterior's variance, 1 is beta; a network that says so samples what the fixed choices sample."""
    levels, noise = sampling_levels(SCHEDULES["linear"], 10), starting_noise(500)
    for value, fixed in ((-1.0, "posterior"), (1.0, "beta")):

        def denoise(x, level, frame_mask=None, value=value):
            return Denoised(ideal_x0(x, level.alpha, level.sigma), torch.full_like(x, value))

        learned = ancestral(denoise, noise, levels, draw=drawing(500))
        plain = ancestral(ideal_denoiser, noise, levels, draw=drawing(500), fixed_variance=fixed)
        torch.testing.assert_close(learned, plain)


@pytest.mark.parametrize("sampler", [full_ddim, stochastic_dpm, ancestral])
def test_a_sample_does_not_depend_on_its_batch(sampler):
    levels, noise, draw = sampling_levels(SCHEDULES["linear"], 8), starting_noise(6), drawing(6)
    together = sampler(ideal_denoiser, noise, levels, draw=draw)
    for i in range(6):
        alone = sampler(ideal_denoiser, noise[i : i + 1], levels, draw=lambda step, i=i: draw(step)[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-12)


def test_ddim_with_eta_one_is_ancestral_sampling_with_the_posteriors_variance():
    levels, noise = sampling_levels(SCHEDULES["linear"], 10), starting_noise(100)
    first = full_ddim(ideal_denoiser, noise, levels, draw=drawing(100))
    second = ancestral(ideal_denoiser, noise, levels, draw=drawing(100), fixed_variance="posterior")
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)  # the posterior's tables are fp32


def test_noise_must_be_given_where_it_is_needed():
    levels = sampling_levels(SCHEDULES["linear"], 3)
    with pytest.raises(ValueError, match="needs a function `draw`"):
        ancestral(ideal_denoiser, starting_noise(2), levels)


def test_progress_wraps_the_steps():
    seen = []

    def progress(steps):
        for step in steps:
            seen.append(step)
            yield step

    ddim(ideal_denoiser, starting_noise(2), sampling_levels(SCHEDULES["flow"], 4), progress=progress)
    assert seen == [0, 1, 2, 3]


def test_posterior_of_the_mixture():
    """Mean and variance of x_{t-1} given x_t and x0, from Bayes' rule."""
    schedule = SCHEDULES["linear"]
    posterior, t = ReversePosterior(schedule.alpha_bar), 400
    before, now = schedule.alpha_bar[t - 1], schedule.alpha_bar[t]
    kept, added = now / before, 1 - now / before
    precision = kept / added + 1 / (1 - before)
    x0, noisy = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    mean = (kept.sqrt() / added * noisy + before.sqrt() / (1 - before) * x0) / precision
    index = torch.tensor([t])
    torch.testing.assert_close(posterior.mean(x0, noisy, index), mean, rtol=1e-4, atol=0)
    torch.testing.assert_close(posterior.variance[t].double(), 1 / precision, rtol=1e-4, atol=0)


def test_guidance():
    conditional, without = torch.randn(2, 3, 4, 2, 2).double(), torch.randn(2, 3, 4, 2, 2).double()
    assert torch.equal(guided(conditional, without, 0.0), without)
    torch.testing.assert_close(guided(conditional, without, 1.0), conditional)
    partly = guided(conditional, without, 5.0, channels=3)
    torch.testing.assert_close(partly[:, :, :3], guided(conditional, without, 5.0)[:, :, :3])
    assert torch.equal(partly[:, :, 3:], conditional[:, :, 3:])
    assert ConstantScale(6.0)(999) == 6.0
    scales = [DynamicScale(6.0, 50)(timestep) for timestep in range(1000)]
    assert 1.0 <= min(scales) <= 1.1
    assert 6.9 <= max(scales) <= 7.0
