"""STDiT2 and STDiT3 in plain torch, on Open-Sora's state dicts: written from their description, not from our layers.

Checked against Open-Sora's own numbers for STDiT2 (test_stdit_networks.py), and then the measure of ours where there
are none. Frames that are given are normed once in the last layer, as ours.
"""

import math

import torch
import torch.nn.functional as F


def forward(state, x, timestep, y, *, heads, height, width, fps, num_frames=None, ar=None, mask=None, x_mask=None,
            pairs=False, norm_first=False, side=512):  # fmt: skip
    """[B, C, T, H, W] and conditions as Open-Sora names them -> [B, C', T, H, W]."""

    def linear(name, value):
        return F.linear(value, state[f"{name}.weight"], state[f"{name}.bias"])

    def scalar(name, value):
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float64) / 128)
        angles = value.double()[:, None] * frequencies
        embedded = torch.cat((angles.cos(), angles.sin()), 1).float()
        return linear(f"{name}.mlp.2", F.silu(linear(f"{name}.mlp.0", embedded)))

    def norm(value):
        return F.layer_norm(value, value.shape[-1:], eps=1e-6)

    def rms(value, weight):
        return value * torch.rsqrt(value.square().mean(-1, keepdim=True) + 1e-6) * weight

    def turned(value):  # [B, N, T, R]
        length, width_of_head = value.shape[2:]
        theta = 10000.0 ** (-torch.arange(0, width_of_head, 2, dtype=torch.float64) / width_of_head)
        angles = torch.outer(torch.arange(length).double(), theta).float()
        a, b = value[..., ::2], value[..., 1::2]
        return torch.stack(
            (a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), -1
        ).flatten(-2)  # fmt: skip

    def attention(name, value, rotary):  # [batch, length, D]
        q, k, v = linear(f"{name}.qkv", value).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)

        def normed(query, kind):
            key = f"{name}.{kind}_norm.weight"
            return rms(query, state[key]) if key in state else query

        if rotary and not norm_first:
            q, k = turned(q), turned(k)
        q, k = normed(q, "q"), normed(k, "k")
        if rotary and norm_first:
            q, k = turned(q), turned(k)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return linear(f"{name}.proj", (weights @ v).transpose(1, 2).flatten(2))

    def texts(name, tokens):  # [B, T, S, D]
        q = linear(f"{name}.q_linear", tokens.flatten(1, 2)).unflatten(2, (heads, -1)).transpose(1, 2)
        k, v = linear(f"{name}.kv_linear", text).unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None] == 0, -torch.inf)
        out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return linear(f"{name}.proj", out).view_as(tokens)

    def mlp(name, value):
        return linear(f"{name}.fc2", F.gelu(linear(f"{name}.fc1", value), approximate="tanh"))

    def vectors(table, own, given):  # -> [V, B, T, 1, D]
        rows = state[table]
        own, given = (rows + value.unflatten(1, (len(rows), -1)) for value in (own, given))
        return torch.where(learned[..., None], own[:, None], given[:, None]).permute(2, 0, 1, 3)[:, :, :, None]

    B, _, T, H, W = x.shape
    D = state["x_embedder.proj.bias"].numel()
    x = F.pad(x, (0, W % 2, 0, H % 2))
    h, w = x.shape[3] // 2, x.shape[4] // 2
    tokens = F.conv3d(x, state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=(1, 2, 2))
    tokens = tokens.flatten(3).permute(0, 2, 3, 1)  # [B, T, S, D]
    base, scale = round(math.sqrt(h * w)), math.sqrt(float(height[0] * width[0])) / side
    frequencies = 10000.0 ** (-torch.arange(0, D // 2, 2, dtype=torch.float64) / (D // 2))

    def places(length):
        angles = torch.outer(torch.arange(length).double() / scale * base / length, frequencies)
        return torch.cat((angles.sin(), angles.cos()), 1)

    grid = torch.cat((places(w)[None].expand(h, -1, -1), places(h)[:, None].expand(-1, w, -1)), -1)
    tokens = tokens + grid.flatten(0, 1).float()
    text = mlp("y_embedder.y_proj", y[:, 0])
    learned = torch.ones(B, T, 1, dtype=torch.bool) if x_mask is None else x_mask[..., None]
    own, given = scalar("t_embedder", timestep), scalar("t_embedder", torch.zeros(B))
    rate = scalar("fps_embedder", fps)
    if pairs:
        own, given = own + rate, given + rate
        spatial = [linear("t_block.1", F.silu(value)) for value in (own, given)]
    else:
        info = torch.cat([scalar("csize_embedder", v) for v in (height, width)] + [scalar("ar_embedder", ar)], 1)
        length = scalar("fl_embedder", num_frames) + rate
        spatial = [linear("t_block.1", F.silu(value + info)) for value in (own, given)]
        temporal = [linear("t_block_temp.1", F.silu(value + length)) for value in (own, given)]

    def attended(name, tokens, shift, scale, gate, along_time):
        value = norm(tokens) * (1 + scale) + shift
        if along_time:
            out = attention(name, value.transpose(1, 2).flatten(0, 1), True).unflatten(0, (B, -1)).transpose(1, 2)
        else:
            out = attention(name, value.flatten(0, 1), False).unflatten(0, (B, -1))
        return tokens + gate * out

    def fed(name, tokens, shift, scale, gate):
        tokens = tokens + texts(f"{name}.cross_attn", tokens)
        return tokens + gate * mlp(f"{name}.mlp", norm(tokens) * (1 + scale) + shift)

    block = 0
    while any(name.startswith(("blocks", "spatial_blocks")) and f"blocks.{block}." in name for name in state):
        for prefix in ("spatial_blocks", "temporal_blocks") if pairs else ("blocks",):
            name = f"{prefix}.{block}"
            v = vectors(f"{name}.scale_shift_table", *spatial)
            tokens = attended(f"{name}.attn", tokens, *v[:3], along_time=prefix == "temporal_blocks")
            if not pairs:
                along = vectors(f"{name}.scale_shift_table_temporal", *temporal)
                tokens = attended(f"{name}.attn_temp", tokens, *along, along_time=True)
            tokens = fed(name, tokens, *v[3:])
        block += 1
    shift, scale = vectors("final_layer.scale_shift_table", own.repeat(1, 2), given.repeat(1, 2))
    out = linear("final_layer.linear", norm(tokens) * (1 + scale) + shift)
    out = out.view(B, T, h, w, 2, 2, -1).permute(0, 6, 1, 2, 4, 3, 5).reshape(B, -1, T, 2 * h, 2 * w)
    return out[..., :H, :W]
