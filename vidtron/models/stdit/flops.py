"""Model FLOPs of STDiT: what the mathematics needs, recomputation not counted."""

from vidtron.models.stdit.config import STDiTConfig


def forward_flops(network: STDiTConfig, latent_shape: tuple[int, int, int, int]) -> float:
    """FLOPs of one forward pass of one sample, a multiplication and an addition counted as two.

    Matrix products of the layers (qkv 3, projection 1, queries to the text and their projection 2, MLP 8 hidden widths
    squared a token; keys and values 2 a text token), attention among the tokens of a frame, of a place and to the text
    (queries by keys and weights by values), embedding and output of the tokens.
    """
    T, _, H, W = latent_shape
    h, w = network.grid(H, W)
    S, D, L = h * w, network.hidden_size, network.text_length
    tokens = T * S
    attention = 4 * D * D * tokens
    texts = 2 * D * D * tokens + 2 * D * D * L + 2 * tokens * L * D
    mlp = 8 * D * D * tokens
    scores = 2 * tokens * (S + T) * D
    parts = 2 if network.pairs else 1
    layer = 2 * attention + scores + parts * (texts + mlp)
    patch = network.patch_size**2
    ends = D * tokens * patch * (network.in_channels + network.out_channels) + L * D * (network.text_width + D)
    return 2.0 * (network.num_layers * layer + ends)
