import dataclasses

import pytest
import torch

from vidtron.diffusion.continuous import EDMSchedule
from vidtron.diffusion.objective import Objective
from vidtron.diffusion.parameterization import EDM
from vidtron.diffusion.schedule import ZeroTerminalSNRSchedule
from vidtron.diffusion.weighting import EDMWeighting
from vidtron.models.inputs import VIDEO, Conditions, TextInput
from vidtron.training.batches import MicroBatch
from vidtron.training.forward_step import ForwardStep

SHAPE = (2, 3, 4, 2, 5)


class Chunk(torch.nn.Module):
    """Notes what it was called with and answers with a multiple of its noisy input."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, *, inputs):
        self.inputs = inputs
        return self.scale * inputs.noisy_BTCHW.float()


def micro_batch(timesteps=(999.0, 257.0), image=None):
    draw = torch.Generator().manual_seed(0)
    return MicroBatch(
        latents={VIDEO: torch.randn(SHAPE, generator=draw)},
        noise={VIDEO: torch.randn(SHAPE, generator=draw)},
        conditions=Conditions((TextInput(torch.randn(2, 3, 4, generator=draw)),), image),
        timesteps_B=torch.tensor(timesteps),
        positions=(6, 7),
        slots=(2, 3),
    )


@pytest.fixture
def schedule():
    return ZeroTerminalSNRSchedule(shift=3.0)


def test_loss_is_the_mean_squared_error_of_the_velocity(schedule):
    batch, chunk = micro_batch(), Chunk()
    output, loss_of = ForwardStep(Objective(schedule), torch.float32)(iter([batch]), chunk)
    alpha = schedule.alpha_table[[999, 257]].view(2, 1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    noisy = alpha * batch.latents[VIDEO] + sigma * batch.noise[VIDEO]
    velocity = alpha * batch.noise[VIDEO] - sigma * batch.latents[VIDEO]
    torch.testing.assert_close(output, 0.5 * noisy)
    assert chunk.inputs.positions == (6, 7)
    loss, report = loss_of(output)
    expected_B = ((0.5 * noisy - velocity) ** 2).mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(report["losses_B"], expected_B)
    torch.testing.assert_close(loss, expected_B.mean())
    assert report["slots"] == (2, 3)
    assert not report["losses_B"].requires_grad


def test_the_schedule_may_scale_the_loss_in_place(schedule):
    # pipeline_parallel/schedules.py does: output_tensor *= cp_group_size; output_tensor /= num_microbatches.
    chunk = Chunk()
    output, loss_of = ForwardStep(Objective(schedule), torch.float32)(iter([micro_batch()]), chunk)
    loss, report = loss_of(output)
    before = report["losses_B"].clone()
    loss *= 2
    loss.backward()
    assert torch.equal(report["losses_B"], before)
    assert chunk.scale.grad is not None


def test_bf16_keeps_the_timesteps(schedule):
    chunk = Chunk()
    image = torch.randn(SHAPE)
    ForwardStep(Objective(schedule), torch.bfloat16)(iter([micro_batch(image=image)]), chunk)
    inputs = chunk.inputs
    assert inputs.timesteps.tolist() == [999.0, 257.0]  # 257 is no bf16 number
    tensors = (inputs.noisy_BTCHW, inputs.conditions.texts[0].states_BLE, inputs.conditions.image_latents_BTCHW)
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}


def test_text_to_video_has_no_image(schedule):
    chunk = Chunk()
    ForwardStep(Objective(schedule), torch.float32)(iter([micro_batch()]), chunk)
    assert chunk.inputs.conditions.image_latents_BTCHW is None


def test_edm_scales_what_the_network_sees():
    objective = Objective(EDMSchedule(), EDM(0.5), EDMWeighting(0.5))
    timesteps = objective.schedule.timestep_of_ratio(torch.tensor([0.3, 7.0])).float()
    batch, chunk = micro_batch(timesteps.tolist()), Chunk()
    output, loss_of = ForwardStep(objective, torch.float32)(iter([batch]), chunk)
    sigma = torch.tensor([0.3, 7.0]).view(2, 1, 1, 1, 1)
    c_in = (sigma**2 + 0.25).rsqrt()
    noisy = batch.latents[VIDEO] + sigma * batch.noise[VIDEO]
    torch.testing.assert_close(chunk.inputs.noisy_BTCHW, c_in * noisy)
    denoised = 0.25 * c_in**2 * noisy + 0.5 * sigma * c_in * output
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    expected_B = (weight * (denoised - batch.latents[VIDEO]) ** 2).mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(loss_of(output)[1]["losses_B"], expected_B, rtol=1e-4, atol=0)


def test_given_frames_are_shown_clean_and_not_learned(schedule):
    mask = torch.tensor([[False, True, True], [True, True, True]])
    batch, chunk = dataclasses.replace(micro_batch(), frame_mask_BT=mask), Chunk()
    output, loss_of = ForwardStep(Objective(schedule), torch.float32)(iter([batch]), chunk)
    noisy, unmasked = chunk.inputs.noisy_BTCHW, Chunk()
    assert torch.equal(chunk.inputs.frame_mask_BT, mask)
    assert chunk.inputs.kept_timestep == schedule.clean_timestep
    ForwardStep(Objective(schedule), torch.float32)(iter([micro_batch()]), unmasked)
    assert torch.equal(noisy[mask], unmasked.inputs.noisy_BTCHW[mask])
    torch.testing.assert_close(noisy[0, 0], batch.latents[VIDEO][0, 0], atol=0.15, rtol=0)

    output = output.detach().requires_grad_()
    loss, report = loss_of(output)
    loss.backward()
    assert output.grad[~mask].abs().max() == 0
    assert output.grad[mask].abs().min() > 0
    alpha, sigma = schedule.alpha_table[999], schedule.sigma_table[999]
    velocity = alpha * batch.noise[VIDEO] - sigma * batch.latents[VIDEO]
    torch.testing.assert_close(report["losses_B"][0], ((output - velocity) ** 2)[0, 1:].mean().detach())


def test_edm_scales_given_frames_as_clean():
    objective, mask = Objective(EDMSchedule(), EDM(0.5), EDMWeighting(0.5)), torch.tensor([[False, True, True]] * 2)
    timesteps = objective.schedule.timestep_of_ratio(torch.tensor([3.0, 7.0])).float().tolist()
    batch, chunk = dataclasses.replace(micro_batch(timesteps), frame_mask_BT=mask), Chunk()
    ForwardStep(objective, torch.float32)(iter([batch]), chunk)
    torch.testing.assert_close(chunk.inputs.noisy_BTCHW[:, 0], batch.latents[VIDEO][:, 0] / 0.5, atol=0.03, rtol=0.01)
