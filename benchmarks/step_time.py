"""A training step of our network and of diffusers' of the same size, in turns, in one process.

    OMP_NUM_THREADS=2 python benchmarks/step_time.py

Forward, backward, clipping by norm and AdamW, fp32 or bf16. The two take turns, so that what else the machine does
hits both alike; the ratio of the medians is the result.
"""

import argparse
import statistics
import time

import torch
from common import SyntheticBatch, describe_machine, forward_backward, run_config
from peers import diffusers_network, diffusers_step_inputs

from vidtron.config.world import World
from vidtron.diffusion.loss import mean_squared_error
from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.registry import family_of
from vidtron.parallel import initialized
from vidtron.training.assembly import assemble


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden-size", type=int, default=1024)
    parser.add_argument("--height", type=int, default=656, help="of the clip, 9 frames; sets the number of tokens")
    parser.add_argument("--width", type=int, default=736)
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()
    network = CogVideoXConfig(
        num_layers=arguments.layers,
        hidden_size=arguments.hidden_size,
        num_attention_heads=arguments.hidden_size // 64,
        time_embed_dim=512,
        text_length=226,
        text_width=512,
        position="rotary",
    )
    run = run_config(network, frames=9, height=arguments.height, width=arguments.width, bf16=arguments.bf16, lr=1e-4)
    batch = SyntheticBatch.of(run, samples=1)
    with initialized(run, World.from_environment()) as groups:
        model = assemble(family_of(run.model), run, groups)
        for chunk in model.chunks:
            chunk.train()

        def our_step() -> None:
            forward_backward(model, run, batch)
            model.update(model.gradient_norm())

        peer = diffusers_network(run)
        inputs = diffusers_step_inputs(run, batch)
        if arguments.bf16:
            peer = peer.to(torch.bfloat16)
            inputs["hidden_states"], inputs["encoder_hidden_states"] = batch.noisy.bfloat16(), batch.text.bfloat16()
        optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-4)

        def peer_step() -> None:
            optimizer.zero_grad()
            mean_squared_error(peer(**inputs)[0], batch.target).mean().backward()
            torch.nn.utils.clip_grad_norm_(peer.parameters(), 0.1)
            optimizer.step()

        times: dict[str, list[float]] = {"vidtron": [], "diffusers": []}
        for step in range(arguments.steps + 1):
            for name, function in (("vidtron", our_step), ("diffusers", peer_step)):
                start = time.perf_counter()
                function()
                if step:  # the first warms up
                    times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    flops = family_of(run.model).flops_per_sample(run)
    print("# Training step beside diffusers\n")
    print(describe_machine())
    print(
        f"hidden {network.hidden_size}, {network.num_layers} layers, "
        f"{family_of(run.model).tokens_per_sample(run)} tokens, {'bf16' if arguments.bf16 else 'fp32'}, "
        f"{torch.get_num_threads()} threads, median of {arguments.steps} steps\n"
    )
    print("| | seconds | model GFLOP/s |\n| --- | --- | --- |")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.3f} | {flops / seconds / 1e9:.0f} |")
    print(f"\nvidtron / diffusers: {medians['vidtron'] / medians['diffusers']:.3f}")


if __name__ == "__main__":
    main()
