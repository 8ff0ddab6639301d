"""STDiT2 and STDiT3 against Open-Sora or plain torch: outputs, what lies between, gradients, under all layouts."""

import math
from dataclasses import replace

import pytest
import torch

from tests.reference import plain_stdit
from tests.reference.stdit_oracle import (
    NETWORKS,
    STDIT2,
    cases,
    described,
    inputs_of,
    intermediates,
    outputs_and_gradients,
    traffic,
    weights,
)
from vidtron.models.registry import preset
from vidtron.models.stdit.checkpoint_names import COMPUTED, opensora_rows, our_rows, sizes

RECOMPUTED = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
LAYOUTS = {
    "one rank": (1, {}),
    "TP2": (2, {"tensor_model_parallel_size": 2}),
    "TP2+SP": (2, {"tensor_model_parallel_size": 2, "sequence_parallel": True, **RECOMPUTED}),
    "PP2": (2, {"pipeline_model_parallel_size": 2}),
    "CP2": (2, {"context_parallel_size": 2, **RECOMPUTED}),
    "CP2 all-gather": (2, {"context_parallel_size": 2, "cp_comm_type": "all_gather"}),
    "TP2+SP x CP2": (4, {"tensor_model_parallel_size": 2, "sequence_parallel": True, "context_parallel_size": 2}),
    "CP4": (4, {"context_parallel_size": 4}),
}
CLIPS = {
    "image": (1, 4, 6, False),
    "three frames": (3, 6, 8, True),
    "four frames of an odd size": (4, 7, 9, True),
    "five frames of two tokens": (5, 2, 4, True),
    "five frames of three tokens": (5, 2, 6, False),
    "five frames of one token": (5, 2, 2, True),
}
"""Latent frames, height, width, and whether some are given; both ways of cutting, with and without padding."""


def learned(case: str) -> torch.Tensor:
    """1 where a frame's output is compared: Open-Sora norms given ones twice."""
    mask = inputs_of(case).get("x_mask")
    return torch.ones(()) if mask is None else mask[:, None, :, None, None].float()


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("CP2 all-gather", "CP4")])
def test_stdit2_is_open_soras(pool, layout):
    known, world_size = cases(), LAYOUTS[layout][0]
    given = {case: (inputs_of(case), torch.ones(())) for case in ("base", "image")}
    given["xmask"] = inputs_of("xmask"), known["grad/weight"]
    results = pool.run(outputs_and_gradients, world_size, "stdit2", LAYOUTS[layout][1], given)[0]
    for case, result in results.items():
        assert ((result["output"] - known[f"{case}/out"]) * learned(case)).abs().max() < 1e-4, case

    gradients = results["xmask"]["gradients"]
    norms = {name: norm for name, (norm, _) in described()["grad_norm_and_sum"].items() if name not in COMPUTED}
    total = math.hypot(*norms.values())
    assert len(norms) > 60
    for name, norm in norms.items():
        bound = 1e-4 * norm + 1e-6 * total
        assert abs(float(gradients[name].norm()) - norm) < bound, name
        if f"grad/{name}" in known:
            assert (gradients[name] - known[f"grad/{name}"]).norm() < bound, name
    if layout == "one rank":
        assert (results["xmask"]["x"] - known["grad/x"]).norm() < 1e-4 * known["grad/x"].norm()


def test_what_lies_between(pool):
    known = {name.removeprefix("xmask/mid/"): t for name, t in cases().items() if name.startswith("xmask/mid/")}
    del known["final_layer"]  # normed twice there
    ours = pool.run(intermediates, 1, "stdit2", inputs_of("xmask"))[0]
    assert ours.keys() == known.keys()
    for name, expected in known.items():
        assert ours[name].shape == expected.shape, name
        assert (ours[name] - expected).abs().max() < 1e-4, name


def test_settings(pool):
    """The order of rotation and norm, no norm, and Open-Sora's rounding of scalars."""
    known, given = cases(), inputs_of("xmask")

    def output(network):
        return pool.run(outputs_and_gradients, 1, network, {}, {"xmask": (given, torch.ones(()))})[0]["xmask"][
            "output"
        ]

    expected = known["xmask/out_noqknorm"]
    assert ((output("no norm") - expected) * learned("xmask")).abs().max() < 1e-4
    exact, mask = known["xmask/out"] * learned("xmask"), learned("xmask")
    plain = plain_stdit.forward(weights(STDIT2), heads=4, norm_first=True, **given)
    other = output("norm first")
    assert ((other - plain) * mask).abs().max() < 1e-4 and ((other - exact) * mask).abs().max() > 0.05

    bf16 = known["xmask/out_bf16"] * mask
    assert (exact - bf16).norm() / bf16.norm() > 0.1
    assert (output("rounded") * mask - bf16).norm() / bf16.norm() < 0.02


@pytest.mark.parametrize(("name", "keys"), [("stdit2-xl", 707), ("stdit3-xl", 973)])
def test_names_and_shapes(name, keys):
    network = preset(name).network
    letters = sizes(network)
    shapes = {}
    for row in opensora_rows(network):
        shapes |= zip(row.theirs, map(list, row.their_shapes(letters, network)), strict=True)
    shapes |= {computed: [network.head_dim // 2] for computed in COMPUTED}
    numel = sum(math.prod(shape) for shape in shapes.values()) - math.prod(shapes["y_embedder.y_embedding"])
    assert len(shapes) == keys
    assert numel == {707: described()["xl2_numel"], 973: 1_207_643_972}[keys]
    if keys == 707:
        assert shapes == described()["xl2_shapes"]
    assert [row.ours for row in our_rows(network)] == [row.ours for row in opensora_rows(network)]


def clip(frames: int, height: int, width: int, masked: bool, network: str) -> dict[str, torch.Tensor]:
    """Arguments of a random batch of two clips, their pixels not those of the latent."""
    draw = torch.Generator().manual_seed(frames * 100 + height * 10 + width)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 5:] = 0
    given = {
        "x": torch.randn(2, 4, frames, height, width, generator=draw),
        "timestep": torch.tensor([17.0, 801.0]),
        "y": torch.randn(2, 1, 12, 32, generator=draw),
        "mask": mask,
        "num_frames": torch.full((2,), float(frames)),
        "height": torch.full((2,), 13.0 * height),
        "width": torch.full((2,), 13.0 * width),
        "fps": torch.tensor([24.0, 120.0]),
    }
    given["ar"] = given["width"] / given["height"]
    if masked:
        given["x_mask"] = torch.rand(2, frames, generator=draw) > 0.4
    return given


@pytest.fixture(scope="module")
def expected():
    """Outputs and gradients of plain torch, once for each network."""
    known = {}

    def of(network):
        if network not in known:
            known[network] = {name: plain(network, clip(*sizes, network)) for name, sizes in CLIPS.items()}
        return known[network]

    return of


def plain(network: str, given: dict[str, torch.Tensor]):
    config = NETWORKS[network]
    state = {name: tensor.requires_grad_() for name, tensor in weights(config).items()}
    output = plain_stdit.forward(
        state, heads=config.num_attention_heads, pairs=config.pairs, norm_first=not config.rotary_before_norm, **given
    )
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (output * weight).mean().backward()
    gradients = {name: tensor.grad for name, tensor in state.items() if tensor.grad is not None}
    return output.detach(), weight, gradients


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("network", ["stdit2", "stdit3"])
def test_both_ways_of_cutting(pool, expected, network, layout):
    world_size, flags = LAYOUTS[layout]
    known = expected(network)
    given = {name: (clip(*sizes, network), known[name][1]) for name, sizes in CLIPS.items()}
    results = pool.run(outputs_and_gradients, world_size, network, flags, given)[0]
    for name, result in results.items():
        output, _, gradients = known[name]
        assert (result["output"] - output).abs().max() < 1e-4, name
        total = math.hypot(*(float(g.norm()) for g in gradients.values()))
        assert len(gradients) >= len(result["gradients"]) - 1  # all but the null caption
        for weight, gradient in gradients.items():
            difference = (result["gradients"][weight] - gradient).norm()
            assert difference < 1e-4 * gradient.norm() + 1e-6 * total, (name, weight)


def test_a_dropped_caption(pool):
    known = cases()
    given = inputs_of("base")
    states = {name: known[f"capdrop/in/{name}"] for name in ("y", "force_drop_ids")}
    ours = pool.run(intermediates, 1, "stdit2", {**given, **states})[0]
    assert (ours["y_embedder"] - known["capdrop/out"]).abs().max() < 1e-5


def test_texts_without_mask(pool):
    """And clips of one layout after another in one network."""
    given = clip(2, 6, 4, True, "stdit3")
    del given["mask"]
    output, weight, _ = plain("stdit3", given)
    result = pool.run(outputs_and_gradients, 2, "stdit3", LAYOUTS["CP2"][1], {"": (given, weight)})[0][""]
    assert (result["output"] - output).abs().max() < 1e-4
    assert replace(STDIT2, patch_size=2).grid(7, 9) == (4, 5)


@pytest.mark.parametrize("network", ["stdit2", "stdit3"])
@pytest.mark.parametrize("layout", ["CP2", "TP2+SP x CP2", "PP2"])
def test_traffic_of_the_temporal_attention(pool, network, layout):
    """2 C N / (CP TP) (CP - 1) / CP numbers forward and as many backward; recomputed, once more forward."""
    world_size, flags = LAYOUTS[layout]
    given = clip(4, 8, 12, True, network)
    weight = torch.ones(2, 8, 4, 8, 12)
    told = pool.run(traffic, world_size, network, flags, {"": (given, weight)})[0]
    cp, tp = flags.get("context_parallel_size", 1), flags.get("tensor_model_parallel_size", 1)
    config, passes = NETWORKS[network], 3 if "recompute_granularity" in flags else 2
    tokens = 2 * 4 * (4 * 6)
    forward = config.num_layers * 2 * config.hidden_size * tokens * (cp - 1) // (cp * tp * cp)
    assert told == {"calls": 2 * passes * config.num_layers if cp > 1 else 0, "numbers": passes * forward}
