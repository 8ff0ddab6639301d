"""Sizes of the clips that CogVideoX's weights are for, and their tokens."""

from vidtron.config.run import RunConfig
from vidtron.models.cogvideox.config import SPATIAL_RATIO, TEMPORAL_RATIO, CogVideoXConfig
from vidtron.models.foreign import SampleSize

Grid = tuple[int, int, int]
"""Tokens in time, height and width."""


def grid_of_sample(sample: SampleSize, network: CogVideoXConfig) -> Grid:
    """Token grid of a clip."""
    latent_frames = (sample.frames - 1) // TEMPORAL_RATIO + 1
    return network.grid(latent_frames, sample.height, sample.width)


def sample_of_grid(grid: Grid, patch_size: int, patch_size_t: int) -> SampleSize:
    """The smallest size with so many tokens."""
    t, h, w = grid
    return SampleSize((t * patch_size_t - 1) * TEMPORAL_RATIO + 1, h * patch_size, w * patch_size)


def default_sample(network: CogVideoXConfig) -> SampleSize:
    """The size of the released files' tables."""
    if network.learned_position_grid is not None:
        return sample_of_grid(network.learned_position_grid, network.patch_size, network.patch_size_t)
    return SampleSize(49, 60, 90) if network.patch_size_t == 1 else SampleSize(81, 300, 300)


def sample_of_run(run: RunConfig, network: CogVideoXConfig) -> SampleSize:
    """The size of a run's clips; of networks that have tables of one size, or larger than any clip, that size."""
    if network.learned_position_grid is not None or network.patch_size_t > 1:
        return default_sample(network)
    return SampleSize(run.data.num_frames, run.data.height // SPATIAL_RATIO, run.data.width // SPATIAL_RATIO)


def tables_hold(network: CogVideoXConfig, sample: SampleSize, run: RunConfig) -> bool:
    """Whether tables that may be larger than any clip, CogVideoX 1.5's, are large enough for the run's clips."""
    data = run.data
    return (
        network.patch_size_t > 1
        and sample.frames >= data.num_frames
        and sample.height * SPATIAL_RATIO >= data.height
        and sample.width * SPATIAL_RATIO >= data.width
    )
