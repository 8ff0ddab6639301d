"""A training step of our network beside another one's, in turns: diffusers' of the same size, or another checkout's.

    OMP_NUM_THREADS=2 python benchmarks/step_time.py [--bf16]
    OMP_NUM_THREADS=2 python benchmarks/step_time.py [--bf16] --against PATH_OF_OTHER_CHECKOUT

Forward, backward, clipping by norm and AdamW. The two take turns, so that what else the machine does hits both alike;
the ratio of the medians is the result. With --bf16 both networks compute in bf16; vidtron also keeps fp32 weights and
gradients, as it does in training, where diffusers' AdamW steps in bf16.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from checkout_step import ours, size_arguments, words_of
from common import SyntheticBatch, describe_machine
from peers import diffusers_network, diffusers_step_inputs
from turns import beside_checkout

from vidtron.diffusion.loss import mean_squared_error
from vidtron.models.registry import family_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--against", type=Path, help="a checkout of vidtron, which takes turns with this one")
    size_arguments(parser)
    arguments = parser.parse_args()
    if arguments.against is not None:
        print(beside_checkout(arguments.against, words_of(arguments), arguments.steps))
        return
    with ours(arguments) as (run, our_step):
        batch = SyntheticBatch.of(run, samples=1)
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
    network = run.network
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
