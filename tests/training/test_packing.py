"""One row of numbers for all that a sample may consist of."""

import torch

from vidtron.config.text import TextSpec
from vidtron.models.inputs import VIDEO, Conditions, SampleSpec, TextInput, joined
from vidtron.training.packing import CLIP, Packing

SPEC = SampleSpec(
    {VIDEO: (2, 3, 4, 5), "audio": (1, 2, 1, 6)},
    (TextSpec(3, 4), TextSpec(2, 5, masked=True, pooled_width=7)),
    image_latents=True,
    size=True,
)


def test_everything_comes_back_in_its_place():
    packing = Packing(SPEC)
    rows = [torch.arange(packing.numel, dtype=torch.float32) + 1000 * sample for sample in range(2)]
    for row in rows:
        packing.unpack(row)["text_2.mask"].copy_(torch.tensor([1.0, 0.0]))
        packing.unpack(row)[CLIP].copy_(torch.tensor([17.0, 64.0, 96.0, 12.5]))
    latents, conditions = packing.batch(rows)
    assert {name: tuple(tensor.shape) for name, tensor in latents.items()} == {
        VIDEO: (2, 2, 3, 4, 5),
        "audio": (2, 1, 2, 1, 6),
    }
    assert latents[VIDEO].flatten()[0] == 0 and latents["audio"][1].flatten()[0] == 1000 + 120
    first, second = conditions.texts
    assert first.mask_BL is None and first.pooled_BE is None and first.states_BLE.shape == (2, 3, 4)
    assert second.mask_BL.tolist() == [[True, False]] * 2 and second.pooled_BE.shape == (2, 7)
    assert conditions.image_latents_BTCHW.shape == (2, 2, 3, 4, 5)
    assert conditions.size_B3.tolist() == [[17, 64, 96]] * 2 and conditions.fps_B.tolist() == [12.5] * 2
    parts = sum(part.numel() for part in packing.unpack(rows[0]).values())
    assert parts == packing.numel == rows[0].numel()


def test_types_and_joining_leave_masks_sizes_and_what_is_absent():
    text = TextInput(torch.ones(1, 2, 3), torch.tensor([[True, False]]))
    given = Conditions((text,), None, torch.tensor([[17.0, 1001.0, 96.0]]), torch.tensor([29.97]), torch.ones(1, 4, 5))
    half = given.in_type(torch.bfloat16)
    assert half.texts[0].states_BLE.dtype == torch.bfloat16 and half.texts[0].mask_BL.dtype == torch.bool
    assert half.image_embeddings_BLE.dtype == torch.bfloat16
    assert half.size_B3.tolist() == given.size_B3.tolist()  # 1001 is no bf16 number
    both = joined((given, given))
    assert both.texts[0].states_BLE.shape == (2, 2, 3) and both.image_latents_BTCHW is None
    assert both.fps_B.tolist() == [*given.fps_B.tolist()] * 2
