"""One rank without a launcher: groups, seeds and megatron-core on a CPU, again and again."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import checkpoint
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.parallel import any_rank, broadcast_object, broadcast_tensor, initialized, memory_statistics


@pytest.fixture
def config() -> RunConfig:
    return RunConfig(model="toy", network=SimpleNamespace(num_layers=4))


def test_groups_of_one_rank(config: RunConfig) -> None:
    with initialized(config, World.from_environment()) as groups:
        assert (groups.rank, groups.world_size) == (0, 1)
        assert (groups.dp_rank, groups.dp_size, groups.replica_rank, groups.replica_size) == (0, 1, 0, 1)
        assert groups.is_first_stage and groups.is_last_stage
        assert all(group.size() == 1 for group in (groups.tp, groups.pp, groups.cp, groups.dp, groups.dp_cp))
        assert groups.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
        assert any_rank(True, groups) and not any_rank(False, groups)
        assert broadcast_object({"a": 1}, 0, groups) == {"a": 1}
        assert broadcast_tensor(torch.ones(2), 0, groups.replica).tolist() == [1, 1]


def test_nothing_is_left(config: RunConfig) -> None:
    for _ in range(10):
        with initialized(config, World.from_environment()):
            assert parallel_state.model_parallel_is_initialized()
        assert not dist.is_initialized()
        assert not parallel_state.model_parallel_is_initialized()


def test_nothing_is_left_after_an_error(config: RunConfig) -> None:
    with pytest.raises(RuntimeError, match="in the run"), initialized(config, World.from_environment()):
        raise RuntimeError("in the run")
    config.parallel.tensor_model_parallel_size = 2  # not checked: megatron-core refuses it
    with pytest.raises(RuntimeError), initialized(config, World.from_environment()):
        pass
    assert not dist.is_initialized()


def test_seeds(config: RunConfig) -> None:
    draws = []
    for _ in range(2):
        with initialized(config, World.from_environment()) as groups:
            with get_cuda_rng_tracker().fork():
                forked = torch.rand(2, device=groups.device)
            draws.append([*torch.rand(2).tolist(), *np.random.rand(2), *forked.tolist()])
    assert draws[0] == draws[1]


def test_recomputation_draws_the_same_numbers(config: RunConfig) -> None:
    """megatron-core's recomputation restores random states; without CUDA it would silently not."""
    gradients = []
    for recompute in (False, True):
        with initialized(config, World.from_environment()) as groups:
            x = torch.ones(1000, device=groups.device, requires_grad=True)

            def dropped(x: torch.Tensor) -> torch.Tensor:
                with get_cuda_rng_tracker().fork():
                    return torch.nn.functional.dropout(x, 0.5) * 3

            (checkpoint(dropped, False, x) if recompute else dropped(x)).sum().backward()
            assert x.grad is not None
            gradients.append(x.grad)
    assert torch.equal(*gradients)
    assert 0 < (gradients[0] == 0).sum() < 1000


def test_deterministic_mode_ends_with_the_run(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setenv("NVTE_ALLOW_NONDETERMINISTIC_ALGO", "1")
    config.training.deterministic_mode = True
    with initialized(config, World.from_environment()):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_sequence_parallelism_of_one_rank_is_told(config: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    config.parallel.sequence_parallel = True
    with initialized(config, World.from_environment()):
        pass
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["--sequence-parallel is off"]


def test_memory_of_a_process() -> None:
    statistics = memory_statistics(torch.device("cpu"))
    assert 1e8 < statistics["resident"] <= statistics["max_resident"] < 1e12
