"""STDiT2 and STDiT3 with Open-Sora's weights in our networks, under any layout."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel import get_forward_backward_func
from safetensors.torch import load_file
from torch import Tensor

from tests.reference.cogvideox_oracle import whole_gradients
from vidtron.config.data import ClipSize
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.models.inputs import VIDEO, Conditions, ModelInput, TextInput
from vidtron.models.layers.checkpoint_rules import to_ours, to_theirs
from vidtron.models.layers.initialization import global_names, own_part
from vidtron.models.stdit.checkpoint_names import COMPUTED, NULL_TEXT, opensora_rows
from vidtron.models.stdit.config import STDiTConfig
from vidtron.models.stdit.embeddings import positions
from vidtron.models.stdit.family import FAMILY
from vidtron.parallel import Groups, initialized
from vidtron.training.assembly import TrainedModel, assemble

DATA = Path(__file__).parent / "data" / "opensora"
STDIT2 = STDiTConfig(num_layers=2, hidden_size=96, num_attention_heads=4, text_length=12, text_width=32)
STDIT3 = replace(STDIT2, variant="stdit3", rotary_before_norm=False, hidden_size=48, num_attention_heads=2)
NETWORKS = {
    "stdit2": STDIT2,
    "norm first": replace(STDIT2, rotary_before_norm=False),
    "no norm": replace(STDIT2, qk_norm=False),
    "rounded": replace(STDIT2, opensora_bf16_rounding=True),
    "stdit3": STDIT3,
}


def described() -> dict[str, Any]:
    """What Open-Sora's networks are: names, shapes, norms of gradients."""
    return json.loads((DATA / "stdit2.json").read_text())


def cases() -> dict[str, Tensor]:
    """Inputs and outputs by name."""
    return load_file(DATA / "stdit2_cases.safetensors")


def inputs_of(case: str) -> dict[str, Tensor]:
    """Open-Sora's arguments of one case."""
    prefix = f"{case}/in/"
    return {name.removeprefix(prefix): tensor for name, tensor in cases().items() if name.startswith(prefix)}


def weights(network: STDiTConfig) -> dict[str, Tensor]:
    """Open-Sora's for STDiT2; for STDiT3 random ones under its names, none of them zero."""
    if network.pairs:
        draw = torch.Generator().manual_seed(3)
        letters, state = FAMILY.sizes(network), {}
        for row in opensora_rows(network):
            for name, shape in zip(row.theirs, row.their_shapes(letters, network), strict=True):
                scale = 0.3 if len(shape) == 1 else shape[-1] ** -0.5
                state[name] = scale * torch.randn(shape, generator=draw) + ("norm" in name)
        return state
    state = load_file(DATA / "stdit2_tiny.safetensors")
    dropped = (*COMPUTED, *(() if network.qk_norm else [n for n in state if "_norm." in n]))
    return {name: tensor for name, tensor in state.items() if name not in dropped}


def load_weights(model: TrainedModel, network: STDiTConfig, groups: Groups) -> None:
    """Put the weights into the chunks of this rank."""
    ours = to_ours(opensora_rows(network), weights(network), network)
    for module in model.modules:
        with torch.no_grad():
            module.text_projection.null_LE.copy_(ours[NULL_TEXT])
            for named in global_names(module):
                named.parameter.copy_(own_part(ours[named.name], named.parameter, groups.tp))


def model_input(given: dict[str, Tensor]) -> ModelInput:
    """Open-Sora's arguments as ours."""
    mask = given.get("mask")
    text = TextInput(given["y"][:, 0], None if mask is None else mask.bool())
    size = torch.stack([given[name] for name in ("num_frames", "height", "width")], dim=1)
    return ModelInput(
        noisy={VIDEO: given["x"].transpose(1, 2)},
        timesteps=given["timestep"],
        conditions=Conditions((text,), size_B3=size, fps_B=given["fps"]),
        frame_mask_BT=given.get("x_mask"),
    )


def run_config(network: str, layout: dict[str, Any]) -> RunConfig:
    """A run under `layout` (fields of any section)."""
    run = RunConfig(model=network, network=NETWORKS[network])
    for name, value in layout.items():
        setattr(run.parallel if hasattr(run.parallel, name) else run.precision, name, value)
    return run


def outputs_and_gradients(
    rank: int, network: str, layout: dict[str, Any], given: dict[str, tuple[dict[str, Tensor], Tensor]]
) -> dict[str, Any]:
    """Job: of each case (arguments, weight of each output), the output and the gradients of their mean product."""
    run, world = run_config(network, layout), World.from_environment()
    results = {}
    with initialized(run, world) as groups:
        model = assemble(FAMILY, run, groups)
        load_weights(model, run.network, groups)
        for case, (arguments, weight) in given.items():
            arguments = {**arguments, "x": arguments["x"].clone().requires_grad_()}
            output = _forward_backward(model, run, model_input(arguments), weight)
            gradients = whole_gradients(model, groups)
            gradients[NULL_TEXT] = torch.zeros(run.network.text_length, run.network.text_width)
            theirs = to_theirs(opensora_rows(run.network), gradients, run.network)
            results[case] = {"output": output, "gradients": theirs, "x": arguments["x"].grad}
    return results


def intermediates(rank: int, network: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Job: what the modules give on one rank, under Open-Sora's names and in its order of tokens."""
    run, world = run_config(network, {}), World.from_environment()
    seen: dict[str, Tensor] = {}
    with initialized(run, world) as groups:
        model = assemble(FAMILY, run, groups)
        load_weights(model, run.network, groups)
        [module] = model.modules
        T = given["x"].shape[2]

        def note(name: str, change: Any) -> Any:
            def hook(_: Any, __: Any, output: Any) -> None:
                update, bias = output if isinstance(output, tuple) else (output, None)
                seen[name] = change(update if bias is None else update + bias)

            return hook

        def tokens(x: Tensor) -> Tensor:  # [S T, B, D] -> [B, T S, D]
            return x.unflatten(0, (-1, T)).permute(2, 1, 0, 3).flatten(1, 2)

        watched = {
            "ar_embedder": (module.times.ratio, torch.clone),
            "csize_embedder": (module.times.side, lambda x: torch.cat(x.chunk(2), 1)),
            "fl_embedder": (module.times.frames, torch.clone),
            "fps_embedder": (module.times.fps, torch.clone),
            "t_embedder": (module.times.time, torch.clone),
            "t_block": (module.times.vectors, torch.clone),
            "t_block_temp": (module.times.temporal_vectors, torch.clone),
            "y_embedder": (module.text_projection, lambda x: x.transpose(0, 1)[:, None]),
            "x_embedder": (module.patch_proj, lambda x: x.permute(2, 1, 0, 3).flatten(1, 2)),
            "blocks.0": (module.decoder.layers[0], tokens),
            "blocks.1": (module.decoder.layers[1], tokens),
            "blocks.0.cross_attn": (module.decoder.layers[0].cross_attention, tokens),
            "blocks.0.mlp": (module.decoder.layers[0].mlp.linear_fc2, tokens),
            "blocks.0.attn": (
                module.decoder.layers[0].self_attention,
                lambda x: x.unflatten(0, (-1, T)).permute(2, 1, 0, 3).flatten(0, 1),
            ),
            "blocks.0.attn_temp": (
                module.decoder.layers[0].temporal_attention,
                lambda x: x.unflatten(0, (-1, T)).permute(2, 0, 1, 3).flatten(0, 1),
            ),
        }
        for name, (watched_module, change) in watched.items():
            watched_module.register_forward_hook(note(name, change))
        inputs = model_input(given)
        if "force_drop_ids" in given:
            text = TextInput(given["y"][:, 0], dropped_B=given["force_drop_ids"] == 1)
            module.text_projection(text)
            return seen
        with torch.no_grad():
            module(inputs)
        for name in ("t_embedder", "t_block", "t_block_temp"):
            seen[name], seen[f"{name}#2"] = seen[name].chunk(2)
        scale = (given["height"] * given["width"]).sqrt()[:1] / run.network.position_side
        rows, columns = run.network.grid(*given["x"].shape[3:])
        seen["pos_embed"] = positions(rows, columns, run.network.hidden_size, scale).transpose(0, 1)
    return seen


def _forward_backward(model: TrainedModel, run: RunConfig, inputs: ModelInput, weight: Tensor) -> Tensor:
    """One step of mcore's schedule over one micro-batch; the output [B, C, T, H, W], on every rank."""

    def loss_of(output: Tensor) -> Any:
        product = output.transpose(1, 2) * weight
        return product.mean(), {"output": output.detach().transpose(1, 2)}

    x = inputs.noisy_BTCHW
    # The length of a clip of so many latent frames, which Open-Sora 1.2's geometry may not have.
    clip = ClipSize(x.shape[1], 8 * x.shape[3], 8 * x.shape[4])
    length = FAMILY.sequence_length(replace(run, network=replace(run.network, variant="stdit2")), clip)
    for chunk in model.chunks:
        chunk.train()
    model.zero_grad()
    iterators = [iter([inputs]) for _ in model.chunks]
    reported = get_forward_backward_func()(
        forward_step_func=lambda iterator, chunk: (chunk(inputs=next(iterator)), loss_of),
        data_iterator=iterators if len(iterators) > 1 else iterators[0],
        model=model.chunks,
        num_microbatches=1,
        seq_length=length,
        micro_batch_size=x.shape[0],
        forward_only=False,
    )
    everybody: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, reported)
    return next(report for report in everybody if report)[0]["output"]


def traffic(
    rank: int, network: str, layout: dict[str, Any], given: dict[str, tuple[dict[str, Tensor], Tensor]]
) -> dict[str, Any]:
    """Job: numbers that this rank sends by all-to-all in forward and backward pass."""
    original, sent = dist.all_to_all_single, []

    def counted(output: Tensor, inputs: Tensor, *args: Any, group: Any = None, **kwargs: Any) -> Any:
        sent.append(inputs.numel() * (group.size() - 1) // group.size())
        return original(output, inputs, *args, group=group, **kwargs)

    torch.distributed.all_to_all_single = counted
    try:
        outputs_and_gradients(rank, network, layout, given)
    finally:
        torch.distributed.all_to_all_single = original
    return {"calls": len(sent), "numbers": sum(sent)}
