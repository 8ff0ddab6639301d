"""The network where some frames are given clean."""

import pytest
import torch

from tests.training.small import small_run
from vidtron.config.world import World
from vidtron.inference.replica_network import ReplicaNetwork
from vidtron.models.build import build_chunks
from vidtron.models.cogvideox.config import TEXT, VIDEO
from vidtron.models.cogvideox.embeddings import unpatchify
from vidtron.models.cogvideox.family import CogVideoXFamily
from vidtron.models.inputs import Conditions, ModelInput, TextInput
from vidtron.models.layers.conditioning import Conditioning, Segment
from vidtron.parallel import initialized

WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)
NETWORKS = {"plain": {}, "image to video": {"in_channels": 32, "ofs_embedding": True}}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    run = small_run(**NETWORKS[request.param])
    with initialized(run, WORLD) as groups:
        (module,) = build_chunks(CogVideoXFamily(), run, groups)
        with torch.no_grad():  # so that modulation is felt
            for name, parameter in module.named_parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
        yield module


def inputs():
    draw = torch.Generator().manual_seed(0)
    return {
        "noisy_BTCHW": torch.randn(2, 3, 16, 4, 6, generator=draw),
        "timesteps_B": torch.tensor([700.0, 350.0]),
        "text_BLE": torch.randn(2, 6, 16, generator=draw),
        "image_latents": torch.randn(2, 3, 16, 4, 6, generator=draw),
    }


def run(module, frame_mask=None, kept_timestep=20.0, **changes):
    mask = None if frame_mask is None else torch.tensor(frame_mask)
    given = {**inputs(), **changes}
    return module(
        inputs=ModelInput.of(
            given["noisy_BTCHW"],
            given["timesteps_B"],
            given["text_BLE"],
            image_latents_BTCHW=given["image_latents"],
            frame_mask_BT=mask,
            kept_timestep=kept_timestep,
        )
    )


ALL = [[True] * 3] * 2
MASK = [[False, True, True], [True, False, True]]


def gradients(module, output):
    module.zero_grad()
    output.square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def test_a_mask_of_learned_frames_is_none_bit_for_bit(network):
    plain, masked = run(network), run(network, ALL)
    assert torch.equal(plain, masked)
    expected, actual = gradients(network, plain), gradients(network, masked)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_frames_given_at_the_samples_own_time_are_as_others(network):
    times = torch.tensor([350.0, 350.0])
    expected = run(network, timesteps_B=times)
    torch.testing.assert_close(run(network, MASK, 350.0, timesteps_B=times), expected, **CLOSE)


def test_given_frames_have_their_own_time(network):
    plain = run(network)
    one, other = run(network, MASK, 20.0), run(network, MASK, 100.0)
    for sample in range(2):  # each frame looks at all others
        for output in (one, plain):
            assert (other - output)[sample].flatten(1).abs().max(dim=1).values.min() > 1e-3


def test_samples_of_a_micro_batch_do_not_touch_each_other(network):
    mixed = [[True] * 3, [False, True, False]]
    together, given = run(network, mixed), inputs()
    first, second = ({name: x[part] for name, x in given.items()} for part in (slice(1), slice(1, 2)))
    torch.testing.assert_close(together[:1], run(network, **first), **CLOSE)
    torch.testing.assert_close(together[1:], run(network, mixed[1:], **second), **CLOSE)


def test_one_row_of_times_for_each_frame_gives_the_same(network):
    """Against conditioning written out by hand: the own times for text, then a row for each frame."""
    given = inputs()
    own, kept = network._time_embedding(given["timesteps_B"]), network._time_embedding(torch.tensor([20.0]))
    rows = [own] + [torch.stack([own[b] if MASK[b][frame] else kept[0] for b in range(2)]) for frame in range(3)]
    split = network.split_of(6 + 18)
    segments = (Segment(0, 6, TEXT), *(Segment(6 + 6 * f, 12 + 6 * f, VIDEO, 1 + f) for f in range(3)))
    latents = given["noisy_BTCHW"]
    if network.network.image_conditioned:
        latents = torch.cat((latents, given["image_latents"]), dim=2)
    hidden = network.embedding(latents, given["text_BLE"], split)
    rotary = network._rotary(split, 6, (3, 2, 3))
    hidden = network.decoder(hidden, Conditioning(torch.stack(rows), segments, split.tokens, rotary))
    expected = unpatchify(network.final(hidden, own[None])[6:], (3, 16, 4, 6), 1, 2)
    torch.testing.assert_close(run(network, MASK), expected, **CLOSE)


def test_sampling_asks_the_same_of_the_network(network):
    given, times = inputs(), torch.tensor([700.0, 700.0])
    mask = torch.tensor([False, True, True])
    replica_network = ReplicaNetwork([network], network.groups, sequence_length=24, kept_timestep=20.0)
    conditions = Conditions((TextInput(given["text_BLE"]),), given["image_latents"])
    output = replica_network(given["noisy_BTCHW"], 700, conditions, mask.view(1, 3, 1, 1, 1))
    assert torch.equal(output, run(network, [mask.tolist()] * 2, timesteps_B=times))
