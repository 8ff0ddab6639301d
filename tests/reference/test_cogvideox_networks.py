"""Outputs, gradients and losses of CogVideoX against upstream's, under four layouts."""

import json

import pytest
import torch

from tests.reference.cogvideox_oracle import (
    VARIANTS,
    expected_gradients,
    expected_training_step,
    folder,
    output_and_gradients,
    sampled,
    training_step,
)

LAYOUTS = {
    "one rank": (1, {}),
    "TP2+SP": (2, {"tensor_model_parallel_size": 2, "sequence_parallel": True}),
    "PP2": (2, {"pipeline_model_parallel_size": 2}),
    "CP2": (2, {"context_parallel_size": 2}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_output_and_gradients(pool, variant, layout):
    io = torch.load(folder(variant) / "io.pt", weights_only=True)
    world_size, parallel = LAYOUTS[layout]
    result = pool.run(output_and_gradients, world_size, variant, parallel)[0]
    assert (result["output"] - io["out_sat"]).abs().max() < 2e-5

    expected = expected_gradients(variant)
    # Sampled gradients are compared element by element; the bound of a tensor is that of its whole norm.
    norms = json.loads((folder(variant) / "meta.json").read_text())["grad_l2"]
    total = sum(norm**2 for norm in norms.values()) ** 0.5
    assert norms.keys() <= result["gradients"].keys()
    for name, norm in norms.items():
        ours = result["gradients"][name]
        bound = 1e-4 * norm + 1e-6 * total
        assert (sampled(ours) - expected[name].flatten()).norm() < bound, name
        assert abs(float(ours.norm()) - norm) < bound, name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_step(pool, variant, layout):
    expected = expected_training_step(variant)
    world_size, parallel = LAYOUTS[layout]
    result = pool.run(training_step, world_size, variant, parallel)[0]
    torch.testing.assert_close(result["losses"], torch.tensor(expected["loss_per_sample"]), rtol=2e-6, atol=0)
    total = expected["grad_norm_total"]
    assert result["norm"] == pytest.approx(total, rel=1e-5)
    for name, norm in expected["grad_l2"].items():
        assert abs(result["norms"][name] - norm) < 1e-4 * norm + 1e-6 * total, name
