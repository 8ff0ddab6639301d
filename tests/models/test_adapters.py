"""Flags of adapters and frozen weights: what is refused, and which weights they mean."""

import pytest

from tests.training.small import small_run
from vidtron.config import check as config_check
from vidtron.config.world import World
from vidtron.models import freezing
from vidtron.models.cogvideox.family import FAMILY, CogVideoXFamily
from vidtron.models.cogvideox.lora_names import TARGETS
from vidtron.models.layers.initialization import global_names
from vidtron.models.lora_targets import chosen, parameter_names, parts_of
from vidtron.parallel import initialized
from vidtron.training.assembly import assemble

WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)
ALL = [target.flag for target in TARGETS]


def errors_of(**flags) -> list[str]:
    run = small_run(**flags)
    return [*config_check.check(run, WORLD), *CogVideoXFamily().check(run, WORLD)]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"lora_rank": 0}, "--lora-rank 0; accepted: 1 to 4096"),
        ({"lora_rank": 2, "lora_alpha": 0.0}, "--lora-alpha 0; accepted: more than 0"),
        ({"lora_rank": 2, "lora_dropout": 1.0}, "--lora-dropout 1; accepted: 0 or more and less than 1"),
        ({"lora_alpha": 2.0}, "--lora-alpha 2.0: there are no adapters; accepted: with --lora-rank"),
        ({"save_lora_only": True}, "--save-lora-only: there are no adapters; accepted: with --lora-rank"),
        (
            {"lora_rank": 2, "lora_target_modules": ["to_q", "to_w", "linear"]},
            "--lora-target-modules to_w linear: accepted: to_q, to_k, to_v, to_out.0, ff.net.0.proj, ff.net.2, "
            "norm1.linear, norm2.linear",
        ),
        ({"lora_rank": 2, "lora_target_modules": []}, "--lora-target-modules (none): accepted: to_q, "),
        (
            {"freeze": ["decoder.layers.*.mpl.*"]},
            "--freeze decoder.layers.*.mpl.*: no weight has such a name; accepted: for example decoder.layers.",
        ),
        ({"train_only": ["*.q.A"]}, "--train-only *.q.A: no weight has such a name"),
        ({"train_only": ["*bias"], "freeze": ["*"]}, "--train-only and --freeze: nothing is left to train"),
        ({"lora_rank": 2, "freeze": ["*.lora_*"]}, "--freeze: nothing is left to train"),
        ({"lora_rank": 2, "save_lora_only": True, "train_only": ["final.*"]}, "--save-lora-only: --train-only trains"),
        ({"lora_rank": 2, "fp8_format": "hybrid"}, "--lora-rank 2: adapters beside FP8 layers are untested"),
        ({"finetune": True}, "--finetune: starts from the weights of another run"),
    ],
)
def test_mistakes_are_found_before_work(flags, expected):
    (error,) = errors_of(**flags)
    assert error.startswith(expected)


@pytest.mark.parametrize("flags", [{}, {"in_channels": 32, "learned_position_grid": (3, 2, 3), "ofs_embedding": True}])
def test_the_checked_names_are_those_of_the_network(flags):
    run = small_run(lora_rank=2, lora_target_modules=ALL, **flags)
    with initialized(run, WORLD) as groups:
        model = assemble(CogVideoXFamily(), run, groups)
        names = [named.name for named in global_names(model.modules[0])]
    assert sorted(names) == sorted(parameter_names(FAMILY, run))
    assert len(names) == len(set(names))


def test_flops_leave_out_the_gradients_of_frozen_matrices():
    """A layer's matrices cost two of three parts of their FLOPs when frozen, attention all three."""
    family = CogVideoXFamily()

    def flops(**flags):
        return family.flops_per_sample(small_run(**flags))

    tokens, width, layers = 6 + 3 * 2 * 3, 32, 2
    matrices = 2 * tokens * 12 * width**2 * layers
    assert flops() - flops(freeze=["*.linear_*.weight"]) == matrices
    assert flops() - flops(freeze=["*.1.mlp.*"]) == matrices / 2 * 8 / 12
    assert flops(freeze=["*bias"]) == flops()
    adapters = 3 * 2 * tokens * layers * 5 * 2 * width
    assert flops(lora_rank=5, lora_target_modules=["to_q"]) == flops() - matrices + adapters
    wider = {"lora_rank": 5, "lora_target_modules": ["to_q", "to_k", "ff.net.2"]}
    assert flops(**wider) == flops() - matrices + 2 * adapters + adapters * 5 / 2


def test_what_is_trained():
    names = ["a.weight", "a.bias", "b.weight", "a.lora_x.q.A"]

    def trained(**flags):
        return freezing.trained_names(names, small_run(**flags).adaptation)

    assert trained() == set(names)
    assert trained(freeze=["a.*"]) == {"b.weight"}
    assert trained(train_only=["*.weight"], freeze=["b*"]) == {"a.weight"}
    assert trained(lora_rank=1) == {"a.lora_x.q.A"}
    assert trained(lora_rank=1, train_only=["*.bias"]) == {"a.lora_x.q.A", "a.bias"}
    assert trained(lora_rank=1, train_only=["*.bias"], freeze=["*lora*"]) == {"a.bias"}


def test_targets_take_both_spellings():
    assert chosen(TARGETS, ["attn1.to_q", "ff.net.2"]) == chosen(TARGETS, ["ff.net.2", "to_q"])
    assert parts_of(chosen(TARGETS, ["norm2.linear", "to_k"])) == {
        "self_attention.lora_qkv": ["k"],
        "modulation.lora": ["norm2"],
    }


def test_targets_that_are_not_given():
    assert [target.flag for target in chosen(TARGETS, None)] == ["to_q", "to_k", "to_v", "to_out.0"]
    with pytest.raises(ValueError, match="--lora-rank: models of this family take no adapters"):
        chosen((), None)
