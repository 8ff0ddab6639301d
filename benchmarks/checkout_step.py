"""The training step that `step_time.py` measures, of whichever checkout of vidtron stands first in PYTHONPATH.

As a program it makes one step, and says how many seconds it took, for each line that it is given. It uses nothing of
vidtron that is not older than itself, so that it can measure a checkout from before it.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common import SyntheticBatch, forward_backward, run_config

from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.registry import family_of
from vidtron.parallel import initialized
from vidtron.training.assembly import assemble


def size_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the size of the trained network and its clips."""
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden-size", type=int, default=1024)
    parser.add_argument("--height", type=int, default=656, help="of the clip, 9 frames; sets the number of tokens")
    parser.add_argument("--width", type=int, default=736)
    parser.add_argument("--bf16", action="store_true")


def words_of(arguments: argparse.Namespace) -> list[str]:
    """The command line of `size_arguments` again."""
    words = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in ("layers", "hidden_size")]
    words += [f"--{name}={getattr(arguments, name)}" for name in ("height", "width")]
    return words + (["--bf16"] if arguments.bf16 else [])


@contextlib.contextmanager
def ours(arguments: argparse.Namespace) -> Iterator[tuple[RunConfig, Callable[[], None]]]:
    """The run, and one step of it: forward, backward, clipping and update."""
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

        def step() -> None:
            forward_backward(model, run, batch)
            model.update(model.gradient_norm())

        yield run, step


def main() -> None:
    """Serve steps until the lines end."""
    import vidtron

    parser = argparse.ArgumentParser(description=__doc__)
    size_arguments(parser)
    with ours(parser.parse_args()) as (_, step):
        step()  # warms up
        print(Path(vidtron.__file__).resolve().parents[1], flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            step()
            print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
