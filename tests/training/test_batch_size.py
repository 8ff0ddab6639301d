from tests.training.small import small_run
from vidtron.training.batch_size import batch_size_at, global_batch_size, replicas


def test_default_is_one_micro_batch_for_each_replica():
    run = small_run(global_batch_size=None, micro_batch_size=3, tensor_model_parallel_size=2)
    assert replicas(run, 8) == 4
    assert global_batch_size(run, 8) == 12
    assert batch_size_at(run, 8)(10**6) == 12


def test_ramp_up():
    # From 2 to 8 by 2 over 12 samples: 4 samples at each of the sizes 2, 4, 6.
    size = batch_size_at(small_run(global_batch_size=8, rampup_batch_size=(2, 2, 12)), 1)
    steps, consumed = [], 0
    while consumed < 40:
        steps.append(size(consumed))
        consumed += steps[-1]
    assert steps == [2, 2, 4, 6, 8, 8, 8, 8]


def test_callers_do_not_disturb_each_other():
    run = small_run(global_batch_size=8, rampup_batch_size=(2, 2, 12))
    ahead, behind = batch_size_at(run, 1), batch_size_at(run, 1)
    assert behind(0) == 2
    assert ahead(100) == 8
    assert behind(0) == 2
