"""Sample one training caption and hold the video against the clip it was learned from.

    python examples/quickstart/compare.py --load RUN --output FOLDER

Writes sample.mp4 and comparison.png (the clip, its reconstruction by the autoencoder, the sample) and prints the PSNR
of both against the clip.
"""

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.data.shards.index import ShardIndex
from vidtron.data.decoding.loader import ClipLoader
from vidtron.data.planning.plan import Plan
from vidtron.encoders.factory import video_autoencoder
from vidtron.inference.config import SamplingConfig
from vidtron.inference.prompts import Prompt
from vidtron.inference.run import Video, sample, sampled_run
from vidtron.data.decoding.pixels import to_uint8
from vidtron.inference.video_io import contact_sheet, psnr, write_video
from vidtron.models.registry import family_of


def training_clip(run: RunConfig, number: int) -> tuple[str, torch.Tensor]:
    """Caption and frames [T, C, H, W] of a clip of the training shards, cut as in training."""
    plan = Plan.from_config(ShardIndex.open(run.data.data_path), run.data, run.training.seed, sequential=True)
    clip = next(ClipLoader(plan, run.data, [number], num_workers=0))
    assert clip.frames_TCHW is not None
    return clip.caption, clip.frames_TCHW


def reconstruction(run: RunConfig, frames_TCHW: torch.Tensor) -> torch.Tensor:
    """The clip through the autoencoder and back, uint8 [T, C, H, W]."""
    autoencoder = video_autoencoder(run.encoders, family_of(run.model).geometry(run), "cpu", torch.float32)
    video_CTHW = frames_TCHW.transpose(0, 1).float() / 127.5 - 1
    return to_uint8(autoencoder.decode(autoencoder.encode(video_CTHW).mean_CTHW))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=Path, required=True, metavar="RUN", help="run folder")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for the video and the picture")
    parser.add_argument("--clip", type=int, default=0, metavar="N", help="number of the clip in the shards")
    parser.add_argument("--sampling-steps", type=int, default=5)
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    world = World.from_environment()
    config = SamplingConfig(
        arguments.load, sampling_steps=arguments.sampling_steps, guidance_scale=arguments.guidance_scale
    )
    run = sampled_run(config, world)
    caption, clip = training_clip(run, arguments.clip)
    reconstructed = reconstruction(run, clip)
    sampled: list[Video] = []
    failures = sample(
        config,
        run,
        world,
        [Prompt(caption, number=0, seed=config.seed)],
        sampled.append,
        progress=lambda _, steps: tqdm(steps, disable=not sys.stderr.isatty(), unit="step"),
    )
    if failures:
        parser.exit(1, f"no sample: {failures[0].reason}\n")
    video = sampled[0]
    write_video(arguments.output / "sample.mp4", video.frames_TCHW, video.fps)
    rows = [("clip", clip), ("encoded and decoded", reconstructed), ("sample", video.frames_TCHW)]
    contact_sheet(rows, arguments.output / "comparison.png", enlarge=2)
    print(f'caption: "{caption}"')
    print(f"PSNR against the clip: encoded and decoded {psnr(reconstructed, clip):.1f} dB, "
          f"sample {psnr(video.frames_TCHW, clip):.1f} dB")  # fmt: skip
    print(f"written: {arguments.output / 'sample.mp4'}, {arguments.output / 'comparison.png'}")


if __name__ == "__main__":
    main()
