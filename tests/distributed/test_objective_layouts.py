"""Other objectives than the default one train the same under every layout."""

import pytest

from tests.distributed.layouts import LAYOUTS, small_run, train

OBJECTIVES = {
    "flow": {
        "schedule": "flow",
        "parameterization": "flow",
        "timestep_density": "logit-normal",
        "timestep_shift": 3.0,
        "loss_weighting": "min-snr",
        "offset_noise": 0.1,
    },
    "edm": {
        "schedule": "edm",
        "parameterization": "edm",
        "timestep_density": "log-normal",
        "timestep_range": (0.1, 0.9),
        "loss_weighting": "edm",
        "text_dropout": 0.5,
        "null_text": "empty-prompt",
    },
    "epsilon": {
        "schedule": "ddpm-linear",
        "parameterization": "epsilon",
        "timestep_sampling": "rank-groups",
        "timestep_ranks": 4,
        "loss_weighting": "soft-min-snr",
        "loss_type": "l1",
    },
}


@pytest.mark.parametrize("layout", ["DP2 x PP2", "TP2+SP"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_parity(pool, shards, tmp_path, name, layout):
    flags = {"train_iters": 3, **OBJECTIVES[name]}
    expected = pool.run(train, 1, small_run(shards, **flags))[0]
    result = pool.run(train, LAYOUTS[layout].ranks, small_run(shards, **LAYOUTS[layout].flags, **flags))[0]
    assert result.losses == pytest.approx(expected.losses, rel=1e-5)
    assert result.gradient_norms == pytest.approx(expected.gradient_norms, rel=1e-4)
    assert len(set(expected.losses)) == 3
