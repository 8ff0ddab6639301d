"""Checkpoints that one interpreter writes and another reads: python -m tests.exchange write|read FOLDER [OUT].

`write` trains two steps and saves each; `read` trains on from there, in a copy, and converts the checkpoint to
diffusers' format. tests/on_each_interpreter.sh runs every pair.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.shards import write_shards

ROOT = Path(__file__).parents[1]


def train(folder: Path, steps: int) -> None:
    """Up to `steps` steps, from the checkpoint in `folder` if there is one."""
    run("pretrain_video.py", "--model", "cogvideox-tiny", "--num-frames", "17", "--height", "64", "--width", "96",
        "--data-path", folder / "shards", "--global-batch-size", "2", "--train-iters", steps, "--lr-warmup-iters", "0",
        "--save", folder / "run", "--load", folder / "run", "--save-interval", "1", "--num-workers", "0")  # fmt: skip


def run(*command: object) -> None:
    """A program of ours under this interpreter."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}\n{done.stderr}")


def write(folder: Path) -> None:
    """Clips and a run of two steps."""
    folder.mkdir()
    write_shards(folder / "shards")
    train(folder, 2)


def read(folder: Path, out: Path) -> None:
    """Two steps more, and the weights in diffusers' format, which vidtron's own reader must take."""
    from vidtron import checkpoint
    from vidtron.checkpoint.formats import open_weights

    shutil.copytree(folder, out)
    train(out, 4)
    latest = checkpoint.latest(out / "run")
    if latest is None or latest.name != "iter_0000004":
        raise SystemExit(f"{out / 'run'}: the newest checkpoint is {latest}, not that of iteration 4")
    for load_format, source, save_format, target in (
        ("megatron", folder / "run", "diffusers", out / "diffusers"),
        ("diffusers", out / "diffusers", "megatron", out / "again"),
    ):
        run("tools/convert_checkpoint.py", "--load-format", load_format, "--load", source,
            "--save-format", save_format, "--save", target, "--verify")  # fmt: skip
    theirs, ours = open_weights(folder / "run"), open_weights(out / "again")
    for row in theirs.rows:
        if not theirs.read(row.ours).equal(ours.read(row.ours)):
            raise SystemExit(f"{out / 'again'}: {row.ours} is not what it was")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", folder]:
            write(Path(folder))
        case ["read", folder, out]:
            read(Path(folder), Path(out))
        case _:
            raise SystemExit(__doc__)
