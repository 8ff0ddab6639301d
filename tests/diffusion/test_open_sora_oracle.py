"""IDDPM and rectified flow against Open-Sora's numbers (their latents are [B, C, T, H, W], ours [B, T, C, H, W])."""

import pytest
import torch
from safetensors.torch import load_file

from tests.diffusion.toy import DATA, frames_second, open_sora_output, read_json
from tests.last_bits import moved_tables
from vidtron.diffusion.continuous import FlowSchedule, resolution_shift, shift_fractions
from vidtron.diffusion.denoising import Denoiser
from vidtron.diffusion.density import mirrored, speed_density, speed_probabilities, speed_turn
from vidtron.diffusion.editing import AncestralEdit, FlowEdit
from vidtron.diffusion.guidance import guided
from vidtron.diffusion.levels import levels_at, sampling_levels
from vidtron.diffusion.objective import Objective
from vidtron.diffusion.parameterization import CleanLatent, Epsilon, FlowVelocity
from vidtron.diffusion.samplers import ancestral, ddim, euler
from vidtron.diffusion.schedule import DDPMSchedule, linear_betas
from vidtron.diffusion.timesteps import space_timesteps
from vidtron.diffusion.variance import ReversePosterior, split_variance
from vidtron.diffusion.weighting import P2

IDDPM = load_file(DATA / "opensora" / "iddpm.safetensors")
FACTS = read_json("opensora/iddpm.json")
RFLOW = load_file(DATA / "opensora" / "rflow.safetensors")
RFLOW_FACTS = read_json("opensora/rflow.json")
SCHEDULE = DDPMSchedule.linear()
CLOSE = {"rtol": 0, "atol": 1e-4}
LAST_BIT = 2.0**-24
"""Of fp32 numbers from 1/2 to 1."""


def iddpm(name):
    """A tensor of the loss cases, frames second."""
    return frames_second(IDDPM[f"loss/{name}"])


def carried(alpha_bar):
    """By how much, relatively, a posterior moves if its fp32 squared signal levels are off by a last bit: [N].

    It is made of 1 - alpha_bar at a timestep and at the one before. As upstream we round alpha_bar to fp32 first,
    which IEEE 754 defines: only tables that were moved on purpose may differ so.
    """
    if not moved_tables():
        return torch.zeros(len(alpha_bar))
    lost = LAST_BIT / (1 - alpha_bar)
    return (lost + torch.cat((torch.zeros(1), lost[:-1]))).float()


@pytest.mark.parametrize(("name", "kept"), [("train1000", None), ("sample100", "100"), ("sample10", "10")])
def test_tables(name, kept):
    timesteps = list(range(1000)) if kept is None else space_timesteps(1000, kept)
    if kept is not None:
        assert timesteps == FACTS[f"{name}/timestep_map"]
    posterior = ReversePosterior(SCHEDULE.alpha_bar[timesteps])
    ours = {
        "alphas_cumprod": SCHEDULE.alpha_bar[timesteps],
        "betas": posterior.beta,
        "posterior_variance": posterior.variance,
        "posterior_log_variance_clipped": posterior.log_variance,
        "posterior_mean_coef1": posterior.x0_factor,
        "posterior_mean_coef2": posterior.noisy_factor,
    }
    for table, values in ours.items():
        expected = IDDPM[f"sched/{name}/{table}"]
        allowed = 1e-6 + (1e-6 + carried(SCHEDULE.alpha_bar[timesteps])) * expected.abs()
        assert ((values.float() - expected).abs() <= allowed).all(), table


def test_betas():
    torch.testing.assert_close(linear_betas(1000), IDDPM["sched/linear_betas_float64"], rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", [name for name in FACTS if name.startswith("space_timesteps")])
def test_respacing(name):
    timesteps, sections = name.removeprefix("space_timesteps(").removesuffix(")").split(",", 1)
    assert space_timesteps(int(timesteps), sections) == FACTS[name]


OBJECTIVES = {
    "default": Objective(SCHEDULE, Epsilon(), variance="learned"),
    "rescaled_mse": Objective(SCHEDULE, Epsilon(), variance="learned"),  # its factor N / 1000 is 1 here
    "kl": Objective(SCHEDULE, Epsilon(), variance="bound-only"),
    "xstart": Objective(SCHEDULE, CleanLatent(), variance="learned"),
    "fixed_sigma": Objective(SCHEDULE, Epsilon()),
}


@pytest.mark.parametrize("masked", [False, True], ids=["nomask", "mask"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses(name, masked):
    prefix = f"loss/{name}/{'mask' if masked else 'nomask'}"
    if f"{prefix}/loss" not in IDDPM:
        assert name == "kl" and masked
        return
    objective = OBJECTIVES[name]
    x0, noise, output, t = iddpm("x_start"), iddpm("noise"), iddpm("model_output"), IDDPM["loss/t"]
    if name == "fixed_sigma":
        output = split_variance(output)[0]
    mask = IDDPM["loss/mask"][:, :, None, None, None] if masked else None
    expected = IDDPM[f"loss/x_t/{'mask' if masked else 'nomask'}"]
    torch.testing.assert_close(objective.noisy(x0, noise, t, mask), frames_second(expected), **CLOSE)
    output.requires_grad_()
    losses = objective.losses(output, x0, noise, t, mask)
    # At t = 0 the discretised likelihood is ill-conditioned in upstream's fp32.
    rtol = torch.where(t == 0, 5e-3, 1e-4)
    assert ((losses - IDDPM[f"{prefix}/loss"]).abs() <= rtol * IDDPM[f"{prefix}/loss"].abs() + 1e-4).all()
    if f"{prefix}/vb" in IDDPM:
        main = Objective(SCHEDULE, objective.parameterization, variance="ignored").losses(output, x0, noise, t, mask)
        torch.testing.assert_close(main, IDDPM[f"{prefix}/mse"], **CLOSE)
        vb = IDDPM[f"{prefix}/vb"]
        assert ((losses - main - vb).abs() <= rtol * vb.abs() + 1e-4).all()
    if prefix == "loss/default/mask":
        losses.mean().backward()
        expected = frames_second(IDDPM[f"{prefix}/grad_model_output"])
        at_zero = (t == 0)[:, None, None, None, None]
        torch.testing.assert_close(output.grad.where(~at_zero, 0), expected.where(~at_zero, 0), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(output.grad, expected, rtol=2e-2, atol=1e-4)


def test_reverse_step():
    x, t, posterior = iddpm("x_start"), IDDPM["loss/t"], ReversePosterior(SCHEDULE.alpha_bar)
    eps, values = split_variance(iddpm("model_output"))
    alpha, sigma = (level(t)[:, None, None, None, None] for level in (SCHEDULE.alpha, SCHEDULE.sigma))
    x0 = Epsilon().x0(x, eps, alpha, sigma)
    log_variance = posterior.learned_log_variance(values, t)
    ours = {"pred_xstart": x0, "mean": posterior.mean(x0, x, t), "log_variance": log_variance}
    for name, tensor in {**ours, "variance": log_variance.exp()}.items():
        expected = frames_second(IDDPM[f"p_mean_variance/{name}"])
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-4, msg=name)
    mean = posterior.mean(x, iddpm("noise"), t)
    torch.testing.assert_close(mean, frames_second(IDDPM["q_posterior/mean"]), **CLOSE)


def conditional_pair(channels, timesteps):
    """The analytic network under guidance 7; the timesteps it is asked for are noted."""

    def network(noisy, timestep, frame_mask=None):
        timesteps.append(timestep)
        with_condition, without = (open_sora_output(noisy, timestep, c, frame_mask) for c in (1.0, -1.0))
        return guided(with_condition, without, 7.0, channels)

    return network


@pytest.mark.parametrize(("name", "channels"), [("cfg3", 3), ("cfgall", 4), ("cfg3_edit", 3)])
def test_ancestral_sampling(name, channels):
    # Upstream samples the doubled batch and keeps its first half, which never looks at the second.
    tape = IDDPM["sample/cfg3/noise_tape" if name == "cfgall" else f"sample/{name}/noise_tape"][:, :2].transpose(2, 3)
    edit, draws, timesteps = None, tape, []
    if name.endswith("edit"):
        renoise, draws = tape[::2], tape[1::2]
        edit = AncestralEdit(IDDPM["sample/edit_mask"][:, :, None, None, None], renoise.__getitem__)
    denoise = Denoiser(conditional_pair(channels, timesteps), Epsilon(), variance="learned")
    out = ancestral(
        denoise,
        frames_second(IDDPM["sample/z"]),
        sampling_levels(SCHEDULE, 10, spacing="even"),
        draw=draws.__getitem__,
        edit=edit,
    )
    assert timesteps == FACTS[f"sample/{name}/model_timesteps"]
    torch.testing.assert_close(out, frames_second(IDDPM[f"sample/{name}/out"]), rtol=5e-4, atol=1e-4)


def test_ddim_sampling():
    denoise = Denoiser(lambda x, t: open_sora_output(x, t, 1.0), Epsilon(), variance="learned")
    levels = sampling_levels(SCHEDULE, 10, spacing="even")
    out = ddim(denoise, frames_second(IDDPM["sample/z"]), levels)
    torch.testing.assert_close(out, frames_second(IDDPM["sample/ddim_eta0/out"]), rtol=5e-4, atol=1e-4)


def test_speed():
    """Upstream's noise levels are roots in fp32, ours in fp64: a slope is off by up to a last bit."""
    _, sigma = SCHEDULE.levels(range(1000))
    (slope,) = torch.gradient(sigma)
    lowest, highest = (torch.tanh(1e6 * (slope + off - 1e-4)) + 1.5 for off in (-LAST_BIT, LAST_BIT))
    upstreams = IDDPM["speed/p"].double()
    assert (upstreams > lowest / highest.sum() * (1 - 1e-6)).all()
    assert (upstreams < highest / lowest.sum() * (1 + 1e-6)).all()
    ours = speed_probabilities(sigma)
    assert ours.sum().item() == pytest.approx(1, abs=1e-12)
    level = highest - lowest < 1e-6  # where tanh has reached -1 or 1, and only the sum is not exact
    assert level.sum() > 980
    sums = (highest.sum() / lowest.sum() - 1).item()
    torch.testing.assert_close(ours[level], upstreams[level], rtol=sums, atol=0)
    assert speed_turn(sigma) == FACTS["speed/meaningful_steps"]
    weight = P2()(SCHEDULE.alpha_table, SCHEDULE.sigma_table, torch.ones(1000), 2)
    torch.testing.assert_close(weight, IDDPM["speed/weights"], rtol=0, atol=1e-6)
    both = speed_density(sigma).probabilities
    drawn = torch.multinomial(IDDPM["speed/p"].double(), 200_000, True, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(torch.cat((drawn, mirrored(drawn, 700))), minlength=1000)
    torch.testing.assert_close(
        counts.view(20, 50).sum(1) / 400_000, both.view(20, 50).sum(1).float(), rtol=0.03, atol=0
    )


FLOW = Objective(FlowSchedule(), FlowVelocity(to_data=True), variance="ignored")


@pytest.mark.parametrize("name", ["nomask", "mask"])
def test_flow_losses(name):
    x0, noise, output = (frames_second(RFLOW[key]) for key in ("x_start", "noise", "model_output"))
    mask = RFLOW["mask"][:, :, None, None, None] if name == "mask" else None
    expected = frames_second(RFLOW[f"x_t/{name}"])
    torch.testing.assert_close(FLOW.noisy(x0, noise, RFLOW["t"], mask), expected, **CLOSE)
    torch.testing.assert_close(FLOW.losses(output, x0, noise, RFLOW["t"], mask), RFLOW[f"loss/{name}"], **CLOSE)


def test_flow_shift():
    for height, width, frames, t, expected in RFLOW_FACTS["timestep_transform(h,w,num_frames,t,out)"]:
        shift = resolution_shift(height, width, frames)
        ours = 1000 * shift_fractions(torch.tensor(t / 1000, dtype=torch.float64), shift).item()
        assert ours == pytest.approx(expected, rel=1e-6, abs=1e-4)


@pytest.mark.parametrize("name", ["plain", "transform", "transform_edit"])
def test_flow_sampling(name):
    expected_timesteps, timesteps = RFLOW_FACTS[f"sample/{name}/model_timesteps"], []
    u, moved = 0.9, expected_timesteps[1] / 1000
    shift = moved * (1 - u) / (u * (1 - moved))  # the fixture's video size is not told, its timesteps are
    levels = sampling_levels(FlowSchedule(), 10, shift=shift)
    assert [level.timestep for level in levels[:-1]] == pytest.approx(expected_timesteps, rel=1e-5)
    edit = None
    if name.endswith("edit"):
        draw = RFLOW[f"sample/{name}/noise_tape"].transpose(2, 3).__getitem__
        edit = FlowEdit(RFLOW["sample/edit_mask"][:, :, None, None, None], draw)
    denoise = Denoiser(conditional_pair(4, timesteps), FlowVelocity(to_data=True), variance="ignored")
    out = euler(denoise, frames_second(RFLOW["sample/z"]), levels, edit=edit)
    assert len(timesteps) == 10
    torch.testing.assert_close(out, frames_second(RFLOW[f"sample/{name}/out"]), rtol=1e-4, atol=1e-4)


def test_levels_end_with_the_clean_latent():
    *noisy, clean = levels_at(SCHEDULE, [999, 0])
    assert (clean.alpha, clean.sigma) == (1.0, 0.0)
    assert [level.timestep for level in noisy] == [999, 0]
