"""Pretrain or fine-tune a video diffusion transformer.

    torchrun --nproc-per-node 2 pretrain_video.py --model cogvideox-tiny --data-path SHARDS \
        --tensor-model-parallel-size 2 --sequence-parallel --train-iters 20 --save DIR

Plain `python pretrain_video.py` trains on one rank. `--help` lists all flags.
"""

import signal
import sys
from collections.abc import Sequence

from vidtron.config import signals, storage

# Here, for what follows imports torch. A process that is started by spawning (background saves under some versions)
# imports this file again.
if __name__ == "__main__":
    signals.listen_for_stop()

from vidtron.config.cli import parse
from vidtron.config.errors import ConfigurationError, exit_with, refuse
from vidtron.config.run import RunConfig
from vidtron.config.storage import StorageError
from vidtron.config.world import World
from vidtron.models.registry import preset, preset_names, with_plugins
from vidtron.recipe.choices import choices


def configured(argv: Sequence[str]) -> tuple[RunConfig, World]:
    """Parse and check. Exits with status 2 where the configuration is refused."""
    with_plugins(argv)
    config = parse(argv, preset, preset_names(), choices=choices())
    world = World.of_launcher()

    from vidtron.training.run_checks import errors_of  # imports torch, which --help need not wait for

    refuse(errors_of(config, world), world)
    return config, world


def main(argv: Sequence[str]) -> None:
    """Parse, check, train.

    Exits with status 2 where the configuration is refused, 1 where something cannot be written (a full disk) or data
    has become unreadable, 130 where Ctrl-C came a second time. Asked to stop, it saves and exits with status 0.
    """
    config, world = configured(argv)

    from vidtron import training
    from vidtron.checkpoint import CheckpointError, ConversionError
    from vidtron.data.errors import ShardError
    from vidtron.data.latents.header import LatentCacheError

    try:
        training.run(config, world)
    except ConfigurationError as error:  # what only the opened encoders could tell
        refuse(error.errors, world)
    except (CheckpointError, ConversionError) as error:  # what only reading all of the checkpoint could tell
        refuse(str(error).splitlines(), world)
    except (ShardError, LatentCacheError) as error:  # data that has become unreadable; only this rank may know
        print(*(f"error: {line}" for line in str(error).splitlines()), sep="\n", file=sys.stderr, flush=True)
        raise SystemExit(1) from error
    except StorageError as error:
        exit_with([str(error)], world.rank, storage.EXIT_STATUS)
    except KeyboardInterrupt:
        if world.rank == 0:
            print("interrupted again: left at once; earlier checkpoints are as they were", file=sys.stderr, flush=True)
        raise SystemExit(signals.status_of(signal.SIGINT)) from None


if __name__ == "__main__":
    main(sys.argv[1:])
