"""Position tables and scalar embeddings against upstream's."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vidtron.models.layers.embeddings import ScalarEmbedding, sincos_3d, sinusoid
from vidtron.models.layers.rotary import angles_3d, rotary_table, rotate

TABLES = load_file(Path(__file__).parents[1] / "reference" / "data" / "positions" / "tables.safetensors")


def table(*grid_and_width):
    rotary = rotary_table(angles_3d(*grid_and_width), torch.float32, torch.device("cpu"))
    return rotary, *(part.flatten(1).repeat_interleave(2, dim=1) for part in (rotary.turns.real, rotary.turns.imag))


def test_sincos():
    torch.testing.assert_close(
        sincos_3d(3, 4, 6, 64, 1.875), TABLES["sincos3d_d64_t3_h4_w6_interp1.875"], rtol=0, atol=1e-6
    )
    rows = TABLES["sincos3d_2b_rows"].long()
    video = sincos_3d(13, 30, 45, 1920, 1.875)
    torch.testing.assert_close(video[rows], TABLES["sincos3d_2b_rows_values"], rtol=0, atol=1e-6)


def test_rotary_table():
    _, cos, sin = table(2, 6, 6, 16)
    torch.testing.assert_close(cos, TABLES["sat_rope_hd16_t2_h6_w6_cos"], rtol=0, atol=1e-6)
    torch.testing.assert_close(sin, TABLES["sat_rope_hd16_t2_h6_w6_sin"], rtol=0, atol=1e-6)
    _, cos, sin = table(13, 30, 45, 64)
    rows = TABLES["rope_5b_rows"].long()
    torch.testing.assert_close(cos[rows], TABLES["rope_5b_cos"], rtol=0, atol=1e-6)
    torch.testing.assert_close(sin[rows], TABLES["rope_5b_sin"], rtol=0, atol=1e-6)


def test_rotation():
    rotary, _, _ = table(2, 6, 6, 16)
    rotated = rotate(TABLES["rotary_in"].permute(2, 0, 1, 3), rotary).permute(1, 2, 0, 3)
    torch.testing.assert_close(rotated, TABLES["rotary_out"], rtol=0, atol=1e-6)


def test_rotary_refuses_a_head_width():
    with pytest.raises(ValueError, match="multiple of 16"):
        angles_3d(2, 2, 2, 24)


def test_timestep_embedding():
    # An fp32 exponential may differ in its last bit, which 999 times the frequency makes 3e-5 of an angle.
    torch.testing.assert_close(
        sinusoid(TABLES["timesteps"], 64), TABLES["timestep_embedding_dim64"], rtol=0, atol=4e-5
    )
    torch.testing.assert_close(sinusoid(torch.tensor([2.0]), 32), TABLES["ofs_embedding_2.0_dim32"], rtol=0, atol=1e-6)


def test_low_precision_timesteps_are_refused():
    class Config:
        params_dtype = torch.float32

    with pytest.raises(TypeError, match="801"):
        ScalarEmbedding(Config(), 8, 8)(torch.tensor([801.0], dtype=torch.bfloat16))
