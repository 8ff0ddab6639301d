"""How often the network is asked under guidance, and what it is told."""

import torch

from vidtron.diffusion.guidance import ConstantScale
from vidtron.inference.replica_network import with_guidance
from vidtron.models.inputs import Conditions, TextInput


class Recorder:
    """A network that answers with its text's mean and notes its batches."""

    def __init__(self):
        self.batches, self.masks = [], []

    def __call__(self, noisy, timestep, conditions, frame_mask=None):
        image = conditions.image_latents_BTCHW
        self.batches.append((len(noisy), None if image is None else len(image)))
        self.masks.append(frame_mask)
        return conditions.texts[0].states_BLE.mean((1, 2)).view(-1, 1, 1, 1, 1).expand(noisy.shape).clone()


def told(value, image=None):
    return Conditions((TextInput(torch.full((1, 3, 5), value)),), image)


def test_the_network_is_asked_twice_only_where_guidance_needs_it():
    network, noisy = Recorder(), torch.zeros(1, 2, 4, 2, 2)
    text, null = told(2.0), told(0.5)
    guided = with_guidance(network, text, null, lambda timestep: 1.0 if timestep < 500 else 3.0, channels=3)
    assert guided(noisy, 100).unique().tolist() == [2.0]
    out = guided(noisy, 900)
    assert out[:, :, :3].unique().tolist() == [0.5 + 3.0 * 1.5]
    assert out[:, :, 3:].unique().tolist() == [2.0]
    with_guidance(network, told(2.0, noisy), told(0.5, noisy), ConstantScale(2.0))(noisy, 900)
    assert network.batches == [(1, None), (2, None), (2, 2)]


def test_both_halves_of_guidance_are_told_of_given_frames():
    network, noisy, text = Recorder(), torch.zeros(1, 2, 4, 2, 2), told(0.0)
    mask = torch.tensor([False, True]).view(1, 2, 1, 1, 1)
    guided = with_guidance(network, text, text, lambda timestep: 1.0 if timestep < 500 else 3.0)
    guided(noisy, 900, mask)
    guided(noisy, 100, mask)
    assert network.masks[0].flatten(1).tolist() == [[False, True]] * 2
    assert network.masks[1] is mask
