"""Position tables that SAT's files hold and our network computes: made again for files, and recognized in them.

Shape letters: M rows of a table, D hidden width, R features of a head.
"""

import torch
from torch import Tensor

from vidtron.models.cogvideox.checkpoint_names import (
    FREQS,
    POS_EMBEDDING,
    UNUSED_POSITIONS,
    UNUSED_POSITIONS_ROWS,
)
from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.cogvideox.sample_size import Grid, grid_of_sample
from vidtron.models.foreign import SampleSize
from vidtron.models.layers.embeddings import sincos_3d
from vidtron.models.layers.rotary import angles_3d


def sat_tables(network: CogVideoXConfig, sample: SampleSize, *, version: str) -> dict[str, Tensor]:
    """The tensors of a SAT file that our network lacks, fp32, made for clips of `sample`.

    Args:
        network: its positions decide which tables there are.
        sample: sizes of the tables.
        version: of the code that loads the file; "1.5" computes the rotary tables itself.
    """
    if network.position == "sincos":
        return {POS_EMBEDDING: sincos_table(network, sample)}
    # Upstream's base network always has this one; no rotary network reads it.
    tables = {UNUSED_POSITIONS: torch.zeros(UNUSED_POSITIONS_ROWS, network.hidden_size)}
    if version == "1.0":
        angles = angles_3d(*grid_of_sample(sample, network), network.head_dim)
        tables |= dict(zip(FREQS, (angles.sin(), angles.cos()), strict=True))
    return tables


def sincos_table(network: CogVideoXConfig, sample: SampleSize) -> Tensor:
    """Rows of zeros for the text, then the fixed positions of the video tokens: [1, M, D], fp32."""
    video = sincos_3d(*grid_of_sample(sample, network), network.hidden_size, network.spatial_interpolation)
    table = torch.zeros(1, network.text_length + video.shape[0], network.hidden_size)
    table[0, network.text_length :] = video
    return table


def grid_of_freqs(sines_MR: Tensor) -> Grid:
    """Tokens in time, height and width of a table of the sines of `angles_3d`."""
    features = sines_MR.shape[1]
    return _grid(sines_MR[:, 0], sines_MR[:, features // 4 + features // 8 * 3])


def grid_of_sincos(table_MD: Tensor) -> tuple[int, Grid]:
    """Rows of text, and tokens in time, height and width, of a table made by `sincos_table` (its only batch row)."""
    filled = torch.nonzero(table_MD.any(dim=1))
    text = int(filled[0]) if len(filled) else table_MD.shape[0]
    video = table_MD[text:]
    return text, _grid(video[:, 0], video[:, table_MD.shape[1] // 4])


def is_table(stored: Tensor, computed: Tensor) -> bool:
    """Whether a stored table is the computed one, up to the rounding of its type and of another processor."""
    tolerance = max(1e-4, 2 * torch.finfo(stored.dtype).eps)
    return all(
        bool((part - other).abs().max() <= tolerance)
        for part, other in zip(stored.split(1024), computed.to(stored.dtype).split(1024), strict=True)
    )


def _grid(time_M: Tensor, width_M: Tensor) -> Grid:
    """From the sines of the fastest frequency along time and width: zero where the position is 0, and only there."""
    rows = time_M.shape[0]
    later = torch.nonzero(time_M)
    frame = int(later[0]) if len(later) else rows
    back = torch.nonzero(width_M[1:frame] == 0)
    width = int(back[0]) + 1 if len(back) else frame
    return rows // max(frame, 1), frame // max(width, 1), width
