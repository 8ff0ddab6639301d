"""Pretrain or fine-tune a video diffusion transformer.

    torchrun --nproc-per-node 2 pretrain_video.py --model cogvideox-tiny --data-path SHARDS \
        --tensor-model-parallel-size 2 --sequence-parallel --train-iters 20 --save DIR

Plain `python pretrain_video.py` trains on one rank. `--help` lists all flags.
"""

import sys
from collections.abc import Sequence

from vidtron.config import check as config_check
from vidtron.config.cli import parse
from vidtron.config.errors import ConfigurationError, collect_errors, refuse
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.models.registry import family_of, preset, preset_names


def errors_of(config: RunConfig, world: World) -> list[str]:
    """Everything that every room finds wrong with a configuration."""
    from vidtron import data, encoders, parallel, training

    family = family_of(config.model)
    network = config.network

    def check_encoders(config: RunConfig, world: World) -> list[str]:
        return encoders.check(config, world, text_width=network.text_width, latent_channels=network.out_channels)

    def check_data(config: RunConfig, world: World) -> list[str]:
        return data.check(config, world, training.clip_fit(family, config))

    rooms = (config_check.check, parallel.check, family.check, check_encoders, check_data, training.check)
    return collect_errors(rooms, config, world)


def main(argv: Sequence[str]) -> None:
    """Parse, check, train. Exits with status 2 where the configuration is refused."""
    config = parse(argv, preset, preset_names())
    world = World.from_environment()
    refuse(errors_of(config, world), world)

    from vidtron import training
    from vidtron.checkpoint import CheckpointError, ConversionError

    try:
        training.run(config, world)
    except ConfigurationError as error:  # what only the opened encoders could tell
        refuse(error.errors, world)
    except (CheckpointError, ConversionError) as error:  # what only reading all of the checkpoint could tell
        refuse(str(error).splitlines(), world)


# A process that is started by spawning (background saves under some versions) imports this file again.
if __name__ == "__main__":
    main(sys.argv[1:])
