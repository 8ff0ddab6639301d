"""The schedules, parameterizations, weightings, densities and samplers that there are: one table for each kind.

An entry is all that makes a formula of `vidtron.diffusion` a value of its flag: command line, help, checks and the
generated documentation take their names from here. A module of `--plugin` adds its own with `Table.add`. Nothing here
imports torch before something is made, for the command line reads the names first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from vidtron import diffusion
from vidtron.config.ranges import shown

if TYPE_CHECKING:
    from torch import Tensor

    from vidtron.config.objective import ObjectiveConfig
    from vidtron.diffusion.denoising import Denoise
    from vidtron.diffusion.density import Density
    from vidtron.diffusion.editing import Draw, FrameEdit
    from vidtron.diffusion.levels import Level
    from vidtron.diffusion.parameterization import Parameterization
    from vidtron.diffusion.samplers import Progress
    from vidtron.diffusion.schedule import Schedule
    from vidtron.diffusion.weighting import Weighting
    from vidtron.recipe.sampler import SamplerConfig

MakerT = TypeVar("MakerT", bound=Callable[..., Any])


@dataclass(frozen=True)
class Needs:
    """Requirements of a choice on the schedule."""

    fits: Callable[[Schedule], bool]
    reason: str = ""
    """Why another does not do; follows the schedule's name in the message."""


@dataclass(frozen=True)
class Choice(Generic[MakerT]):
    """One accepted value of a flag, and what it makes."""

    make: MakerT
    """Builds it, from the configuration."""
    help: str = ""
    """What it stands for, in a few words: the flag's help."""
    needs: Needs | None = None
    """None: it goes with every schedule."""

    def fits(self, schedule: Schedule) -> bool:
        """Whether the choice goes with a schedule."""
        return self.needs is None or self.needs.fits(schedule)


ChoiceT = TypeVar("ChoiceT", bound=Choice[Any])


class Table(Generic[ChoiceT]):
    """The values of one flag by their names, which are the field's in the configuration."""

    def __init__(self, field: str, choices: Mapping[str, ChoiceT]) -> None:
        """
        Args:
            field: of the configuration that holds a name, and the name in its `OneOf`.
            choices: the table.
        """
        self.field = field
        self.flag = "--" + field.replace("_", "-")
        self._choices = dict(choices)

    def add(self, name: str, choice: ChoiceT) -> None:
        """Make one more known.

        Raises:
            ValueError: another one has the name.
        """
        if self._choices.setdefault(name, choice) is not choice:
            raise ValueError(f"{self.flag} {name}: there is one of this name; accepted: another name")

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __getitem__(self, name: str) -> ChoiceT:
        """The choice of that name. Raises ValueError, with the command line's message, where there is none."""
        problem = self.unknown(name)
        if problem is not None:
            raise ValueError(problem)
        return self._choices[name]

    def unknown(self, name: str) -> str | None:
        """The command line's message of a name that there is not; None if there is."""
        if name in self._choices:
            return None
        return f"{self.flag} {shown(name)}: wrong value; accepted: {', '.join(self)}"

    def meanings(self) -> dict[str, str]:
        """Help text of each value, by its name."""
        return {name: choice.help for name, choice in self._choices.items()}

    def misfit(self, name: str, schedule_name: str, schedule: Schedule) -> str | None:
        """Why a choice does not go with a schedule, as a message that tells which ones do; None if it does."""
        choice = self[name]
        if choice.needs is None or choice.fits(schedule):
            return None
        accepted = ", ".join(other for other, one in self._choices.items() if one.fits(schedule))
        return f"{self.flag} {name}: not with --schedule {schedule_name}{choice.needs.reason}; accepted: {accepted}"


TABULATED = Needs(lambda schedule: isinstance(schedule, diffusion.schedule.DiscreteSchedule))
BETAS = Needs(lambda schedule: isinstance(schedule, diffusion.schedule.DDPMSchedule))
SIGNAL_AT_THE_END = Needs(
    lambda schedule: not isinstance(schedule, diffusion.schedule.ZeroTerminalSNRSchedule),
    ", at whose end the noise tells nothing of the latent",
)

SCHEDULES: Table[Choice[Callable[[ObjectiveConfig], Schedule]]] = Table(
    "schedule",
    {
        "zero-snr": Choice(
            lambda config: diffusion.schedule.ZeroTerminalSNRSchedule(
                config.noise_shift,
                shift_after_rescale=config.noise_shift_after_rescale,
                keep_start=config.noise_shift_keep_start,
            ),
            "scaled-linear betas, rescaled to zero terminal SNR (CogVideoX)",
        ),
        "ddpm-linear": Choice(
            lambda config: diffusion.schedule.DDPMSchedule.linear(shift=config.noise_shift), "DDPM's table of betas"
        ),
        "ddpm-scaled-linear": Choice(
            lambda config: diffusion.schedule.DDPMSchedule.scaled_linear(shift=config.noise_shift),
            "Stable Diffusion's",
        ),
        "ddpm-cosine": Choice(
            lambda config: diffusion.schedule.DDPMSchedule.cosine(shift=config.noise_shift), "Improved DDPM's"
        ),
        "flow": Choice(lambda config: diffusion.continuous.FlowSchedule(), "rectified flow"),
        "edm": Choice(
            lambda config: diffusion.continuous.EDMSchedule(
                config.edm_sigma_min, config.edm_sigma_max, config.edm_rho
            ),
            "alpha 1, sigma from --edm-sigma-min to --edm-sigma-max",
        ),
    },
)
"""Noise levels over timesteps."""

PARAMETERIZATIONS: Table[Choice[Callable[[ObjectiveConfig], Parameterization]]] = Table(
    "parameterization",
    {
        "velocity": Choice(
            lambda config: diffusion.parameterization.Velocity(), "alpha noise - sigma x0", needs=TABULATED
        ),
        "epsilon": Choice(lambda config: diffusion.parameterization.Epsilon(), "the noise", needs=SIGNAL_AT_THE_END),
        "x0": Choice(lambda config: diffusion.parameterization.CleanLatent(), "the clean latent"),
        "flow": Choice(lambda config: diffusion.parameterization.FlowVelocity(), "noise - x0"),
        "flow-to-data": Choice(
            lambda config: diffusion.parameterization.FlowVelocity(to_data=True), "x0 - noise (Open-Sora 1.2)"
        ),
        "edm": Choice(lambda config: diffusion.parameterization.EDM(config.data_std), "EDM's preconditioning"),
    },
)
"""Meanings of the network's output."""

WEIGHTINGS: Table[Choice[Callable[[ObjectiveConfig], Weighting]]] = Table(
    "loss_weighting",
    {
        "constant": Choice(lambda config: diffusion.weighting.Constant(), "1, of the output's error"),
        "min-snr": Choice(lambda config: diffusion.weighting.MinSNR(config.snr_gamma), "the SNR, at most --snr-gamma"),
        "soft-min-snr": Choice(
            lambda config: diffusion.weighting.SoftMinSNR(config.snr_gamma), "the same without the corner"
        ),
        "edm": Choice(
            lambda config: diffusion.weighting.EDMWeighting(config.data_std),
            "1 on the output of EDM's preconditioning",
        ),
        "sat-clamp": Choice(
            lambda config: diffusion.weighting.SATClamp(
                float("inf") if config.sat_clamp is None else config.sat_clamp
            ),
            "1 / sigma^2, at most --sat-clamp",
        ),
        "p2": Choice(lambda config: diffusion.weighting.P2(), "1 / (1 + SNR), of the output's error"),
    },
)
"""What an error counts for at each noise level."""

DENSITIES: Table[Choice[Callable[[ObjectiveConfig, Schedule], Density]]] = Table(
    "timestep_density",
    {
        "uniform": Choice(lambda config, schedule: diffusion.density.Uniform(), "all alike"),
        "log-normal": Choice(
            lambda config, schedule: diffusion.density.LogNormal(**_moments(config)), "in sigma / alpha (EDM)"
        ),
        "logit-normal": Choice(
            lambda config, schedule: diffusion.density.LogitNormal(**_moments(config)),
            "in the place on the schedule (Stable Diffusion 3)",
        ),
        "mode": Choice(
            lambda config, schedule: diffusion.density.Mode(config.density_mode_scale),
            "in the place on the schedule, with mass at both ends (Stable Diffusion 3)",
        ),
        "speed": Choice(
            lambda config, schedule: diffusion.density.speed_density(_sigmas(schedule)),
            "fewer of the noisiest (Open-Sora's iddpm-speed)",
            needs=BETAS,
        ),
    },
)
"""How often which noise level is trained."""


class Walk(NamedTuple):
    """Arguments of every sampler; each takes of them what it needs. See `vidtron.diffusion.samplers.ddim`."""

    denoise: Denoise
    noise: Tensor
    levels: list[Level]
    draw: Draw
    edit: FrameEdit | None
    progress: Progress

    def by(self, sampler: Callable[..., Tensor], **more: Any) -> Tensor:
        """Walk by a sampler; `more` is what it takes besides what all take."""
        return sampler(self.denoise, self.noise, self.levels, progress=self.progress, **more)


@dataclass(frozen=True)
class Sampler(Choice[Callable[["SamplerConfig", Walk], "Tensor"]]):
    """A way from noise to latents."""

    keeps_frames: bool = False
    """It takes a `FrameEdit`, and so can be given frames."""


SAMPLERS: Table[Sampler] = Table(
    "sampler",
    {
        "ddim": Sampler(
            lambda config, walk: walk.by(
                diffusion.samplers.ddim, eta=config.sampler_eta, draw=walk.draw, edit=walk.edit
            ),
            "first order, for every schedule",
            keeps_frames=True,
        ),
        "dpmpp-2m": Sampler(
            lambda config, walk: walk.by(diffusion.samplers.dpmpp_2m), "DPM-Solver++ of the probability flow"
        ),
        "dpmpp-2m-sde": Sampler(
            lambda config, walk: walk.by(diffusion.samplers.dpmpp_2m, stochastic=True, draw=walk.draw),
            "the same of the SDE (CogVideoX's)",
        ),
        "euler": Sampler(
            lambda config, walk: walk.by(diffusion.samplers.euler, edit=walk.edit),
            "first order, for flow and edm",
            keeps_frames=True,
        ),
        "heun": Sampler(lambda config, walk: walk.by(diffusion.samplers.heun), "second order, for flow and edm"),
        "ancestral": Sampler(
            lambda config, walk: walk.by(
                diffusion.samplers.ancestral, draw=walk.draw, fixed_variance=config.ancestral_variance, edit=walk.edit
            ),
            "DDPM's, with the variance the model has learned (Open-Sora 1.1's)",
            needs=TABULATED,
            keeps_frames=True,
        ),
    },
)
"""Ways from noise to latents."""

TABLES: tuple[Table[Any], ...] = (SCHEDULES, PARAMETERIZATIONS, WEIGHTINGS, DENSITIES, SAMPLERS)


def choices() -> dict[str, dict[str, str]]:
    """The names that configurations may hold, as `vidtron.config.choices.Choices`."""
    return {table.field: table.meanings() for table in TABLES}


def _moments(config: ObjectiveConfig) -> dict[str, float]:
    """Mean and standard deviation, as far as they are given."""
    given = {"mean": config.density_mean, "std": config.density_std}
    return {name: value for name, value in given.items() if value is not None}


def _sigmas(schedule: Schedule) -> Tensor:
    """Noise levels of a table, fp64."""
    assert isinstance(schedule, diffusion.schedule.DDPMSchedule)
    return schedule.levels(range(schedule.timesteps))[1]
