"""Time to encode a global batch when the ranks of one replica share it.

    OMP_NUM_THREADS=1 python benchmarks/encode_sharing.py

One replica of 1, 2 and 4 ranks. Each rank encodes its share of the batch's clips with an AutoencoderKLCogVideoX of
random weights (or --vae-path), then all of them exchange latents, noise and embeddings, as in training. The clips are
in memory: nothing is decoded. Each rank computes in one thread, so that a machine with four free cores shows the
whole gain.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from common import describe_machine, launch, run_config

from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.data.decoding.loader import Clip
from vidtron.data.planning.buckets import single_bucket
from vidtron.encoders import text_encoders, video_autoencoder
from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.registry import family_of
from vidtron.parallel import barrier, initialized
from vidtron.training.batches import BatchSource
from vidtron.training.exchange import ReplicaExchange
from vidtron.training.rank_share import RankShare
from vidtron.training.sample_maker import SampleMaker
from vidtron.training.step_plan import Step

NETWORK = CogVideoXConfig(
    num_layers=2, hidden_size=128, num_attention_heads=4, time_embed_dim=128, text_length=226, text_width=512
)
RANKS = (1, 2, 4)


def make_autoencoder(folder: Path, channels: int) -> Path:
    """CogVideoX's autoencoder with fewer channels and random weights."""
    from diffusers import AutoencoderKLCogVideoX

    torch.manual_seed(0)
    levels = 4
    AutoencoderKLCogVideoX(
        block_out_channels=(channels,) * levels,
        latent_channels=16,
        layers_per_block=1,
        norm_num_groups=channels // 4,
        down_block_types=("CogVideoXDownBlock3D",) * levels,
        up_block_types=("CogVideoXUpBlock3D",) * levels,
    ).save_pretrained(folder)
    return folder


class ReadyClips(Iterator[Clip]):
    """Stands for a loader that is always ahead."""

    wait_seconds = decode_seconds = read_seconds = 0.0

    def __init__(self, positions: Iterator[int], step: Step) -> None:
        self.positions = positions
        self.step = step
        size = step.clip_size
        generator = torch.Generator().manual_seed(0)
        shape = (size.num_frames, 3, size.height, size.width)
        self.frames_TCHW = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    def __next__(self) -> Clip:
        position, bucket = next(self.positions), self.step.bucket
        return Clip(
            position, position, f"clip{position}", "a moving picture", bucket.size, bucket,
            tuple(range(bucket.size.num_frames)), self.frames_TCHW, None, (),
        )  # fmt: skip


def seconds_per_batch(run: RunConfig, ranks: int, batch: int, batches: int) -> list[float]:
    """Job: seconds of each batch; the first one, in which everything starts, is left out."""
    torch.set_num_threads(1)
    run.parallel.tensor_model_parallel_size = ranks
    run.training.global_batch_size, run.training.micro_batch_size = batch, 1
    family, bucket = family_of(run.model), single_bucket(run.data.size).buckets[0]
    steps = [Step(number * batch, batch, bucket) for number in range(batches + 1)]
    with initialized(run, World.from_environment()) as groups:
        maker = SampleMaker(
            run,
            partial(family.inputs, run),
            video_autoencoder(run.encoders, family.geometry(run), groups.device, torch.float32),
            text_encoders(run.encoders, family.texts(run), groups.device, torch.float32),
            groups.device,
            seed=0,
        )
        share = RankShare.from_config(run, replica=0, replicas=1, rank=groups.replica_rank, ranks=groups.replica_size)
        source = BatchSource(
            ReadyClips(share.owned_positions(steps), steps[0]),
            maker,
            share,
            ReplicaExchange(groups.exchange, groups.device),
            timesteps=lambda step, positions: torch.zeros(len(positions)),
            steps=steps,
        )
        seconds = []
        for _ in steps:
            barrier(groups)
            start = time.perf_counter()
            next(source)
            barrier(groups)
            seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="clips of a global batch")
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--vae-path", type=Path, help="unset: random weights")
    parser.add_argument("--channels", type=int, default=32, help="of the random autoencoder, a multiple of 4")
    arguments = parser.parse_args()
    run = run_config(NETWORK, frames=arguments.frames, height=arguments.height, width=arguments.width)
    with tempfile.TemporaryDirectory() as folder:
        run.encoders.vae_path = arguments.vae_path or make_autoencoder(Path(folder), arguments.channels)
        medians = {
            ranks: statistics.median(launch(seconds_per_batch, ranks, run, ranks, arguments.batch, arguments.batches))
            for ranks in RANKS
        }
    print("# Encoding shared by the ranks of a replica\n")
    print(describe_machine())
    print(
        f"{arguments.batch} clips of {arguments.frames} x {arguments.height} x {arguments.width}, one thread a rank, "
        f"median of {arguments.batches} batches\n"
    )
    print("| ranks | seconds a batch | of one rank's | equal shares |\n| --- | --- | --- | --- |")
    for ranks, seconds in medians.items():
        print(f"| {ranks} | {seconds:.3f} | {seconds / medians[1]:.3f} | {1 / ranks:.3f} |")


if __name__ == "__main__":
    main()
