"""Names of CogVideoX's adapters outside vidtron.

`--lora-target-modules` takes diffusers' names. Our halves A and B have the shapes of diffusers' `lora_A.weight` and
`lora_B.weight`, and of SAT's `matrix_A.n` and `matrix_B.n`: q, k and v have a pair each, so no layout differs. Source:
SAT's LoraMixin (sat.model.finetune.lora2) and the module names of diffusers' CogVideoXTransformer3DModel.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One linear map of a layer that may have an adapter."""

    diffusers: str
    """Module in `transformer_blocks.*`."""
    ours: str
    """Adapter in `decoder.layers.*`: a place of `models.layers.lora.PLACES` and a part of its output."""
    sat: tuple[str, int] | None = None
    """Module in SAT's `transformer.layers.*` and the number of its pair; None: SAT has no adapters there."""

    @property
    def flag(self) -> str:
        """What `--lora-target-modules` calls it; PEFT takes the end of a module's name."""
        return self.diffusers.removeprefix("attn1.")


TARGETS = (
    Target("attn1.to_q", "self_attention.lora_qkv.q", ("attention.query_key_value", 0)),
    Target("attn1.to_k", "self_attention.lora_qkv.k", ("attention.query_key_value", 1)),
    Target("attn1.to_v", "self_attention.lora_qkv.v", ("attention.query_key_value", 2)),
    Target("attn1.to_out.0", "self_attention.lora_proj.out", ("attention.dense", 0)),
    Target("ff.net.0.proj", "mlp.lora_fc1.out"),
    Target("ff.net.2", "mlp.lora_fc2.out"),
    Target("norm1.linear", "modulation.lora.norm1"),
    Target("norm2.linear", "modulation.lora.norm2"),
)


def chosen(names: Iterable[str]) -> list[Target]:
    """The targets of `--lora-target-modules`, in the order of `TARGETS`.

    Raises:
        ValueError: no names, or unknown ones; the message names them all.
    """
    names = list(names)
    accepted = {name for target in TARGETS for name in (target.flag, target.diffusers)}
    unknown = [name for name in names if name not in accepted]
    if unknown or not names:
        listed = ", ".join(target.flag for target in TARGETS)
        near = [hint for name in unknown for hint in difflib.get_close_matches(name, accepted, n=1)]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"--lora-target-modules {' '.join(unknown) or '(none)'}: accepted: {listed}{hint}")
    return [target for target in TARGETS if {target.flag, target.diffusers} & set(names)]


def parts_of(targets: Iterable[Target]) -> dict[str, list[str]]:
    """Place -> the parts of its output to adapt."""
    parts: dict[str, list[str]] = {}
    for target in targets:
        place, part = target.ours.rsplit(".", 1)
        parts.setdefault(place, []).append(part)
    return parts


def parameter_names(targets: Iterable[Target], layers: int) -> list[str]:
    """Names of the adapters' parameters in the whole model."""
    ours = [target.ours for target in targets]
    return [f"decoder.layers.{layer}.{name}.{half}" for layer in range(layers) for name in ours for half in "AB"]
