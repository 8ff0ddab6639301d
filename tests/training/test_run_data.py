import queue
from functools import partial

import torch

from tests.training.small import small_run
from tests.training.step_maker import step_of
from vidtron.config.world import World
from vidtron.diffusion.density import Uniform, timesteps_at
from vidtron.diffusion.schedule import ZeroTerminalSNRSchedule
from vidtron.models.registry import family_of
from vidtron.parallel import initialized
from vidtron.training import data_summary
from vidtron.training.evaluate import even_timesteps
from vidtron.training.run_data import RunData
from vidtron.training.timestep_draws import TimestepDraws


def UNIFORM(size):
    return partial(timesteps_at, Uniform(), ZeroTerminalSNRSchedule())


def test_stratified_batch_has_one_draw_in_each_part():
    draws = TimestepDraws(1, UNIFORM, stratified=True)
    for consumed in (0, 10, 20):
        timesteps = draws(step_of(consumed, 10), range(consumed, consumed + 10))
        assert sorted((timesteps // 100).int().tolist()) == list(range(10))


def test_stratified_parts_are_dealt_out_anew():
    draws = TimestepDraws(1, UNIFORM, stratified=True)
    parts = [
        (draws(step_of(consumed, 10), range(consumed, consumed + 10)) // 100).tolist() for consumed in (0, 10, 20)
    ]
    assert len({tuple(part) for part in parts}) == 3


def test_a_sample_alone_gets_what_it_gets_in_the_batch():
    for stratified in (True, False):
        draws = TimestepDraws(1, UNIFORM, stratified=stratified)
        whole = draws(step_of(20, 10), range(20, 30))
        alone = [draws(step_of(20, 10), [position]).item() for position in (29, 20, 25)]
        assert alone == whole[[9, 0, 5]].tolist()


def test_independent_draws_do_not_look_at_the_batch():
    draws = TimestepDraws(1, UNIFORM, stratified=False)
    assert torch.equal(draws(step_of(0, 100), [7, 8]), draws(step_of(5, 4), [7, 8]))
    timesteps = draws(step_of(0, 2000), range(2000))
    assert timesteps.dtype == torch.float32
    assert 0 <= timesteps.min() < 20
    assert 980 < timesteps.max() <= 999
    assert 470 < timesteps.mean() < 530


def test_seeds_differ():
    first, second = (TimestepDraws(seed, UNIFORM, stratified=True)(step_of(0, 8), range(8)) for seed in (1, 2))
    assert not torch.equal(first, second)


def test_evaluation_spreads_timesteps_evenly():
    assert even_timesteps(range(4), 4, 1000).tolist() == [125, 375, 625, 875]
    assert even_timesteps([0, 999], 1000, 1000).tolist() == [0, 999]


def test_a_large_index_is_summarized_beside_the_training(shards, monkeypatch):
    run = small_run(shards)
    with initialized(run, World(size=1, rank=0, local_rank=0, has_cuda=False)) as groups:
        data = RunData(run, groups, family_of(run.model), ZeroTerminalSNRSchedule())
        at_once: list[str] = []
        data_summary.summarize(data, at_once.append)
        monkeypatch.setattr(data_summary, "QUICKLY_SUMMARIZED", 3)
        told: queue.SimpleQueue[str] = queue.SimpleQueue()
        data_summary.summarize(data, told.put)
        assert told.get(timeout=300) == at_once[0] == "8 training clips an epoch"
