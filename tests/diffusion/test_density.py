"""Densities, their inverse distributions, and draws over a global batch."""

import math

import pytest
import torch

from vidtron.diffusion.continuous import EDMSchedule, FlowSchedule
from vidtron.diffusion.density import (
    LogitNormal,
    LogNormal,
    Mode,
    Shifted,
    TabulatedDensity,
    Uniform,
    speed_density,
    timesteps_at,
)
from vidtron.diffusion.schedule import DDPMSchedule, ZeroTerminalSNRSchedule
from vidtron.diffusion.timesteps import stratify

LINEAR = DDPMSchedule.linear()
DENSITIES = [
    Uniform(),
    LogNormal(-0.4, 1.0),
    LogitNormal(),
    LogitNormal(0.5, 0.6),
    Mode(),
    Mode(-0.8),
    Shifted(LogitNormal(), 3.0),
    Shifted(LogNormal(), 3.0),
    speed_density(LINEAR.sigma_table.double()),
]
COUNT = 20_000


def even(count=COUNT):
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def ids(value):
    return type(value).__name__ if not isinstance(value, Shifted) else f"Shifted-{type(value.density).__name__}"


@pytest.mark.parametrize("density", DENSITIES, ids=ids)
def test_inverse_and_distribution_belong_together(density):
    quantiles = even(999)
    values = density.inverse_cdf(quantiles)
    assert (values.diff() > 0).all()
    torch.testing.assert_close(density.cdf(values), quantiles, rtol=0, atol=1e-9)


def test_densities_are_the_papers():
    quantiles = even()
    z = torch.log(LogNormal(-1.2, 1.2).inverse_cdf(quantiles))
    assert z.mean().item() == pytest.approx(-1.2, abs=1e-6)
    assert z.std().item() == pytest.approx(1.2, rel=1e-3)
    logits = torch.logit(LogitNormal(0.3, 0.8).inverse_cdf(quantiles))
    assert (logits.mean().item(), logits.std().item()) == pytest.approx((0.3, 0.8), rel=2e-3)
    u = 1 - quantiles  # the paper's function falls
    paper = 1 - u - 1.29 * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    torch.testing.assert_close(Mode(1.29).inverse_cdf(quantiles), paper)
    torch.testing.assert_close(Mode(0.0).inverse_cdf(quantiles), quantiles)
    with pytest.raises(ValueError, match=r"scale 1\.8"):
        Mode(1.8)


def test_a_logit_normal_flow_is_log_normal_in_the_ratio():
    flow = FlowSchedule()
    torch.testing.assert_close(
        timesteps_at(LogitNormal(0.2, 0.7), flow, even(50)), timesteps_at(LogNormal(0.2, 0.7), flow, even(50))
    )


def test_table():
    density = TabulatedDensity(torch.tensor([1.0, 3.0, 4.0]))
    timesteps = (density.inverse_cdf(even(8000)) * 3).floor()
    assert [(timesteps == i).sum().item() for i in range(3)] == [1000, 3000, 4000]


@pytest.mark.parametrize("density", DENSITIES, ids=ids)
@pytest.mark.parametrize("part", [(0.0, 0.4), (0.4, 1.0)])
def test_parts_of_the_schedule(density, part):
    """Two experts' densities are the whole one, cut: nothing outside, the same shape inside."""
    schedule = FlowSchedule()
    cut = timesteps_at(density, schedule, even(), part)
    assert part[0] * 1000 <= cut.min() <= cut.max() < part[1] * 1000
    whole = timesteps_at(density, schedule, even())
    inside = whole[(whole >= part[0] * 1000) & (whole < part[1] * 1000)]
    for share in (0.1, 0.5, 0.9):
        at = (cut.quantile(share).item(), inside.quantile(share).item())
        assert at[0] == pytest.approx(at[1], abs=0.5)


def test_a_part_of_a_table_has_its_timesteps_exactly():
    timesteps = timesteps_at(Uniform(), ZeroTerminalSNRSchedule(), torch.tensor([0.0, 0.5, 1 - 1e-16]), (0.25, 0.5))
    assert timesteps.tolist() == [250, 375, 499]


def test_uniform_on_a_table():
    quantiles = torch.tensor([0.0, 0.9999999999, 1.0 - 1e-17], dtype=torch.float64)
    assert timesteps_at(Uniform(), ZeroTerminalSNRSchedule(), quantiles).tolist() == [0, 999, 999]
    counts = torch.bincount(timesteps_at(Uniform(), LINEAR, even(10_000)).long(), minlength=1000)
    assert counts.tolist() == [10] * 1000


@pytest.mark.parametrize("schedule", [LINEAR, ZeroTerminalSNRSchedule(3.0), FlowSchedule(), EDMSchedule()])
def test_log_normal_on_any_schedule(schedule):
    timesteps = timesteps_at(LogNormal(-0.5, 0.8), schedule, even(2001))
    alpha, sigma = schedule.levels(timesteps.tolist())
    ratios = torch.log(sigma / alpha)
    assert ratios.median().item() == pytest.approx(-0.5, abs=0.02)
    assert ratios.std().item() == pytest.approx(0.8, rel=0.02)


@pytest.mark.parametrize("density", [Uniform(), LogitNormal()], ids=ids)
def test_stratified_draws_keep_the_density_and_lower_the_variance(density):
    """Over many batches: the same distribution (Kolmogorov-Smirnov), a far less noisy mean of a smooth loss."""
    batches, batch = 2000, 8
    draw = torch.Generator().manual_seed(0)
    uniform = torch.rand(batches, batch, generator=draw, dtype=torch.float64)
    strata = torch.stack([torch.randperm(batch, generator=draw) for _ in range(batches)])
    stratified = stratify(uniform, strata, batch)
    assert torch.equal((stratified * batch).floor().sort(dim=1).values, torch.arange(8.0).double().expand(2000, 8))
    flow = FlowSchedule()
    for slot in (0, 3):  # the marginal of one slot, and of all
        for values in (stratified[:, slot], stratified.flatten()):
            fractions = timesteps_at(density, flow, values) / 1000
            distribution = density.cdf(fractions).sort().values
            distance = (distribution - even(len(values))).abs().max().item()
            assert distance < 1.63 / math.sqrt(len(values))  # 1 % level

    def loss_means(quantiles):
        fractions = timesteps_at(density, flow, quantiles.flatten()).view(batches, batch) / 1000
        return (1 - fractions**2 + 0.3 * torch.sin(5 * fractions)).mean(dim=1)

    plain, strata_means = loss_means(uniform), loss_means(stratified)
    assert strata_means.mean().item() == pytest.approx(plain.mean().item(), abs=4 * plain.std().item() / batches**0.5)
    assert strata_means.var() < plain.var() / 20
