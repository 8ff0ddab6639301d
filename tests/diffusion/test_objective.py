"""Schedule, velocity and loss against upstream's numbers; timesteps."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vidtron.diffusion.loss import mean_squared_error
from vidtron.diffusion.parameterization import Velocity, add_noise, per_sample
from vidtron.diffusion.samplers import ddim, trailing_timesteps
from vidtron.diffusion.schedule import ZeroTerminalSNRSchedule
from vidtron.diffusion.timesteps import discrete_timesteps, stratify

DATA = Path(__file__).parents[1] / "reference" / "data" / "objective"


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_table_is_upstreams(shift):
    expected = load_file(DATA / "tables.safetensors")[f"alphas_cumprod_sqrt/shift{shift}/idx0_clean"]
    torch.testing.assert_close(ZeroTerminalSNRSchedule(shift).alpha_table, expected.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ends_of_the_table(shift):
    schedule = ZeroTerminalSNRSchedule(shift)
    timesteps = torch.tensor([0, 999])
    alpha, sigma = schedule.alpha(timesteps), schedule.sigma(timesteps)
    assert alpha[1] == 0 and sigma[1] == 1
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(2), rtol=0, atol=1e-6)


def plain_cases():
    cases = json.loads((DATA / "loss_cases.json").read_text())
    cases = {name: case for name, case in cases.items() if isinstance(case, dict)}  # beside them stand notes
    return [name for name, case in cases.items() if not case["loss_kwargs"] and case["dtype"] == "torch.float32"]


def toy_network(x, timesteps, context, image=None):
    """The network of the fixtures: v = 0.3 x - 0.2 x^2 + 0.001 t + 0.5 mean(context) (+ 0.1 image)."""
    v = 0.3 * x - 0.2 * x**2 + 0.001 * per_sample(timesteps.float(), x) + 0.5 * per_sample(context.mean((1, 2)), x)
    return v if image is None else v + 0.1 * image


@pytest.mark.parametrize("case", plain_cases())
def test_loss_is_upstreams(case):
    tensors = load_file(DATA / "loss_cases.safetensors")
    x0, noise, idx, context = (tensors[f"{case}/{name}"] for name in ("x0", "noise_randn", "idx", "context"))
    image = tensors.get(f"{case}/concat_images")
    shift = json.loads((DATA / "loss_cases.json").read_text())[case]["shift_scale"]
    schedule = ZeroTerminalSNRSchedule(shift)
    alpha, sigma = (per_sample(level(idx), x0) for level in (schedule.alpha, schedule.sigma))
    noisy = add_noise(x0, noise, alpha, sigma)
    # Upstream's fp32 table is up to one last bit off the exact one, which matters where sigma is small.
    torch.testing.assert_close(noisy, tensors[f"{case}/net_in"][:, :, :16], rtol=0, atol=1e-5)
    output = toy_network(noisy, idx, context, image)
    loss = mean_squared_error(output, Velocity().target(x0, noise, alpha, sigma))
    torch.testing.assert_close(loss, tensors[f"{case}/loss"].float(), rtol=5e-6, atol=0)


def test_velocity_gives_back_both_ends():
    x0, noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3, 4)
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
    noisy, velocity = add_noise(x0, noise, alpha, sigma), Velocity().target(x0, noise, alpha, sigma)
    torch.testing.assert_close(Velocity().x0(noisy, velocity, alpha, sigma), x0)
    torch.testing.assert_close(Velocity().noise(noisy, velocity, alpha, sigma), noise)


def test_one_timestep_in_each_stratum():
    count = 25
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    strata = torch.randperm(count, generator=torch.Generator().manual_seed(2))
    quantiles = stratify(uniform, strata, count)
    assert (quantiles * count).floor().sort().values.tolist() == list(range(count))
    timesteps = discrete_timesteps(quantiles)
    assert (timesteps // 40).sort().values.tolist() == list(range(count))


def test_discrete_timesteps_stay_in_range():
    assert discrete_timesteps(torch.tensor([0.0, 0.9999999999, 1.0 - 1e-17])).tolist() == [0, 999, 999]


@pytest.mark.parametrize("timesteps", [0, 1])
def test_schedule_refuses_too_few_timesteps(timesteps):
    with pytest.raises(ValueError, match="2 or more"):
        ZeroTerminalSNRSchedule(1.0, timesteps)


def test_trailing_timesteps_are_the_references():
    assert trailing_timesteps(50)[:3] == [999, 979, 959] and trailing_timesteps(50)[-1] == 19


def test_ddim_with_the_ideal_denoiser_returns_the_data():
    """All data is one point: the ideal velocity is known, and the sampler must end there from any noise."""
    point = torch.tensor([[1.5, -0.5]])
    schedule = ZeroTerminalSNRSchedule()

    def ideal(noisy, timestep):
        alpha, sigma = (level(torch.tensor([timestep])) for level in (schedule.alpha, schedule.sigma))
        return Velocity().target(point, (noisy - alpha * point) / sigma, alpha, sigma)

    noise = torch.randn(1, 2, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ddim(ideal, noise, schedule, steps=10), point, atol=1e-4, rtol=0)
