"""Statistics of an autoencoder's latents on real clips, and how well it gives the clips back.

    python tools/measure_latents.py --data-path SHARDS --num-frames 17 --height 64 --width 96

Prints the mean, the root mean square (RMS) of each latent channel over the clips - of the lone first frame and of
the others - and the PSNR of the reconstruction. 1 / RMS of all is the --scale-factor that gives latents of unit
size. The line "normalised" is of latents as a model is trained on them: by --scale-factor, or as the autoencoder says.
"""

from vidtron.config import signals

if __name__ == "__main__":
    signals.listen_for_end()

import argparse
from collections.abc import Sequence

import torch

from vidtron.config.arguments import COUNT, location, number_in, path_name
from vidtron.config.data import DataConfig, EncoderConfig
from vidtron.config.errors import exit_with
from vidtron.config.ranges import field_range
from vidtron.data.decoding.loader import ClipLoader
from vidtron.data.decoding.pixels import to_uint8
from vidtron.data.planning.plan import Plan
from vidtron.data.shards.index import ShardIndex
from vidtron.encoders import normalisation_of, video_autoencoder
from vidtron.encoders.space_time import CAUSAL
from vidtron.inference.video_io import psnr


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, and measure the latents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", type=location, nargs="+", required=True, metavar="SHARDS")
    parser.add_argument("--vae-path", type=path_name, help="unset: the built-in space-time transform")
    parser.add_argument(
        "--scale-factor",
        type=number_in(float, field_range(EncoderConfig, "scale_factor")),
        help="unset: as the folder of --vae-path says",
    )
    parser.add_argument("--num-frames", type=number_in(int, field_range(DataConfig, "num_frames")), default=17)
    parser.add_argument("--height", type=number_in(int, field_range(DataConfig, "height")), default=64)
    parser.add_argument("--width", type=number_in(int, field_range(DataConfig, "width")), default=96)
    parser.add_argument("--clips", type=number_in(int, COUNT), default=64, help="at most so many")
    arguments = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = DataConfig(num_frames=arguments.num_frames, height=arguments.height, width=arguments.width)
    try:
        encoders = EncoderConfig(vae_path=arguments.vae_path, scale_factor=arguments.scale_factor)
        autoencoder = video_autoencoder(encoders, CAUSAL, device, torch.float32)
        normalisation = normalisation_of(encoders, autoencoder)
        autoencoder.geometry.latent_shape(*data.size)
        index = ShardIndex.open(arguments.data_path)
        plan = Plan.from_config(index, data, 0, sequential=True)
    except ValueError as error:
        exit_with(str(error).splitlines(), 0)
    clips = ClipLoader(plan, data, range(min(arguments.clips, len(index))), num_workers=0)
    latents, quality = [], []
    for clip in clips:
        frames_TCHW = clip.frames_TCHW
        assert frames_TCHW is not None
        video_CTHW = (frames_TCHW.float() / 127.5 - 1).permute(1, 0, 2, 3)
        latents_CTHW = autoencoder.encode(video_CTHW).mean_CTHW.cpu()
        latents.append(latents_CTHW)
        quality.append(psnr(to_uint8(autoencoder.decode(latents_CTHW)), frames_TCHW))
    first = autoencoder.geometry.first_latents
    parts = {"first": [one[:, :first] for one in latents], "others": [one[:, first:] for one in latents]}
    print("channel " + " ".join(f"{name + ' mean':>12}{name + ' RMS':>12}" for name in parts))
    flat = {name: torch.cat([one.flatten(1) for one in part], dim=1).double() for name, part in parts.items()}
    for channel in range(autoencoder.geometry.channels):
        values = [values[channel] for values in flat.values() if values.shape[1]]
        print(f"{channel:7} " + " ".join(f"{v.mean():12.3f}{v.square().mean().sqrt():12.3f}" for v in values))
    normalised = [normalisation.apply(one.transpose(0, 1)) for one in latents]
    for name, of in (("all", latents), ("normalised", normalised)):
        whole = torch.cat([one.flatten() for one in of]).double()
        print(f"{name}: mean {whole.mean():.4f}, RMS {whole.square().mean().sqrt():.4f}, of {len(latents)} clips")
    quality_T = torch.tensor(quality)
    print(f"reconstruction PSNR: mean {quality_T.mean():.2f} dB, {quality_T.min():.2f} to {quality_T.max():.2f}")


if __name__ == "__main__":
    signals.run_tool(main, "nothing was written")
