"""Presets, FLOPs, sizes and refusals of CogVideoX."""

import dataclasses
import re

import pytest

from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.models.registry import family_of, preset, preset_names

WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False, packages=frozenset())


def run_of(name, **flags):
    """The preset's run with `flags` on the data, parallel or network section."""
    chosen = preset(name)
    run = RunConfig(model=name, network=dataclasses.replace(chosen.network))
    for section, values in chosen.defaults.items():
        for field, value in values.items():
            setattr(getattr(run, section), field, value)
    for flag, value in flags.items():
        owner = next(s for s in (run.network, run.data, run.parallel) if hasattr(s, flag))
        setattr(owner, flag, value)
    return run


@pytest.mark.parametrize("name", preset_names())
def test_presets_pass_their_own_check(name):
    assert family_of(name).check(run_of(name), WORLD) == []


@pytest.mark.parametrize(
    ("name", "tokens", "petaflops"),
    [("cogvideox-2b", 17776, 0.36), ("cogvideox-5b", 17776, 1.00), ("cogvideox-1.5-5b", 45104, 4.44)],
)
def test_tokens_and_flops(name, tokens, petaflops):
    run, family = run_of(name), family_of(name)
    assert family.tokens_per_sample(run) == tokens
    assert family.flops_per_sample(run) / 1e15 == pytest.approx(petaflops, abs=0.005)


def test_an_odd_latent_frame_is_padded_for_two_frame_patches():
    assert family_of("cogvideox-1.5-5b").latent_shape(run_of("cogvideox-1.5-5b")) == (22, 16, 96, 170)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"height": 100}, "--height 100: accepted: multiples of 16"),
        ({"tensor_model_parallel_size": 3}, "--tensor-model-parallel-size 3.*accepted: 1, 2, 4"),
        (
            {"context_parallel_size": 3, "cp_comm_type": "a2a"},
            "--cp-comm-type a2a: 4 heads.*accepted here: all_gather, auto",
        ),
        ({"hidden_size": 66}, "--hidden-size 66"),
        ({"in_channels": 20}, "--in-channels 20: accepted: 16"),
        ({"context_parallel_size": 2, "cp_comm_type": "p2p", "text_length": 15}, "--cp-comm-type p2p"),
    ],
)
def test_refusals(flags, words):
    errors = family_of("cogvideox-tiny").check(run_of("cogvideox-tiny", **flags), WORLD)
    assert len(errors) == 1, errors
    assert re.search(words, errors[0])


def test_learned_positions_hold_for_their_grid_only():
    errors = family_of("cogvideox-5b-i2v").check(run_of("cogvideox-5b-i2v", height=320), WORLD)
    assert len(errors) == 1 and "--learned-position-grid" in errors[0]
    assert family_of("cogvideox-5b-i2v").check(run_of("cogvideox-5b-i2v", num_frames=33), WORLD) == []
