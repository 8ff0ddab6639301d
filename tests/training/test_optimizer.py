"""Choosing an optimizer, and what one more costs."""

from typing import get_args, get_type_hints

import pytest
import torch

from tests.training.small import small_run
from vidtron.config.optimizer import OptimizerConfig
from vidtron.config.world import World
from vidtron.models.registry import family_of
from vidtron.parallel import initialized
from vidtron.training.assembly import assemble
from vidtron.training.optimizer import OPTIMIZERS, OptimizerKind, check_optimizer, masters
from vidtron.training.run import run as train

WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, arXiv:2302.06675, algorithm 2: neither torch nor megatron-core 0.16 has it."""

    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            first, second = group["betas"]
            for weight in group["params"]:
                momentum = self.state[weight].setdefault("exp_avg", torch.zeros_like(weight))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(group["lr"] * torch.lerp(weight.grad, momentum, first).sign())
                momentum.lerp_(weight.grad, 1 - second)


LION = OptimizerKind(
    state=lambda flags: ("exp_avg",),
    make=lambda groups, flags: Lion(groups, flags.lr, (flags.adam_beta1, flags.adam_beta2), flags.weight_decay),
)


@pytest.fixture
def lion(monkeypatch):
    """What somebody adds who wants another optimizer: one entry."""
    monkeypatch.setitem(OPTIMIZERS, "lion", LION)


def test_every_choice_has_its_entry():
    choices = get_args(get_type_hints(OptimizerConfig)["optimizer"])
    assert choices == tuple(OPTIMIZERS)


def test_bytes_of_the_state():
    flags = OptimizerConfig()
    assert {name: kind.state_bytes(flags) for name, kind in OPTIMIZERS.items()} == {"adam": 8, "sgd": 4}
    assert OPTIMIZERS["sgd"].state_bytes(OptimizerConfig(sgd_momentum=0.0)) == 0


@pytest.mark.parametrize(
    "flags", [{"optimizer": "adam"}, {"optimizer": "sgd"}, {"optimizer": "sgd", "sgd_momentum": 0}]
)
@pytest.mark.parametrize("bf16", [False, True])
def test_entries_tell_the_state_that_is_kept(flags, bf16):
    run = small_run(bf16=bf16, **flags)
    family = family_of(run.model)
    with initialized(run, WORLD) as groups:
        model = assemble(family, run, groups)
        for chunk in model.chunks:
            for weight in chunk.parameters():
                weight.main_grad.fill_(1.0)
        model.update(model.gradient_norm())
        (part,) = getattr(model.optimizer, "chained_optimizers", [model.optimizer])
        assert sum(master.values.numel() for master in masters(model.optimizer)) == sum(
            weight.numel() for module in model.modules for weight in module.parameters()
        )
        kept = {key for state in part.optimizer.state.values() for key, value in state.items() if value is not None}
        assert kept - {"step"} == set(OPTIMIZERS[run.optimizer.optimizer].state(run.optimizer))


def test_only_what_can_be_split_is_split():
    flags = OptimizerConfig(use_distributed_optimizer=True)
    assert not list(check_optimizer(flags))
    flags.optimizer = "sgd"
    (message,) = check_optimizer(flags)
    assert message == (
        "--use-distributed-optimizer cannot split and save the state of --optimizer sgd; accepted: --optimizer adam"
    )


@pytest.mark.parametrize("bf16", [False, True])
def test_an_optimizer_of_ones_own_trains_and_resumes(shards, tmp_path, lion, bf16):
    flags = {"optimizer": "lion", "bf16": bf16, "ema_decay": [0.9]}
    expected = train(small_run(shards, **flags), WORLD).losses
    assert expected != train(small_run(shards, bf16=bf16), WORLD).losses
    flags |= {"save": tmp_path, "load": tmp_path}
    train(small_run(shards, exit_interval=2, **flags), WORLD)
    assert train(small_run(shards, **flags), WORLD).losses == expected[2:]


def test_an_optimizer_of_ones_own_steps_as_it_says(lion):
    """One step with gradients of 1: the weights go down by the learning rate, decayed ones by their decay as well."""
    run = small_run(optimizer="lion", lr=0.5, weight_decay=0.1, lr_decay_style="constant", clip_grad=0.0)
    with initialized(run, WORLD) as groups:
        model = assemble(family_of(run.model), run, groups)
        model.scheduler.step(1)  # past the warm-up's first step, whose rate is 0
        before = [weight.detach().clone() for weight in model.modules[0].parameters()]
        for weight in model.chunks[0].parameters():
            weight.main_grad.fill_(1.0)
        model.update(model.gradient_norm())
        decays = {
            id(weight): group["weight_decay"] for group in model.optimizer.param_groups for weight in group["params"]
        }
        assert set(decays.values()) == {0.0, 0.1}
        for weight, old in zip(model.modules[0].parameters(), before, strict=True):
            torch.testing.assert_close(weight.detach(), old * (1 - 0.5 * decays[id(weight)]) - 0.5)
