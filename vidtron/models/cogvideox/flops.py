"""Model FLOPs of CogVideoX: what the mathematics needs, recomputation not counted."""

from collections.abc import Collection

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


def training_flops(
    network: CogVideoXConfig,
    latent_shape: tuple[int, int, int, int],
    trained: Collection[str] | None = None,
    lora_rank: int = 0,
) -> float:
    """FLOPs of forward and backward pass of one sample.

    The backward pass costs twice the forward pass: once for the gradients of what goes in, once for those of the
    weights. The latter are not needed of a layer's frozen matrices. (The former are counted in every layer, also below
    the first trained one.)

    Args:
        network: the configuration.
        latent_shape: frames, channels, height and width.
        trained: names of the trained weights; None: all.
        lora_rank: of the adapters among them.
    """
    total = 3.0 * forward_flops(network, latent_shape)
    if trained is None:
        return total
    T, _, H, W = latent_shape
    t, h, w = network.grid(T, H, W)
    per_element = 2 * (network.text_length + t * h * w)
    D = network.hidden_size
    for layer in range(network.num_layers):
        for place, (inputs, outputs) in _MATRICES.items():
            parent, linear = place.split(".")
            prefix = f"decoder.layers.{layer}.{parent}"
            if f"{prefix}.linear_{linear}.weight" not in trained:
                total -= per_element * inputs * outputs * D * D
            pairs = sum(name.startswith(f"{prefix}.lora_{linear}.") for name in trained) / 2
            parts = 3 if linear == "qkv" else 1
            total += 3 * per_element * pairs * lora_rank * (inputs + outputs / parts) * D
    return total


_MATRICES = {
    "self_attention.qkv": (1, 3),
    "self_attention.proj": (1, 1),
    "mlp.fc1": (1, 4),
    "mlp.fc2": (4, 1),
}
"""Matrices of a layer that every token passes: inputs and outputs in hidden widths."""
