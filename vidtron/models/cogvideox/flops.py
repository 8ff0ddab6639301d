"""Model FLOPs of CogVideoX: what the mathematics needs, recomputation not counted."""

from vidtron.models.cogvideox.config import CogVideoXConfig


def forward_flops(network: CogVideoXConfig, latent_shape: tuple[int, int, int, int]) -> float:
    """FLOPs of one forward pass of one sample, a multiplication and an addition counted as two.

    Matrix products of the layers (qkv 3, projection 1, MLP 8 hidden widths squared a token), attention (queries by
    keys and weights by values, over all tokens, both ways), embedding and output of the tokens, and the modulation.
    """
    T, _, H, W = latent_shape
    t, h, w = network.grid(T, H, W)
    video, D = t * h * w, network.hidden_size
    tokens = network.text_length + video
    patch = network.patch_size_t * network.patch_size**2
    layer = 2 * tokens * 12 * D * D + 2 * 2 * tokens * tokens * D + 2 * network.time_embed_dim * 12 * D
    ends = (
        2
        * D
        * (
            network.text_length * network.text_width
            + video * patch * (network.in_channels + network.out_channels)
            + 2 * network.time_embed_dim
        )
    )
    return float(network.num_layers * layer + ends)


def training_flops(network: CogVideoXConfig, latent_shape: tuple[int, int, int, int]) -> float:
    """FLOPs of forward and backward pass of one sample: the backward pass costs twice the forward pass."""
    return 3.0 * forward_flops(network, latent_shape)
