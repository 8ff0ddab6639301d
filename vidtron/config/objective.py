"""What the network learns. The defaults are a plain rectified flow; a family's presets state its own objective."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from vidtron.config.choices import OneOf
from vidtron.config.ranges import Range

_Share = Annotated[float, Range(0, 1)]


@dataclass
class ObjectiveConfig:
    """Objective"""

    schedule: Annotated[str, OneOf("schedule")] = "flow"
    """Noise schedule."""
    noise_shift: Annotated[float, Range(1e-4, 1e4)] = 1.0
    """Shift of a table (zero-snr, ddpm-*): abar / (shift + (1 - shift) abar)."""
    noise_shift_after_rescale: bool = False
    """zero-snr: shift after the rescale to zero terminal SNR, not before it."""
    noise_shift_keep_start: bool = False
    """zero-snr: lessen the first beta, so that the shift leaves the first level about where it was."""
    edm_sigma_min: Annotated[float, Range(1e-6, 1e6)] = 0.002
    """edm: least noise."""
    edm_sigma_max: Annotated[float, Range(1e-6, 1e6)] = 80.0
    """edm: most noise."""
    edm_rho: Annotated[float, Range(0.1, 100)] = 7.0
    """edm: bend of Karras' ramp, along which samplers walk."""
    parameterization: Annotated[str, OneOf("parameterization")] = "flow"
    """What the output means."""
    data_std: Annotated[float, Range(1e-4, 1e4)] = 1.0
    """Standard deviation of the latents, for EDM's preconditioning and weighting."""
    predicted_variance: Literal["none", "learned", "bound-only", "ignored"] = "none"
    """A second half of the output's channels, the reverse process's variance. learned: by the variational bound beside
    the loss (IDDPM); bound-only: the bound is the loss; ignored: it is there and not learned."""
    loss_type: Literal["l2", "l1"] = "l2"
    """Squared or absolute error."""
    loss_weighting: Annotated[str, OneOf("loss_weighting")] = "constant"
    """Weight of a noise level: of the clean latent's error, under every parameterization alike, if not said
    otherwise."""
    snr_gamma: Annotated[float, Range(1e-4, 1e6)] = 5.0
    """gamma of min-snr and soft-min-snr."""
    sat_clamp: Annotated[float, Range(1e-4, 1e6)] | None = None
    """sat-clamp: bound of SAT's weight 1 / sigma^2 (its min_snr_value); unset: none."""
    timestep_density: Annotated[str, OneOf("timestep_density")] = "uniform"
    """Which noise levels are trained how often."""
    density_mean: Annotated[float, Range(-100, 100)] | None = None
    """log-normal, logit-normal: mean of the logarithm or logit; unset: -1.2 and 0."""
    density_std: Annotated[float, Range(1e-3, 100)] | None = None
    """log-normal, logit-normal: standard deviation of it; unset: 1.2 and 1."""
    density_mode_scale: Annotated[float, Range(-1, 1.75)] = 1.29
    """mode: -1 to 1.75; 0 is uniform."""
    timestep_range: tuple[_Share, _Share] = (0.0, 1.0)
    """FROM TO: the part of the schedule that is trained, 0 clean and 1 noise; a model of two experts trains each on
    its part."""
    timestep_shift: Annotated[float, Range(1e-3, 1000)] = 1.0
    """Multiplies sigma / alpha of the drawn levels, and of a rectified flow's sampling steps."""
    timestep_shift_by_size: bool = False
    """Multiply --timestep-shift by sqrt(height width / 512^2) sqrt(latent frames), as Open-Sora 1.2."""
    timestep_sampling: Literal["uniform", "stratified", "rank-groups"] = "stratified"
    """uniform: independent draws; stratified: one draw in each stratum of the global batch; rank-groups: CogVideoX's
    published groups of data-parallel ranks, each drawing from its part of the timesteps."""
    timestep_ranks: Annotated[int, Range(1, 65536)] | None = None
    """rank-groups: data-parallel ranks of the run that is reproduced; each takes an equal run of the global batch."""
    timestep_groups: Annotated[int, Range(1, 65536)] | None = None
    """rank-groups: CogVideoX 1.5's group_num; unset: 1.0's rule, the most groups that divide ranks and timesteps."""
    offset_noise: Annotated[float, Range(0, 100)] = 0.0
    """Factor of a normal number, one a sample, that is added to its noise."""
    frame_masks: list[str] = field(default_factory=list)
    """STRATEGY PROBABILITY ...: latent frames that are given to the model clean, as Open-Sora's masks (image_head 0.1
    quarter_tail 0.05 ...); what is left to 1 trains on all frames."""
    text_dropout: _Share = 0.1
    """Share of samples that lose their text."""
    null_text: Literal["zeros", "empty-prompt"] = "empty-prompt"
    """What they get instead: an embedding of zeros (SAT) or that of an empty prompt (diffusers)."""
    image_dropout: _Share = 0.0
    """Image-to-video models: share of samples whose image condition is set to zero."""
    image_noise: bool = False
    """Image-to-video models: noise of standard deviation exp(N(-3, 0.5)) on the condition's pixels."""
    image_latent_scale: Literal["scaled", "unscaled", "inverted"] = "scaled"
    """Image-to-video models: the condition's latents are multiplied by --scale-factor (SAT's training), by 1 (its
    sampling) or by 1 / --scale-factor (diffusers with invert_scale_latents)."""
    image_latent_frames: Literal["first", "all"] = "first"
    """Image-to-video models: frames that hold the condition, the others being zero; all is SAT's
    noised_image_all_concat."""
