"""From latents and text to tokens, and back.

Shape letters: B micro-batch, T C H W latent frames, channels, height, width, V video tokens, S tokens of this rank,
L text tokens, D hidden width, P values of a patch, E text width.
"""

import torch
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.layers.embeddings import sincos_3d
from vidtron.models.layers.norms import mark_sequence_parallel
from vidtron.parallel.tokens import TokenSplit


def patchify(latents_BTCHW: Tensor, patch_t: int, patch: int) -> Tensor:
    """Tokens in (t, h, w) order, the values of each in (channel, t, h, w) order: [V, B, P]."""
    B, T, C, H, W = latents_BTCHW.shape
    x = latents_BTCHW.view(B, T // patch_t, patch_t, C, H // patch, patch, W // patch, patch)
    return x.permute(1, 4, 6, 0, 3, 2, 5, 7).reshape(-1, B, C * patch_t * patch * patch)


def unpatchify(patches_VBP: Tensor, shape: tuple[int, int, int, int], patch_t: int, patch: int) -> Tensor:
    """Undo `patchify` for a latent of `shape` (T, C, H, W): [B, T, C, H, W]."""
    T, C, H, W = shape
    B = patches_VBP.shape[1]
    x = patches_VBP.view(T // patch_t, H // patch, W // patch, B, C, patch_t, patch, patch)
    return x.permute(3, 0, 5, 4, 1, 6, 2, 7).reshape(B, T, C, H, W)


class TokenEmbedding(nn.Module):
    """Text and video patches -> the rows of [text | video | padding] that this rank holds, positions added.

    Only the rank's own rows are computed. Its weights see a part of the tokens on each rank under sequence
    parallelism, so their gradients are summed over the TP group.
    """

    def __init__(self, network: CogVideoXConfig, config: TransformerConfig):
        super().__init__()
        self.network = network
        dtype, hidden = config.params_dtype, network.hidden_size
        patch_values = network.in_channels * network.patch_size_t * network.patch_size**2
        self.text_proj = nn.Linear(network.text_width, hidden, dtype=dtype)
        self.patch_proj = nn.Linear(patch_values, hidden, dtype=dtype)
        self.positions: nn.Parameter | None = None
        if network.learned_position_grid is not None:
            t, h, w = network.learned_position_grid
            self.positions = nn.Parameter(torch.empty(network.text_length + t * h * w, hidden, dtype=dtype))
        mark_sequence_parallel(self, config)

    def forward(self, latents_BTCHW: Tensor, text_BLE: Tensor, split: TokenSplit) -> Tensor:
        """[S, B, D] in the dtype of the weights."""
        network, dtype = self.network, self.patch_proj.weight.dtype
        text_length = text_BLE.shape[1]
        text_first, text_last = split.rows_of(0, text_length)
        video_first, video_last = split.rows_of(text_length, split.tokens)
        patches_VBP = patchify(latents_BTCHW, network.patch_size_t, network.patch_size)
        text_SBD = self.text_proj(text_BLE.transpose(0, 1)[text_first:text_last].to(dtype))
        video = slice(video_first - text_length, video_last - text_length)
        video_SBD = self.patch_proj(patches_VBP[video].to(dtype))
        if network.position == "sincos":
            grid = network.grid(*(latents_BTCHW.shape[i] for i in (1, 3, 4)))
            table = sincos_3d(*grid, network.hidden_size, network.spatial_interpolation)
            video_SBD = video_SBD + table[video, None].to(video_SBD)
        if self.positions is not None:
            text_SBD = text_SBD + self.positions[text_first:text_last, None]
            video_SBD = video_SBD + self.positions[video_first:video_last, None]
        rows = text_SBD.shape[0] + video_SBD.shape[0]
        padding = video_SBD.new_zeros(split.length - rows, *video_SBD.shape[1:])
        return torch.cat((text_SBD, video_SBD, padding))
