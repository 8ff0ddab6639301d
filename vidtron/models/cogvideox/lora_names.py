"""CogVideoX's adapters, and their names outside vidtron.

Our halves A and B have the shapes of diffusers' `lora_A.weight` and `lora_B.weight`, and of SAT's `matrix_A.n` and
`matrix_B.n`: q, k and v have a pair each, so no layout differs. Source: SAT's LoraMixin (sat.model.finetune.lora2) and
the module names of diffusers' CogVideoXTransformer3DModel.
"""

from vidtron.models.lora_targets import ForeignModule, LoraTarget


def _target(diffusers: str, ours: str, sat: tuple[str, int] | None = None) -> LoraTarget:
    """The flag takes the end of diffusers' name, as PEFT does. What SAT adapts is adapted by default."""
    foreign = {"diffusers": ForeignModule(f"transformer_blocks.*.{diffusers}")}
    if sat is not None:
        foreign["sat"] = ForeignModule(f"transformer.layers.*.{sat[0]}", sat[1])
    flag = diffusers.removeprefix("attn1.")
    return LoraTarget(flag, ours, () if flag == diffusers else (diffusers,), foreign, by_default=sat is not None)


TARGETS: tuple[LoraTarget, ...] = (
    _target("attn1.to_q", "self_attention.lora_qkv.q", ("attention.query_key_value", 0)),
    _target("attn1.to_k", "self_attention.lora_qkv.k", ("attention.query_key_value", 1)),
    _target("attn1.to_v", "self_attention.lora_qkv.v", ("attention.query_key_value", 2)),
    _target("attn1.to_out.0", "self_attention.lora_proj.out", ("attention.dense", 0)),
    _target("ff.net.0.proj", "mlp.lora_fc1.out"),
    _target("ff.net.2", "mlp.lora_fc2.out"),
    _target("norm1.linear", "modulation.lora.norm1"),
    _target("norm2.linear", "modulation.lora.norm2"),
)
