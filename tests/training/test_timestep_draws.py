"""Timesteps of a global batch over replicas and micro-batches."""

from functools import partial

import torch

from tests.training.step_maker import step_of
from vidtron.diffusion.continuous import FlowSchedule
from vidtron.diffusion.density import LogitNormal, Uniform, timesteps_at
from vidtron.diffusion.schedule import ZeroTerminalSNRSchedule
from vidtron.diffusion.timesteps import RankGroups
from vidtron.training.rank_share import RankShare
from vidtron.training.timestep_draws import TimestepDraws

BATCH = 48


def over_layout(draws, consumed, replicas, micro_batch):
    """What the replicas draw, each for its own micro-batches: place in the global batch -> timestep."""
    found = {}
    for replica in range(replicas):
        share = RankShare(micro_batch, replica, replicas, rank=0, ranks=1)
        for positions in share.micro_batches(step_of(consumed, BATCH)):
            drawn = draws(step_of(consumed, BATCH), positions).tolist()
            found.update(zip((p - consumed for p in positions), drawn, strict=True))
    return [found[slot] for slot in range(BATCH)]


def test_each_stratum_is_hit_once_under_every_layout():
    for density, schedule in ((Uniform(), ZeroTerminalSNRSchedule()), (LogitNormal(), FlowSchedule())):

        def at(quantiles, density=density, schedule=schedule):
            return timesteps_at(density, schedule, quantiles)

        edges = at(torch.arange(BATCH, dtype=torch.float64) / BATCH)
        for consumed in (0, 5 * BATCH):
            draws = TimestepDraws(1, lambda size, at=at: at, stratified=True)
            whole = draws(step_of(consumed, BATCH), range(consumed, consumed + BATCH))
            strata = torch.searchsorted(edges, whole.double(), right=True) - 1
            assert strata.sort().values.tolist() == list(range(BATCH))
            for replicas in (1, 2, 3, 8):
                for micro_batch in (1, 2, BATCH // replicas):  # down to one micro-batch, that is, no accumulation
                    draws = TimestepDraws(1, lambda size, at=at: at, stratified=True)
                    assert over_layout(draws, consumed, replicas, micro_batch) == whole.tolist()


def test_the_marginal_of_a_place_is_uniform_over_batches():
    """A place gets every stratum equally often: chi-square over many batches."""
    batch, batches = 8, 1500
    draws = TimestepDraws(7, lambda size: lambda quantiles: quantiles, stratified=True)
    values = torch.stack([draws(step_of(n * batch, batch), range(n * batch, (n + 1) * batch)) for n in range(batches)])
    for slot in (0, 5):
        counts = torch.bincount((values[:, slot] * 16).long(), minlength=16)
        chi_square = ((counts - batches / 16) ** 2 / (batches / 16)).sum().item()
        assert chi_square < 30.6  # 1 % level, 15 degrees of freedom


def test_stratified_timesteps_make_the_loss_less_noisy():
    """Standard deviation of a batch's mean of CogVideoX's loss by timestep (a falling curve), measured."""
    batch, batches = 8, 400
    schedule = ZeroTerminalSNRSchedule()

    def means(stratified):
        draws = TimestepDraws(3, lambda size: partial(timesteps_at, Uniform(), schedule), stratified=stratified)
        batches_of = [draws(step_of(n * batch, batch), range(n * batch, (n + 1) * batch)) for n in range(batches)]
        return torch.stack([(0.2 + schedule.alpha(timesteps) ** 2).mean() for timesteps in batches_of])

    plain, stratified = means(False), means(True)
    assert stratified.std() < plain.std() / 4
    assert abs(stratified.mean() - plain.mean()) < 4 * plain.std() / batches**0.5


def test_rank_groups_take_runs_of_the_global_batch():
    groups = RankGroups.version_1_5(16, 4)
    draws = TimestepDraws(1, lambda size: lambda quantiles: quantiles, groups=groups)
    whole = draws(step_of(BATCH, BATCH), range(BATCH, 2 * BATCH))
    parts = (whole // 250).int().tolist()
    assert parts == [slot // 12 for slot in range(BATCH)]  # 3 samples a rank, 4 ranks a group
    assert over_layout(draws, BATCH, replicas=2, micro_batch=3) == whole.tolist()
    assert torch.equal(whole, whole.floor())
