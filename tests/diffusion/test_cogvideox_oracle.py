"""CogVideoX's tables, losses, index draws and samplers against upstream's numbers."""

import pytest
import torch
from safetensors.torch import load_file

from tests.diffusion.toy import DATA, cogvideox_velocity, read_json
from tests.last_bits import moved_tables
from vidtron.diffusion.denoising import Denoised, Denoiser
from vidtron.diffusion.guidance import DynamicScale, guided
from vidtron.diffusion.levels import sampling_levels
from vidtron.diffusion.loss import add_offset
from vidtron.diffusion.objective import Objective
from vidtron.diffusion.parameterization import EDM, Velocity, per_sample
from vidtron.diffusion.samplers import ddim, dpmpp_2m
from vidtron.diffusion.schedule import ZeroTerminalSNRSchedule, scaled_linear_alpha_bar, shift_alpha_bar
from vidtron.diffusion.timesteps import RankGroups, trailing_timesteps
from vidtron.diffusion.weighting import SATClamp

TABLES = load_file(DATA / "objective" / "tables.safetensors")
SHIFTS = [1.0, 3.0]


@pytest.mark.parametrize("shift", SHIFTS)
def test_training_table(shift):
    table = ZeroTerminalSNRSchedule(shift).alpha_table
    expected = TABLES[f"alphas_cumprod_sqrt/shift{shift}/idx0_clean"].float()
    torch.testing.assert_close(table, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        table.double() ** 2, TABLES[f"diffusers_alphas_cumprod/shift{shift}"], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("shift", SHIFTS)
def test_table_before_the_rescale(shift):
    expected = TABLES[f"alphas_cumprod/no_zero_snr/shift{shift} (float64)"]
    torch.testing.assert_close(shift_alpha_bar(scaled_linear_alpha_bar(1000), shift), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "flags"), [("post_shift", {"shift_after_rescale": True}), ("keep_start", {"keep_start": True})]
)
def test_variants_of_the_table(name, flags):
    table = ZeroTerminalSNRSchedule(3.0, **flags).alpha_table
    torch.testing.assert_close(table, TABLES[f"variants/{name}/shift3.0"], rtol=0, atol=1e-6)
    assert (table - ZeroTerminalSNRSchedule(3.0).alpha_table).abs().max() > 1e-4


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", [10, 50])
def test_sampling_table(shift, steps):
    levels = sampling_levels(ZeroTerminalSNRSchedule(shift), steps, table="sat")
    expected = TABLES[f"sampler/shift{shift}/n{steps}/alphas_cumprod_sqrt_noisy_first"]
    torch.testing.assert_close(torch.tensor([level.alpha for level in levels[:-1]]), expected, rtol=0, atol=1e-6)
    timesteps = TABLES[f"sampler/shift{shift}/n{steps}/timesteps_ascending"].tolist()
    assert [level.timestep for level in levels[:-1]] == timesteps[::-1]
    assert (levels[-1].alpha, levels[-1].sigma) == (1.0, 0.0)


@pytest.mark.parametrize("shift", SHIFTS)
def test_denoiser_coefficients(shift):
    ours = ZeroTerminalSNRSchedule(shift)
    stored = load_file(DATA / "objective" / "denoiser_coefficients.safetensors")
    expected = {name.split("/")[1]: values for name, values in stored.items() if name.startswith(f"shift{shift}/")}
    alpha, sigma = ours.alpha(expected["idx"]), ours.sigma(expected["idx"])
    one, none = torch.ones_like(alpha), torch.zeros_like(alpha)
    # sigma = sqrt(1 - alpha^2) is made of an alpha that is rounded to fp32 as IEEE 754 defines, and as upstream does;
    # a last bit of it that was moved on purpose comes back divided by sigma.
    moved = 2.0**-24 / expected["c_out"].abs().min().item() if moved_tables() else 0.0
    close = {"rtol": 0, "atol": 1e-6 + moved}
    torch.testing.assert_close(alpha, expected["alpha"], **close)
    torch.testing.assert_close(Velocity().x0(one, none, alpha, sigma), expected["c_skip"], **close)
    torch.testing.assert_close(Velocity().x0(none, one, alpha, sigma), expected["c_out"], **close)
    torch.testing.assert_close(Velocity().input_scale(alpha, sigma), expected["c_in"])
    assert torch.equal(expected["c_noise"], expected["idx"])
    # EDM's preconditioning is the same thing with the output's sign turned.
    torch.testing.assert_close(EDM().x0(one, none, alpha, sigma), expected["c_skip"], **close)
    torch.testing.assert_close(-EDM().x0(none, one, alpha, sigma), expected["c_out"], **close)
    weight = SATClamp().x0_weight(alpha, sigma)
    torch.testing.assert_close(weight, expected["w_loss"], rtol=5e-4, atol=0)  # 1 - a^2 cancels in upstream's fp32


LOSSES = {name: case for name, case in read_json("objective/loss_cases.json").items() if isinstance(case, dict)}


@pytest.mark.parametrize("name", LOSSES)
def test_loss(name):
    stored = load_file(DATA / "objective" / "loss_cases.safetensors")
    case = {key.split("/")[1]: value for key, value in stored.items() if key.startswith(f"{name}/")}
    flags = LOSSES[name]["loss_kwargs"]
    x0, noise, idx = case["x0"].float(), case["noise_randn"].float(), case["idx"]
    context = case["context"].to(case["x0"].dtype).float()  # upstream's network saw it in the latents' dtype
    generator = torch.Generator().manual_seed(LOSSES[name]["seed"])
    if "random_idx" in name:
        assert torch.equal(torch.randint(0, 1000, idx.shape, generator=generator), idx)
    drawn = torch.randn(x0.shape, generator=generator, dtype=case["noise_randn"].dtype)
    # randn is a radius of up to 5.8 times the cosine of an angle of up to 2 pi, of which the last bit (5e-7) is the
    # processor's; then come the dtype's own last bits.
    last_bits = 2 * torch.finfo(drawn.dtype).eps
    torch.testing.assert_close(drawn.float(), noise, rtol=last_bits, atol=5.8 * 5e-7)
    if level := flags.get("offset_noise_level"):
        noise = add_offset(noise, per_sample(torch.randn(len(idx), generator=generator), noise), level)
    weighted = "type" in flags or "min_snr_value" in flags
    objective = Objective(
        schedule=ZeroTerminalSNRSchedule(LOSSES[name]["shift_scale"]),
        loss_type=flags.get("type", "l2"),
        **({"weighting": SATClamp(flags.get("min_snr_value", float("inf")))} if weighted else {}),
    )
    noisy = objective.noisy(x0, noise, idx)
    assert torch.equal(objective.network_input(noisy, idx), noisy)
    # Upstream's fp32 table is up to one last bit off the exact one, which matters where sigma is small.
    torch.testing.assert_close(noisy, case["net_in"][:, :, :16], rtol=0, atol=1e-5)
    output = cogvideox_velocity(noisy, idx, context, case.get("concat_images"))
    torch.testing.assert_close(output, case["v"], rtol=0, atol=1e-5)
    losses = objective.losses(output, x0, noise, idx)
    torch.testing.assert_close(losses, case["loss"].float(), rtol=1e-5 if weighted else 5e-6, atol=0)


INDICES = read_json("objective/index_sampling.json")


@pytest.mark.parametrize("name", INDICES)
def test_indices_by_rank_groups(name):
    case, fields = INDICES[name], dict(word.split("=") for word in name.split() if "=" in word)
    ranks = int(fields["world_size"])
    if isinstance(case, str):
        with pytest.raises(ValueError, match="a divisor of the number of ranks"):
            RankGroups.version_1_5(ranks, int(fields["group_num"]))
        return
    if name.startswith("v1.0"):
        groups = RankGroups.version_1_0(ranks)
        assert groups.groups == case["group_num"]
    else:
        groups = RankGroups.version_1_5(ranks, int(fields["group_num"]))
        assert (groups.groups > 1) == case["uniform_sampling_active"]
    for rank, expected in case["idx_by_rank_seed_100_plus_rank"].items():
        generator = torch.Generator().manual_seed(100 + int(rank))
        assert torch.randint(*groups.interval(int(rank)), (4,), generator=generator).tolist() == expected


SAMPLERS = {
    "VideoDDIMSampler": ddim,
    "VPSDEDPMPP2MSampler": lambda *given, **flags: dpmpp_2m(*given, stochastic=True, **flags),
    "VPODEDPMPP2MSampler": dpmpp_2m,
}
RUNS = read_json("samplers/meta.json")


def sampled(name, *, table):
    """(what our sampler makes of a case's noise, the states it passes, the case)."""
    sampler, steps, shift = name.split("_")
    steps, shift = int(steps.removeprefix("n")), float(shift.removeprefix("shift"))
    case = load_file(DATA / "samplers" / f"{name}.safetensors")
    schedule, states = ZeroTerminalSNRSchedule(shift), []
    scale = DynamicScale(6.0, steps)

    def denoiser(context):
        def network(noisy, timestep):
            return cogvideox_velocity(noisy, torch.full((1,), timestep), context)

        return Denoiser(network, Velocity(), snap_to=schedule.sat_alphas(range(1000)) if table == "sat" else None)

    with_text, without = denoiser(case["context"]), denoiser(torch.zeros_like(case["context"]))

    def denoise(noisy, level, frame_mask=None):
        states.append(noisy)
        return Denoised(guided(with_text(noisy, level).x0, without(noisy, level).x0, scale(level.timestep)))

    draws = case.get("draws")
    if draws is None and "draws_sum" in case:  # upstream kept their sums
        generator = torch.Generator().manual_seed(RUNS[name]["seed"])
        draws = torch.stack([torch.randn(case["x_T"].shape, generator=generator)[0] for _ in case["draws_sum"]])
        torch.testing.assert_close(draws.sum((1, 2, 3, 4)), case["draws_sum"], rtol=0, atol=1e-3)
    flags = {} if draws is None else {"draw": lambda step: draws[2 * step][None]}
    levels = sampling_levels(schedule, steps, table=table)
    return SAMPLERS[sampler](denoise, case["x_T"], levels, **flags), states, case


PRESENT = [name for name in RUNS if (DATA / "samplers" / f"{name}.safetensors").exists()]


@pytest.mark.parametrize("name", PRESENT)
def test_sampler_as_sat(name):
    out, states, case = sampled(name, table="sat")
    torch.testing.assert_close(out, case["out"], rtol=0, atol=1e-5)
    if "states" in case:
        torch.testing.assert_close(torch.cat(states), case["states"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in PRESENT if (DATA / "samplers" / f"{n}_diffusers.safetensors").exists()])
def test_sampler_as_diffusers(name):
    out, _, case = sampled(name, table="training")
    expected = load_file(DATA / "samplers" / f"{name}_diffusers.safetensors")["out"]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    assert (expected - case["out"]).abs().max() > 1e-3  # the tables differ


@pytest.mark.parametrize("name", RUNS)
def test_timesteps_and_dynamic_guidance(name):
    run = RUNS[name]
    timesteps = trailing_timesteps(len(run["timesteps"]))
    assert timesteps == run["timesteps"]
    scale = DynamicScale(6.0, len(timesteps))
    assert [scale(timestep) for timestep in timesteps] == pytest.approx(run["guidance"], abs=1e-6)
