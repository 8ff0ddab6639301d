"""A training step of all weights, and of adapters beside frozen ones, in turns, in one process.

    OMP_NUM_THREADS=1 python benchmarks/lora.py

Processor seconds of a step (forward, backward, clipping, AdamW), which other programs on the machine lengthen less
than they do its duration; and what a run holds besides the weights: gradients and optimizer state, and the tensors
kept for the backward pass.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import FAMILY, SyntheticBatch, describe_machine, forward_backward, run_config
from traffic import SavedTensors

from vidtron.config.world import World
from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.inputs import ModelInput
from vidtron.models.registry import family_of
from vidtron.parallel import Groups, initialized
from vidtron.training.assembly import TrainedModel, assemble

NETWORK = CogVideoXConfig(
    num_layers=6, hidden_size=512, num_attention_heads=8, time_embed_dim=512, text_length=226, text_width=512,
    position="rotary",
)  # fmt: skip
CLIP = {"frames": 9, "height": 352, "width": 400}
"""226 text tokens and 3 x 22 x 25 of video: 1,876."""
EVERY_MAP = [target.flag for target in family_of(FAMILY).lora_targets]
CASES: dict[str, dict[str, Any]] = {
    "all weights": {},
    "adapters on attention": {"lora_rank": 16},
    "the same, dropout 0.1": {"lora_rank": 16, "lora_dropout": 0.1},
    "adapters on every map": {"lora_rank": 16, "lora_target_modules": EVERY_MAP},
}


def held_bytes(model: TrainedModel) -> int:
    """Bytes of fp32 gradients and of AdamW's two moments."""
    trained = [p for chunk in model.chunks for p in chunk.parameters() if p.requires_grad]
    return sum(3 * 4 * parameter.numel() for parameter in trained)


def saved_bytes(model: TrainedModel, batch: SyntheticBatch) -> int:
    """Bytes kept between forward and backward pass, weights not counted."""
    saved, chunk = SavedTensors(), model.chunks[0]
    with saved.watching():
        output = chunk(inputs=ModelInput.of(batch.noisy, batch.timesteps, batch.text, positions=(0,)))
    parameters = list(chunk.parameters())
    size = saved.bytes([*parameters, *(p.data for p in parameters), batch.noisy, batch.text])
    del output
    return size


def prepared(flags: dict[str, Any], groups: Groups) -> tuple[Callable[[], None], int, int]:
    """A function that runs a step, and the bytes held and saved."""
    run = run_config(NETWORK, **CLIP, lr=1e-4, **flags)
    batch = SyntheticBatch.of(run, samples=1)
    model = assemble(family_of(run.model), run, groups)
    model.chunks[0].train()

    def step() -> None:
        forward_backward(model, run, batch)
        model.update(model.gradient_norm())

    return step, held_bytes(model), saved_bytes(model, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    run = run_config(NETWORK, **CLIP)
    with initialized(run, World.from_environment()) as groups:
        cases = {name: prepared(flags, groups) for name, flags in CASES.items()}
        times: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(arguments.steps + 1):
            for name, (step, _, _) in cases.items():
                start = time.process_time()
                step()
                if number:  # the first warms up
                    times[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print("# Adapters beside frozen weights\n")
    print(describe_machine())
    print(
        f"hidden {NETWORK.hidden_size}, {NETWORK.num_layers} layers, {family_of(run.model).tokens_per_sample(run)} "
        f"tokens, rank 16, fp32, {torch.get_num_threads()} threads, median of {arguments.steps} steps\n"
    )
    print("| trained | processor seconds | of all weights | gradients and moments, MiB | kept for backward, MiB |")
    print("| --- | --- | --- | --- | --- |")
    for name, (_, held, saved) in cases.items():
        ratio = medians[name] / medians["all weights"]
        print(f"| {name} | {medians[name]:.2f} | {ratio:.2f} | {held / 2**20:.1f} | {saved / 2**20:.0f} |")


if __name__ == "__main__":
    main()
