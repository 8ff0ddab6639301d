"""Encode the clips and captions of shards ahead of training.

    torchrun --nproc-per-node 8 tools/encode_latents.py --model cogvideox-2b --data-path SHARDS \
        --vae-path VAE --text-encoder-path T5 --bf16 --latent-cache CACHE

Takes the flags of pretrain_video.py, best the very same: those of data, encoders, model, precision and --seed decide
what is encoded, the others are passed over. CACHE then holds one tar of latents for each shard. Run the same command
again, with any number of ranks, to finish what was interrupted; finished shards are skipped.

Each sample is encoded once, for its bucket of epoch 0. Where keep probabilities send samples to other buckets in
other epochs, training meets sizes that are not in the cache; it encodes these on the way and adds them.

Exit status: 0 done (samples that cannot be read are named in CACHE/skipped.jsonl), 1 the cache cannot be written,
2 refused.
"""

from vidtron.config import signals

if __name__ == "__main__":
    signals.listen_for_end()

import sys
from collections.abc import Sequence

from vidtron.config import check as config_check
from vidtron.config.cli import parse
from vidtron.config.errors import ConfigurationError, collect_errors, refuse
from vidtron.config.run import RunConfig
from vidtron.config.storage import StorageError
from vidtron.config.world import World
from vidtron.data.building.terminal import TerminalProgress
from vidtron.data.errors import ShardError
from vidtron.data.latents.header import LatentCacheError
from vidtron.models.registry import family_of, preset, preset_names, with_plugins
from vidtron.recipe.choices import choices

_ABOUT = (__doc__ or "").replace("\n\n", "\0").replace("\n", " ").replace("\0", "\n\n")


def errors_of(config: RunConfig, world: World) -> list[str]:
    """Errors in the data and the encoders of a configuration."""
    from vidtron import data, encoders, training

    family = family_of(config.model)

    def check_cache(config: RunConfig, world: World) -> list[str]:
        return [] if config.encoders.latent_cache is not None else ["--latent-cache: missing; accepted: a folder"]

    def check_encoders(config: RunConfig, world: World) -> list[str]:
        return encoders.check(config, world, family.geometry(config), family.texts(config))

    def check_data(config: RunConfig, world: World) -> list[str]:
        return data.check(config, world, training.clip_fit(family, config))

    return collect_errors((check_cache, config_check.check_values, check_encoders, check_data), config, world)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, check it, and encode the latents."""
    words = sys.argv[1:] if argv is None else argv
    with_plugins(words)
    given = parse(words, preset, preset_names(), "encode_latents.py", _ABOUT, choices=choices())
    world = World.of_launcher()
    refuse(errors_of(given, world), world)

    from vidtron.training.encode_shards import Progress, encode_shards, encoding_run

    bar = TerminalProgress(shown=world.rank == 0)
    progress = Progress(lambda samples: bar.begin(samples, 0), bar.sample, bar.shard)
    try:
        result = encode_shards(encoding_run(given, world), world, progress)
    except ConfigurationError as error:
        refuse(error.errors, world)
        raise
    except ShardError as error:
        refuse([str(error)], world)
    except LatentCacheError as error:  # of this rank alone
        raise StorageError("\n".join(error.errors)) from error
    finally:
        bar.close()
    if world.rank == 0:
        before = f", {result.finished_before} of them finished before" if result.finished_before else ""
        print(f"{given.encoders.latent_cache}: {result.shards} shards{before}")
        if result.skipped:
            print(f"{result.skipped} samples cannot be read; {given.encoders.latent_cache}/skipped.jsonl names them")


if __name__ == "__main__":
    signals.run_tool(main, "the same command goes on; finished shards are kept")
