"""Training with an autoencoder and a text encoder from local folders, on two ranks that share the encoding."""

import pytest

from tests.distributed.layouts import train
from tests.encoders.tiny_folders import make_tiny_t5, make_tiny_vae
from tests.training.small import small_run


@pytest.mark.slow
def test_two_ranks_train_on_what_the_folders_encode(pool, shards, tmp_path):
    vae, t5 = make_tiny_vae(tmp_path / "vae"), make_tiny_t5(tmp_path / "t5", width=16)
    flags = {"train_iters": 2, "lr": 1e-3, "vae_path": vae, "text_encoder_path": t5, "scale_factor": 0.7}
    alone = pool.run(train, 1, small_run(shards, **flags))[0]
    built_in = pool.run(train, 1, small_run(shards, train_iters=2, lr=1e-3))[0]
    tensor = {"tensor_model_parallel_size": 2, "sequence_parallel": True}
    split = pool.run(train, 2, small_run(shards, **flags, **tensor))[0]
    assert split.losses == pytest.approx(alone.losses, rel=1e-5)
    assert abs(alone.losses[0] - built_in.losses[0]) > 1e-3
