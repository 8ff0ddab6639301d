"""A run that is killed while it fills its latent cache leaves nothing in it that is not whole."""

import pytest

from tests.distributed.layouts import small_run, train
from tests.distributed.test_kill_save import fresh_process, kill_while_training, train_in_own_group  # noqa: F401
from tests.training.test_encode_shards import assert_equal, contents

FLAGS = {"train_iters": 6, "global_batch_size": 4, "clip_window": "centre"}


@pytest.fixture(scope="module")
def uninterrupted(pool, shards, tmp_path_factory):
    cache = tmp_path_factory.mktemp("whole")
    result = pool.run(train, 1, small_run(shards, **FLAGS, latent_cache=cache))[0]
    return result.losses, contents(cache)


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.02])
def test_killed_run_leaves_whole_entries(pool, fresh_process, shards, tmp_path, uninterrupted, delay):  # noqa: F811
    losses, whole = uninterrupted
    cache = tmp_path / "cache"
    run = small_run(shards, **FLAGS, latent_cache=cache, save=tmp_path / "run", overwrite=True)
    kill_while_training(fresh_process(target=train_in_own_group, args=(run,)), cache, "*.entries.jsonl", delay)
    left = contents(cache)
    assert_equal(left, {row: whole[row] for row in left})
    assert pool.run(train, 1, run)[0].losses == losses
    assert_equal(contents(cache), whole)
