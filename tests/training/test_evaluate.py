from types import SimpleNamespace

import pytest
import torch

from vidtron.training.evaluate import sigma_curve, undisturbed


def test_curve_over_the_noise_level():
    sigmas = torch.tensor([0.9, 0.1, 0.5, 0.3, 0.7, 0.2], dtype=torch.float64)
    losses = 10 * sigmas
    curve = sigma_curve(sigmas, losses, bins=3)
    assert curve.edges == pytest.approx([0.1, 0.25, 0.6, 0.9])
    assert curve.losses == pytest.approx([1.5, 4.0, 8.0])


@pytest.mark.parametrize(("samples", "bins", "expected"), [(7, 3, 3), (2, 8, 2), (1, 8, 1)])
def test_every_sample_counts_once(samples, bins, expected):
    """Also where the bins do not divide the samples, or are more than these."""
    losses = torch.arange(samples, dtype=torch.float64)
    curve = sigma_curve(torch.linspace(1, 0, samples), losses, bins)
    assert len(curve.losses) == expected and len(curve.edges) == expected + 1
    assert curve.edges == sorted(curve.edges) and curve.losses == sorted(curve.losses, reverse=True)


def test_nothing_is_left_changed():
    modules = [torch.nn.Sequential(torch.nn.Dropout()), torch.nn.Linear(1, 1).eval()]
    state = torch.get_rng_state()
    fp8 = SimpleNamespace(scale=torch.ones(3), amax_history=torch.zeros(4, 3))  # as in Transformer Engine's layers
    modules[0][0].fp8_meta = {"scaling_fwd": fp8, "scaling_bwd": SimpleNamespace(), "recipe": None}
    with pytest.raises(RuntimeError), undisturbed(modules):
        assert not modules[0][0].training and not torch.is_grad_enabled()
        torch.rand(3)
        fp8.amax_history[0] = 7.0
        raise RuntimeError
    assert modules[0][0].training and not modules[1].training and torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert not fp8.amax_history.any()
