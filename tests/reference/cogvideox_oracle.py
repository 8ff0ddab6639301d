"""The tiny networks whose outputs, gradients and losses upstream code has produced, in our model under any layout."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel import get_forward_backward_func
from safetensors.torch import load_file
from torch import Tensor

from vidtron.checkpoint.lora_adapters import Adapter
from vidtron.checkpoint.lora_merge import merged
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.diffusion.loss import mean_squared_error
from vidtron.diffusion.parameterization import Velocity, add_noise, per_sample
from vidtron.diffusion.schedule import ZeroTerminalSNRSchedule
from vidtron.models.cogvideox.checkpoint_names import SAT_TABLES, sat_rows
from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.cogvideox.family import CogVideoXFamily
from vidtron.models.layers.checkpoint_rules import to_ours, to_theirs
from vidtron.models.layers.embeddings import sinusoid
from vidtron.models.layers.initialization import global_names
from vidtron.models.layers.lora import is_adapter
from vidtron.parallel import Groups, initialized
from vidtron.training.assembly import TrainedModel, assemble

DATA = Path(__file__).parent / "data"
PREFIX = "model.diffusion_model."

_TINY = dict(num_layers=2, hidden_size=64, num_attention_heads=4, time_embed_dim=16, text_length=8, text_width=40)
NETWORKS = {
    "2b": CogVideoXConfig(**_TINY, position="sincos"),
    "5b": CogVideoXConfig(**_TINY, position="rotary"),
    "5b_i2v": CogVideoXConfig(**_TINY, position="rotary", in_channels=32, learned_position_grid=(3, 2, 4)),
    "1.5_5b": CogVideoXConfig(**_TINY, position="rotary", patch_size_t=2),
    "1.5_5b_i2v": CogVideoXConfig(**_TINY, position="rotary", patch_size_t=2, in_channels=32, ofs_embedding=True),
}
VARIANTS = tuple(v for v in NETWORKS if (DATA / "tiny" / v).exists())
NOISE_SHIFT = {"2b": 3.0}


def folder(variant: str) -> Path:
    return DATA / "tiny" / variant


def run_config(variant: str, layout: dict[str, Any]) -> RunConfig:
    """A run of the variant under `layout` (fields of ParallelConfig)."""
    run = RunConfig(model=variant, network=NETWORKS[variant])
    for name, value in layout.items():
        setattr(run.parallel, name, value)
    return run


def sat_state(variant: str) -> dict[str, Tensor]:
    """Upstream's weights in fp32, without the tables that are computed."""
    path = folder(variant) / "sat" / "1000" / "mp_rank_00_model_states.pt"
    state = torch.load(path, weights_only=True)["module"]
    state = {name.removeprefix(PREFIX): tensor.float() for name, tensor in state.items()}
    network = NETWORKS[variant]
    dropped = {*SAT_TABLES, *(() if network.learned_position_grid else ("mixins.pos_embed.pos_embedding",))}
    return {name: tensor for name, tensor in state.items() if name not in dropped}


def load_weights(
    model: TrainedModel, variant: str, groups: Groups, merged_with: dict[str, Adapter] | None = None
) -> None:
    """Put upstream's weights, with adapters merged into them, into the chunks of this rank."""
    network = NETWORKS[variant]
    ours = to_ours(sat_rows(network), sat_state(variant), network)
    for module in model.modules:
        for named in global_names(module):
            if is_adapter(named.name):
                continue
            whole, parameter = merged(named.name, ours[named.name], merged_with or {}, network), named.parameter
            if parameter.tensor_model_parallel:
                whole = whole.chunk(groups.tp.size(), parameter.partition_dim)[groups.tp.rank()]
            with torch.no_grad():
                parameter.copy_(whole)


def whole_gradients(model: TrainedModel, groups: Groups) -> dict[str, Tensor]:
    """Gradients by global name, unsplit; the same on all ranks."""
    mine = {}
    for module in model.modules:
        for named in global_names(module):
            parameter = named.parameter
            gradient = parameter.main_grad.detach().clone()
            if parameter.tensor_model_parallel and groups.tp.size() > 1:
                parts = [torch.empty_like(gradient) for _ in range(groups.tp.size())]
                dist.all_gather(parts, gradient, group=groups.tp)
                gradient = torch.cat(parts, dim=parameter.partition_dim)
            mine[named.name] = gradient
    everybody: list[Any] = [None] * groups.world_size
    dist.all_gather_object(everybody, mine)
    return {name: gradient for part in everybody for name, gradient in part.items()}


def to_sat(gradients: dict[str, Tensor], variant: str) -> dict[str, Tensor]:
    """Gradients under upstream's names and in its layout."""
    network = NETWORKS[variant]
    return to_theirs(sat_rows(network), gradients, network)


def _forward_backward(model: TrainedModel, run: RunConfig, batch: dict[str, Tensor], loss_of: Any) -> list[Any]:
    """One step of mcore's schedule over `batch` as one micro-batch; what the last stage reported, on every rank."""

    def forward_step(iterator: Any, chunk: torch.nn.Module) -> Any:
        inputs = next(iterator)
        output = chunk(
            noisy_BTCHW=inputs["x"],
            timesteps_B=inputs["timesteps"],
            text_BLE=inputs["context"],
            image_latents=inputs.get("image_latents"),
        )
        return output, loss_of

    family = CogVideoXFamily()
    x = batch["x"]
    tokens = run.network.text_length + torch.Size(run.network.grid(x.shape[1], *x.shape[3:])).numel()
    run.data.num_frames = 4 * (x.shape[1] - 1) + 1
    run.data.height, run.data.width = 8 * x.shape[3], 8 * x.shape[4]
    assert family.tokens_per_sample(run) == tokens
    for chunk in model.chunks:
        chunk.train()
    model.zero_grad()
    iterators = [iter([batch]) for _ in model.chunks]
    reported = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iterators if len(iterators) > 1 else iterators[0],
        model=model.chunks,
        num_microbatches=1,
        seq_length=family.sequence_length(run),
        micro_batch_size=x.shape[0],
        forward_only=False,
    )
    everybody: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, reported)
    return next(report for report in everybody if report)


def output_and_gradients(rank: int, variant: str, layout: dict[str, Any]) -> dict[str, Any]:
    """Job: the network's output and the gradients of sum(output * cotangent), in upstream's names."""
    run, world = run_config(variant, layout), World.from_environment()
    io = torch.load(folder(variant) / "io.pt", weights_only=True)
    with initialized(run, world) as groups:
        model = assemble(CogVideoXFamily(), run, groups)
        load_weights(model, variant, groups)

        def loss_of(output: Tensor) -> Any:
            return (output * io["cotangent"]).sum(), {"output": output.detach()}

        reported = _forward_backward(model, run, io, loss_of)
        gradients = to_sat(whole_gradients(model, groups), variant)
    return {"output": reported[0]["output"], "gradients": gradients}


def training_step(rank: int, variant: str, layout: dict[str, Any]) -> dict[str, Any]:
    """Job: the losses of upstream's training step and the gradient norms of their mean."""
    run, world = run_config(variant, layout), World.from_environment()
    step = torch.load(folder(variant) / "train_step.pt", weights_only=True)
    schedule, velocity = ZeroTerminalSNRSchedule(NOISE_SHIFT.get(variant, 1.0)), Velocity()
    alpha = per_sample(schedule.alpha(step["idx"]), step["x0"])
    sigma = per_sample(schedule.sigma(step["idx"]), step["x0"])
    batch = {
        **step,
        "x": add_noise(step["x0"], step["noise"], alpha, sigma),
        "timesteps": step["idx"],
    }
    with initialized(run, world) as groups:
        model = assemble(CogVideoXFamily(), run, groups)
        load_weights(model, variant, groups)

        def loss_of(output: Tensor) -> Any:
            losses = mean_squared_error(output, velocity.target(step["x0"], step["noise"], alpha, sigma))
            return losses.mean(), {"losses": losses.detach()}

        reported = _forward_backward(model, run, batch, loss_of)
        gradients = to_sat(whole_gradients(model, groups), variant)
        norm = model.gradient_norm()
    return {
        "losses": reported[0]["losses"],
        "norm": norm,
        "norms": {name: float(gradient.norm()) for name, gradient in gradients.items()},
    }


def expected_training_step(variant: str) -> dict[str, Any]:
    return json.loads((folder(variant) / "train_step.json").read_text())


def expected_gradients(variant: str) -> dict[str, Tensor]:
    """Upstream's parameter gradients, sampled as its README says: whole up to 256 elements, else every n-th."""
    return load_file(folder(variant) / "grads.safetensors")


def sampled(gradient: Tensor) -> Tensor:
    """The elements of a gradient that `expected_gradients` holds."""
    flat = gradient.flatten()
    return flat if flat.numel() <= 256 else flat[:: max(1, flat.numel() // 64)]


class _Sinusoid(torch.nn.Module):
    """diffusers' embedding of timesteps with its frequencies in fp64.

    diffusers takes their exponentials in fp32. The last bit, which the processor chooses, is 6e-5 of an angle at
    timestep 999 and moves outputs by up to 7e-5: more than is asked of everything else.
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, timesteps: Tensor) -> Tensor:
        return sinusoid(timesteps, self.width)


def exact_times(model: Any, timesteps: Tensor) -> None:
    """Give diffusers' network frequencies in fp64, which are its own to the rounding that it has at `timesteps`."""
    exact = _Sinusoid(model.time_proj.num_channels)
    torch.testing.assert_close(model.time_proj(timesteps), exact(timesteps), rtol=0, atol=1.5e-4)
    model.time_proj = exact
