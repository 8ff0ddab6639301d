"""Bytes saved for the backward pass per layer and token, and bytes sent per step, counted on a CPU for each layout.

    python benchmarks/memory_and_traffic.py

Both are exact for the tensors of the step that is run; they scale with hidden width, tokens and layers, so that a
layout of a large model can be planned from them. Beside them stands diffusers' network of the same size.
"""

import argparse
import dataclasses
from typing import Any

import torch
from common import SyntheticBatch, describe_machine, forward_backward, launch, run_config
from traffic import Collectives, SavedTensors

from vidtron.config.world import World
from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.inputs import ModelInput
from vidtron.models.registry import family_of
from vidtron.parallel import initialized
from vidtron.training.assembly import assemble

NETWORK = CogVideoXConfig(
    num_layers=4, hidden_size=256, num_attention_heads=8, time_embed_dim=64, text_length=32, text_width=64,
    position="rotary",
)  # fmt: skip
CLIP = {"frames": 13, "height": 128, "width": 128}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one rank": (1, {}),
    "recompute full": (
        1,
        {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
    ),
    "DP2": (2, {}),
    "DP2, distributed optimizer": (2, {"use_distributed_optimizer": True}),
    "DP4": (4, {}),
    "TP2": (2, {"tensor_model_parallel_size": 2}),
    "TP2+SP": (2, {"tensor_model_parallel_size": 2, "sequence_parallel": True}),
    "TP4+SP": (4, {"tensor_model_parallel_size": 4, "sequence_parallel": True}),
    "PP2": (2, {"pipeline_model_parallel_size": 2}),
    "PP4": (4, {"pipeline_model_parallel_size": 4}),
    "PP2 interleaved": (2, {"pipeline_model_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 1}),
    "CP2": (2, {"context_parallel_size": 2}),
    "CP2, all-gather": (2, {"context_parallel_size": 2, "cp_comm_type": "all_gather"}),
    "CP4": (4, {"context_parallel_size": 4}),
    "TP2+SP x PP2": (
        4,
        {"tensor_model_parallel_size": 2, "sequence_parallel": True, "pipeline_model_parallel_size": 2},
    ),
    "TP2+SP x CP2": (4, {"tensor_model_parallel_size": 2, "sequence_parallel": True, "context_parallel_size": 2}),
    "PP2 x CP2": (4, {"pipeline_model_parallel_size": 2, "context_parallel_size": 2}),
    "DP2 x TP2": (4, {"tensor_model_parallel_size": 2}),
}


def saved_bytes(layers: int, layout: dict[str, Any], samples: int) -> int:
    """Job: bytes that rank 0 keeps between forward and backward pass of a network of `layers` layers."""
    run = run_config(dataclasses.replace(NETWORK, num_layers=layers), **CLIP, **layout)
    with initialized(run, World.from_environment()) as groups:
        model = assemble(family_of(run.model), run, groups)
        batch = SyntheticBatch.of(run, samples)
        chunk = model.chunks[0]
        if not groups.is_first_stage or len(model.chunks) > 1:
            raise ValueError("memory is counted on one chunk of the first stage")
        chunk.train()
        with SavedTensors() as saved:
            output = chunk(inputs=ModelInput.of(batch.noisy, batch.timesteps, batch.text))
        parameters = list(chunk.parameters())
        size = saved.bytes([*parameters, *(p.data for p in parameters), batch.noisy, batch.text, output])
    return size


def sent_bytes(layout: dict[str, Any], samples: int, micro_batches: int) -> dict[str, tuple[int, int]]:
    """Job: bytes sent by rank 0 in one step (forward, backward, reduction, update) and calls, by kind."""
    run = run_config(NETWORK, **CLIP, **layout)
    with initialized(run, World.from_environment()) as groups:
        model = assemble(family_of(run.model), run, groups)
        batch = SyntheticBatch.of(run, samples)
        with Collectives() as collectives:
            forward_backward(model, run, batch, micro_batches)
            model.update(model.gradient_norm())
        return {kind: (collectives.sent[kind], collectives.calls[kind]) for kind in sorted(collectives.sent)}


def diffusers_saved_bytes(samples: int) -> int:
    """Bytes that two more layers of diffusers' network of the same size keep."""
    from peers import diffusers_network, diffusers_step_inputs

    sizes = []
    for layers in (2, 4):
        network = dataclasses.replace(NETWORK, num_layers=layers)
        run = run_config(network, **CLIP)
        model, batch = diffusers_network(run), SyntheticBatch.of(run, samples)
        inputs = diffusers_step_inputs(run, batch)
        with SavedTensors() as saved:
            output = model(**inputs)[0]
        tensors = [output, *model.parameters(), *(t for t in inputs.values() if isinstance(t, torch.Tensor))]
        sizes.append(saved.bytes(tensors))
    return (sizes[1] - sizes[0]) // 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1, help="samples of a micro-batch")
    parser.add_argument("--micro-batches", type=int, default=4, help="micro-batches of a step")
    arguments = parser.parse_args()
    samples, width = arguments.samples, NETWORK.hidden_size
    tokens = samples * family_of("cogvideox-tiny").tokens_per_sample(run_config(NETWORK, **CLIP))

    print("# Memory for the backward pass and traffic of a step\n")
    print("`python benchmarks/memory_and_traffic.py`\n")
    print(describe_machine())
    print(
        f"Network: hidden {width}, {NETWORK.num_attention_heads} heads, {NETWORK.num_layers} layers, fp32, {tokens} "
        f"tokens in a micro-batch of {samples}, {arguments.micro_batches} micro-batches a step and replica.\n"
    )
    print("## Saved for the backward pass, per layer and token of the whole sample\n")
    print("| layout | elements / hidden | bytes |\n| --- | --- | --- |")
    rows = [("diffusers", diffusers_saved_bytes(samples))]
    for name, (ranks, layout) in LAYOUTS.items():
        if layout.get("pipeline_model_parallel_size", 1) == 1 and "DP" not in name:
            few, many = (launch(saved_bytes, ranks, layers, layout, samples) for layers in (2, 4))
            rows.append((name, (many - few) // 2))
    for name, size in rows:
        print(f"| {name} | {size / tokens / width / 4:.2f} | {size / tokens:.0f} |")
    print("\n## Sent by one rank in a step\n")
    print("MB (10^6 bytes) and number of calls; the gradient norm and other scalars included.\n")
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "send", "broadcast")
    print(f"| layout | {' | '.join(kinds)} | all |\n| {' --- |' * (len(kinds) + 2)}")
    for name, (ranks, layout) in LAYOUTS.items():
        if ranks > 1:
            sent = launch(sent_bytes, ranks, layout, samples, arguments.micro_batches)
            cells = [f"{sent[k][0] / 1e6:.3f} ({sent[k][1]})" if k in sent else "-" for k in kinds]
            print(f"| {name} | {' | '.join(cells)} | {sum(size for size, _ in sent.values()) / 1e6:.3f} |", flush=True)


if __name__ == "__main__":
    main()
