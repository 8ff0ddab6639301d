"""Every objective is minimised by the ideal denoiser, and weightings mean the same under every parameterization."""

import pytest
import torch

from tests.diffusion.mixture import draw_data, ideal_x0
from vidtron.diffusion.continuous import EDMSchedule, FlowSchedule
from vidtron.diffusion.loss import add_offset, mean_squared_error, sample_mean
from vidtron.diffusion.objective import Objective
from vidtron.diffusion.parameterization import EDM, CleanLatent, Epsilon, FlowVelocity, Velocity, add_noise, convert
from vidtron.diffusion.schedule import DDPMSchedule, ZeroTerminalSNRSchedule
from vidtron.diffusion.timesteps import space_timesteps
from vidtron.diffusion.variance import ReversePosterior, normal_kl
from vidtron.diffusion.weighting import P2, Constant, EDMWeighting, MinSNR, SATClamp, SoftMinSNR

PARAMETERIZATIONS = [
    Epsilon(),
    CleanLatent(),
    Velocity(),
    FlowVelocity(),
    FlowVelocity(to_data=True),
    EDM(),
    EDM(0.5),
]
WEIGHTINGS = [Constant(), MinSNR(), SoftMinSNR(), EDMWeighting(0.5), SATClamp(), SATClamp(5.0), P2()]
LINEAR = DDPMSchedule.linear()


def ids(value):
    return repr(value) if not isinstance(value, torch.Tensor) else None


def levels(angle):
    angle = torch.as_tensor(angle, dtype=torch.float64)
    return torch.cos(angle), torch.sin(angle)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS, ids=ids)
@pytest.mark.parametrize("angle", [0.01, 0.8, 1.5])
def test_the_target_gives_back_both_ends(parameterization, angle):
    draw = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(2, 3, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    alpha, sigma = levels(angle)
    noisy, target = add_noise(x0, noise, alpha, sigma), parameterization.target(x0, noise, alpha, sigma)
    torch.testing.assert_close(parameterization.x0(noisy, target, alpha, sigma), x0)
    torch.testing.assert_close(parameterization.noise(noisy, target, alpha, sigma), noise)
    # An error of 1 in the output is an error of `x0_error` in the clean latent.
    moved = parameterization.x0(noisy, target + 1, alpha, sigma)
    torch.testing.assert_close((moved - x0).abs(), parameterization.x0_error(alpha, sigma).expand_as(x0))


@pytest.mark.parametrize("source", PARAMETERIZATIONS, ids=ids)
@pytest.mark.parametrize("to", PARAMETERIZATIONS, ids=ids)
def test_conversions(source, to):
    draw = torch.Generator().manual_seed(1)
    noisy, output = (torch.randn(2, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    alpha, sigma = levels(0.7)
    converted = convert(output, noisy, alpha, sigma, source, to)
    torch.testing.assert_close(to.x0(noisy, converted, alpha, sigma), source.x0(noisy, output, alpha, sigma))
    torch.testing.assert_close(convert(converted, noisy, alpha, sigma, to, source), output)


def test_edm_target_and_input_have_unit_variance():
    schedule, parameterization = EDMSchedule(), EDM(0.5)
    draw = torch.Generator().manual_seed(2)
    x0, noise = 0.5 * torch.randn(100_000, generator=draw), torch.randn(100_000, generator=draw)
    for sigma in (0.02, 0.5, 20.0):
        alpha, sigma = torch.tensor(1.0), torch.tensor(sigma)
        seen = add_noise(x0, noise, alpha, sigma) * parameterization.input_scale(alpha, sigma)
        assert seen.std().item() == pytest.approx(1.0, abs=0.01)
        assert parameterization.target(x0, noise, alpha, sigma).std().item() == pytest.approx(1.0, abs=0.01)
    assert schedule.alpha(torch.tensor([0.0])).item() == 1


OBJECTIVES = [
    *(Objective(ZeroTerminalSNRSchedule(), p) for p in (Velocity(), CleanLatent(), FlowVelocity(), EDM())),
    *(Objective(LINEAR, p) for p in (Epsilon(), Velocity(), EDM(0.5))),
    *(Objective(FlowSchedule(), p) for p in (FlowVelocity(), FlowVelocity(to_data=True), Epsilon(), EDM(0.5))),
    *(Objective(EDMSchedule(), p) for p in (EDM(0.5), Epsilon(), CleanLatent())),
]
FRACTIONS = (0.25, 0.5, 0.75)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{type(o.schedule).__name__}-{o.parameterization}")
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_the_minimiser_is_the_ideal_denoiser(objective, fraction):
    """The loss over all functions that are constant on narrow bins of the noisy latent, solved exactly.

    The minimiser is found from the loss itself: it is quadratic in the output of each bin, so that two evaluations
    of its gradient give it.
    """
    count, bins = 180_000, 60
    draw = torch.Generator().manual_seed(3)
    x0, noise = draw_data(count, draw), torch.randn(count, generator=draw, dtype=torch.float64)
    timestep = objective.schedule.timestep(torch.tensor([fraction]))
    alpha, sigma = (level.squeeze() for level in objective.schedule.levels(timestep.tolist()))
    noisy = add_noise(x0, noise, alpha, sigma)
    order = noisy.argsort()
    x0, noise, noisy = x0[order].view(bins, -1), noise[order].view(bins, -1), noisy[order].view(bins, -1)
    # Inside a bin the output moves with the noisy latent as the ideal one does, so that only its level is solved for.
    ideal = objective.parameterization.target(
        ideal_x0(noisy, alpha, sigma), (noisy - alpha * ideal_x0(noisy, alpha, sigma)) / sigma, alpha, sigma
    )

    def gradient(error):
        error = torch.full((bins, 1), error, requires_grad=True)
        losses = objective.losses(ideal + error, x0, noise, timestep.expand(bins))
        (slope,) = torch.autograd.grad(losses.sum(), error)
        return slope

    at_ideal, at_one = gradient(0.0), gradient(1.0)
    solved = -at_ideal / (at_one - at_ideal)
    deviation = solved.abs() * objective.parameterization.x0_error(alpha, sigma)
    assert deviation.mean() < 0.02
    assert deviation.max() < 0.1


ON_CLEAN_LATENT = [weighting for weighting in WEIGHTINGS if not isinstance(weighting, Constant | P2)]


@pytest.mark.parametrize("weighting", ON_CLEAN_LATENT, ids=ids)
@pytest.mark.parametrize("loss_type", ["l2", "l1"])
def test_weights_mean_the_same_under_every_parameterization(weighting, loss_type):
    draw = torch.Generator().manual_seed(4)
    x0, noise, wrong = (torch.randn(5, 3, 4, generator=draw) for _ in range(3))
    t = torch.tensor([20.0, 200.0, 500.0, 700.0, 900.0])
    alpha, sigma = (level(t).view(-1, 1, 1) for level in (LINEAR.alpha, LINEAR.sigma))
    noisy = add_noise(x0, noise, alpha, sigma)
    losses = []
    for parameterization in PARAMETERIZATIONS:
        output = convert(wrong, noisy, alpha, sigma, Velocity(), parameterization)
        objective = Objective(LINEAR, parameterization, weighting, loss_type=loss_type)
        losses.append(objective.losses(output, x0, noise, t))
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=2e-3, atol=1e-6)


def test_weights_are_the_papers():
    t = torch.arange(1000)
    alpha, sigma = LINEAR.alpha(t).double(), LINEAR.sigma(t).double()
    snr = (alpha / sigma) ** 2

    def weight(weighting, parameterization):
        return weighting(alpha, sigma, parameterization.x0_error(alpha, sigma), 2).double()

    close = {"rtol": 1e-5, "atol": 0}
    torch.testing.assert_close(weight(MinSNR(5.0), Epsilon()), (5 / snr).clamp(max=1), **close)
    torch.testing.assert_close(weight(MinSNR(5.0), CleanLatent()), snr.clamp(max=5), **close)
    torch.testing.assert_close(weight(MinSNR(5.0), Velocity()), snr.clamp(max=5) / (snr + 1), **close)
    torch.testing.assert_close(weight(SoftMinSNR(4.0), CleanLatent()), snr * 4 / (snr + 4), **close)
    torch.testing.assert_close(weight(EDMWeighting(0.5), EDM(0.5)), torch.ones_like(snr), **close)
    torch.testing.assert_close(weight(SATClamp(), Velocity()), torch.ones_like(snr), **close)
    torch.testing.assert_close(weight(SATClamp(5.0), Velocity()), (5 * sigma**2).clamp(max=1), **close)
    torch.testing.assert_close(weight(P2(), Epsilon()), 1 / (1 + snr), **close)


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=ids)
def test_weights_are_finite_at_the_ends(weighting):
    schedule = ZeroTerminalSNRSchedule()
    t = torch.tensor([0.0, 999.0])
    for parameterization in (Velocity(), CleanLatent(), FlowVelocity(), EDM()):
        objective = Objective(schedule, parameterization, weighting)
        losses = objective.losses(torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), t)
        assert losses.isfinite().all()


def test_kept_frames():
    """A kept frame is given as it is at the cleanest timestep and does not count; the mean is over the others."""
    draw = torch.Generator().manual_seed(5)
    x0, noise, output = (torch.randn(2, 4, 3, 2, 2, generator=draw) for _ in range(3))
    mask = torch.tensor([[True, False, True, True], [False, False, True, False]])[:, :, None, None, None]
    for objective in (Objective(LINEAR, Epsilon()), Objective(FlowSchedule(), FlowVelocity())):
        t = torch.tensor([700.0, 300.0])
        noisy = objective.noisy(x0, noise, t, mask)
        clean = objective.noisy(x0, noise, torch.zeros(2))
        assert torch.equal(noisy[0, 1], clean[0, 1])
        assert torch.equal(noisy[0, 0], objective.noisy(x0, noise, t)[0, 0])
        losses = objective.losses(output, x0, noise, t, mask)
        first = objective.losses(output[:, 2:3], x0[:, 2:3], noise[:, 2:3], t)
        torch.testing.assert_close(losses[1], first[1])
        changed = torch.where(mask, output, output + 9.0)
        assert torch.equal(objective.losses(changed, x0, noise, t, mask), losses)


def test_sample_mean_is_per_sample():
    values = torch.arange(12.0).view(2, 2, 3)
    assert sample_mean(values).tolist() == pytest.approx([2.5, 8.5])
    mask = torch.tensor([[[True], [False]], [[True], [True]]])
    assert sample_mean(values, mask).tolist() == pytest.approx([1.0, 8.5])
    assert mean_squared_error(values.bfloat16(), values.bfloat16()).dtype == torch.float32


def test_offset_noise():
    noise, offset = torch.zeros(2, 3, 4), torch.tensor([1.0, -2.0]).view(2, 1, 1)
    assert add_offset(noise, offset, 0.1)[:, 1, 2].tolist() == pytest.approx([0.1, -0.2])


def test_bound_teaches_the_variance_alone():
    draw = torch.Generator().manual_seed(6)
    x0, noise = (torch.randn(2, 1, 3, 2, 2, generator=draw) for _ in range(2))
    output, t = torch.randn(2, 1, 6, 2, 2, generator=draw).requires_grad_(), torch.tensor([300, 600])
    learned = Objective(LINEAR, Epsilon(), variance="learned").losses(output, x0, noise, t)
    plain = Objective(LINEAR, Epsilon(), variance="ignored").losses(output, x0, noise, t)
    (whole,), (main,) = (torch.autograd.grad(loss.sum(), output) for loss in (learned, plain))
    assert torch.equal(whole[:, :, :3], main[:, :, :3])
    assert not main[:, :, 3:].any()
    assert whole[:, :, 3:].abs().min() > 0


def test_the_best_learned_variance_is_the_true_one():
    """With the ideal mean the bound is least where the variance is what is left of the posterior's mean's error."""
    kept, index, count = space_timesteps(1000, "20"), 3, 20_000
    posterior, t = ReversePosterior(LINEAR.alpha_bar[kept]), torch.tensor([index])
    draw = torch.Generator().manual_seed(7)
    x0, noise = draw_data(count, draw), torch.randn(count, generator=draw, dtype=torch.float64)
    alpha, sigma = (level.squeeze() for level in LINEAR.levels([kept[index]]))
    noisy = add_noise(x0, noise, alpha, sigma)
    error = posterior.x0_factor[index].double() * (x0 - ideal_x0(noisy, alpha, sigma))
    best = (posterior.variance[index].double() + error.square().mean()).log()
    values = torch.linspace(-1, 1, 41).view(-1, 1)
    logs = posterior.learned_log_variance(values, t.expand(41)).double()
    bounds = normal_kl(error, posterior.log_variance[index].double(), torch.zeros(1), logs).mean(1)
    assert 0 < bounds.argmin() < 40
    assert (logs[bounds.argmin()] - best).abs().item() <= (logs[1] - logs[0]).abs().item()


def test_output_channels_must_fit():
    x0 = torch.zeros(1, 2, 4, 2, 2)
    objective = Objective(LINEAR, Epsilon(), variance="learned")
    with pytest.raises(ValueError, match="4 output channels; variance learned takes 8"):
        objective.losses(x0, x0, x0, torch.tensor([5]))
    with pytest.raises(ValueError, match="needs a DDPM schedule"):
        Objective(FlowSchedule(), FlowVelocity(), variance="learned")
