"""From latents, texts, times and sizes to tokens and vectors, and back.

Shape letters: B micro-batch, T C H W latent frames, channels, height, width, h, w tokens in height and width, S = h w,
L text tokens, E text features, P values of a patch, D hidden width, K vectors for a layer.
"""

import torch
import torch.nn.functional as F
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

from vidtron.models.inputs import TextInput
from vidtron.models.layers.embeddings import ScalarEmbedding
from vidtron.models.layers.transformer_config import gelu_tanh
from vidtron.models.stdit.config import STDiTConfig

SINUSOID_WIDTH = 256


def patchify(latents_BTCHW: Tensor, patch: int) -> Tensor:
    """Tokens of each frame in (h, w) order, the values of each in (channel, h, w) order: [T, S, B, P].

    Zeros at the end of height and width fill the last patches.
    """
    H, W = latents_BTCHW.shape[3:]
    x = F.pad(latents_BTCHW, (0, -W % patch, 0, -H % patch))
    x = x.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))  # B T C h p w q
    return x.permute(1, 3, 5, 0, 2, 4, 6).flatten(1, 2).flatten(3)


def unpatchify(patches_TSBP: Tensor, height: int, width: int, patch: int) -> Tensor:
    """Values of each token in (h, w, channel) order -> latents without padding: [B, T, C, H, W]."""
    rows = -(-height // patch)
    x = patches_TSBP.unflatten(3, (patch, patch, -1)).unflatten(1, (rows, -1))  # T h w B p q C
    x = x.permute(3, 0, 6, 1, 4, 2, 5).flatten(5).flatten(3, 4)
    return x[..., :height, :width]


def positions(height: int, width: int, hidden: int, scale_B: Tensor, rounding: bool = False) -> Tensor:
    """Sines and cosines of where a token is in its frame: [S, B, D], fp32.

    The first half of the features stands for the column, the second for the row. A coordinate is the index, stretched
    to a square grid of as many tokens and divided by the clip's scale.

    Args:
        height: tokens.
        width: tokens.
        hidden: width D.
        scale_B: side of the clip over the side at which positions have distance 1.
        rounding: frequencies as bf16 holds them.
    """
    base = round((height * width) ** 0.5)
    exponents = torch.arange(0, hidden // 2, 2, dtype=torch.float32, device=scale_B.device) / (hidden // 2)
    frequencies = 1.0 / 10000.0 ** exponents.double()
    if rounding:
        frequencies = frequencies.bfloat16().double()

    def axis(length: int) -> Tensor:
        index = torch.arange(length, dtype=torch.float64, device=scale_B.device)
        coordinates = index[:, None] / scale_B.double() * (base / length)
        angles = coordinates[..., None] * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1)

    rows, columns = axis(height)[:, None], axis(width)[None]
    both = torch.cat((columns.expand(height, -1, -1, -1), rows.expand(-1, width, -1, -1)), dim=-1)
    return both.flatten(0, 1).float()


class TextProjection(nn.Module):
    """A caption's features -> hidden width; a dropped caption's are the network's own.

    `null_LE` is no weight: it is never trained.
    """

    null_LE: Tensor

    def __init__(self, network: STDiTConfig, config: TransformerConfig):
        super().__init__()
        hidden, dtype = network.hidden_size, config.params_dtype
        self.linear_1 = nn.Linear(network.text_width, hidden, dtype=dtype)
        self.linear_2 = nn.Linear(hidden, hidden, dtype=dtype)
        self.register_buffer("null_LE", torch.empty(network.text_length, network.text_width, dtype=dtype))

    def forward(self, text: TextInput) -> Tensor:
        """[L, B, D].

        Raises:
            ValueError: a caption is dropped, and has not as many tokens as the network's own.
        """
        states_BLE = text.states_BLE.to(self.null_LE.dtype)
        if text.dropped_B is not None:
            if states_BLE.shape[1] != len(self.null_LE):
                raise ValueError(f"{states_BLE.shape[1]} text tokens; accepted: {len(self.null_LE)}, as dropped ones")
            states_BLE = torch.where(text.dropped_B[:, None, None], self.null_LE, states_BLE)
        return self.linear_2(gelu_tanh(self.linear_1(states_BLE.transpose(0, 1))))


class TimeVectors(nn.Module):
    """Time, size and rate of a clip -> the vectors that all layers share (adaLN-single).

    Every pipeline stage has its own copy and runs it itself.
    """

    def __init__(self, network: STDiTConfig, config: TransformerConfig):
        super().__init__()
        self.network, dtype, hidden = network, config.params_dtype, network.hidden_size

        def scalar(width: int) -> ScalarEmbedding:
            return ScalarEmbedding(config, SINUSOID_WIDTH, width)

        self.time = scalar(hidden)
        self.fps = scalar(hidden)
        self.vectors = nn.Linear(hidden, 6 * hidden, dtype=dtype)
        if not network.pairs:
            self.side, self.ratio, self.frames = scalar(hidden // 3), scalar(hidden // 3), scalar(hidden)
            self.temporal_vectors = nn.Linear(hidden, 3 * hidden, dtype=dtype)

    def forward(self, times_B: Tensor, size_B3: Tensor, fps_B: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Vectors of the layers and of the last one, [B, 6 D] and [B, D], and those of temporal attention, [B, 3 D].

        Args:
            times_B: of several times for each clip (the samples' own, then those of given frames): [n B].
            size_B3: frames, height and width of the clips in pixels.
            fps_B: frames a second.
        """
        repeats = len(times_B) // len(fps_B)
        time = self.time(self._rounded(times_B))
        fps = self.fps(self._rounded(fps_B)).repeat(repeats, 1)
        if self.network.pairs:
            last = time + fps
            return self.vectors(F.silu(last)), last, None
        frames, height, width = size_B3.float().unbind(1)
        ratio = width / height if self.network.aspect_ratio == "width/height" else height / width
        sides = self.side(self._rounded(torch.cat((height, width)))).unflatten(0, (2, -1))
        info = torch.cat((*sides, self.ratio(self._rounded(ratio))), dim=1).repeat(repeats, 1)
        length = self.frames(self._rounded(frames)).repeat(repeats, 1) + fps
        return self.vectors(F.silu(time + info)), time, self.temporal_vectors(F.silu(time + length))

    def _rounded(self, values_B: Tensor) -> Tensor:
        return values_B.bfloat16().float() if self.network.opensora_bf16_rounding else values_B
