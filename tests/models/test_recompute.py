"""Cheap parts run again in the backward pass; rows of segments are modulated in place of one result."""

import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef

from vidtron.models.layers.conditioning import Segment
from vidtron.models.layers.norms import gated_residual, modulate
from vidtron.models.layers.recompute import Recomputed

SEGMENTS = (Segment(0, 2, kind=1), Segment(2, 5, kind=0, time=1), Segment(5, 6, kind=0))


def drawn(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]


def rows_of(vectors_TBKD):
    return torch.cat([vectors_TBKD[s.time, :, s.kind].expand(s.stop - s.start, -1, -1) for s in SEGMENTS])


def test_modulation_and_its_gradients():
    x, shift, scale = drawn((6, 2, 4), (2, 2, 2, 4), (2, 2, 2, 4))
    torch.testing.assert_close(modulate(x, shift, scale, SEGMENTS), x * (1 + rows_of(scale)) + rows_of(shift))
    assert torch.autograd.gradcheck(lambda *a: modulate(*a, SEGMENTS), (x, shift, scale))


@pytest.mark.parametrize("with_bias", [True, False])
def test_gated_residual_and_its_gradients(with_bias):
    residual, gate, update, bias = drawn((6, 2, 4), (2, 2, 2, 4), (6, 2, 4), (4,))
    bias = bias if with_bias else None
    expected = residual + rows_of(gate) * (update if bias is None else update + bias)
    torch.testing.assert_close(gated_residual(residual, gate, update, bias, SEGMENTS), expected)
    inputs = (residual, gate, update) + ((bias,) if with_bias else ())
    assert torch.autograd.gradcheck(
        lambda r, g, u, b=None: gated_residual(r, g, u, b, SEGMENTS), inputs, check_batched_grad=False
    )


def network(x, weight, norm_weight, *, recompute):
    """A norm before a product, and two values of which the product keeps views."""
    norm = Recomputed(lambda x: F.layer_norm(x, x.shape[-1:], norm_weight), x, enabled=recompute)
    with norm.not_kept():
        y = norm.value[1:] @ weight
    pair = Recomputed(lambda y: (y.sin(), y.cos()), y, enabled=recompute)
    with pair.not_kept():
        a, b = pair.value
        out = a.transpose(0, 1) @ b
    del a, b
    return out


def test_gradients_are_those_of_the_plain_network():
    inputs = drawn((5, 4), (4, 3), (4,))
    gradients = []
    for recompute in (False, True):
        loss = (network(*inputs, recompute=recompute) ** 2).sum()
        gradients.append(torch.autograd.grad(loss, inputs) if not recompute else None)
        if recompute:
            loss.backward()
    for expected, x in zip(gradients[0], inputs, strict=True):
        assert torch.equal(expected, x.grad)


def test_the_value_is_not_kept():
    x, weight = drawn((5, 4), (4, 3))
    activation = Recomputed(torch.tanh, x)
    storage = StorageWeakRef(activation.value.untyped_storage())
    with activation.not_kept():
        y = activation.value @ weight
    assert storage.expired()
    y.sum().backward()
    torch.testing.assert_close(weight.grad, torch.tanh(x).detach().sum(0)[:, None].expand(4, 3))


def test_an_input_changed_in_between_is_an_error():
    x, weight = drawn((5, 4), (4, 3))
    hidden = x * 2
    activation = Recomputed(torch.tanh, hidden)
    with activation.not_kept():
        y = activation.value @ weight
    with torch.no_grad():
        hidden.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_without_gradients_nothing_is_set_up():
    with torch.no_grad():
        activation = Recomputed(torch.tanh, torch.ones(2))
        with activation.not_kept():
            assert torch.equal(activation.value, torch.tanh(torch.ones(2)))
