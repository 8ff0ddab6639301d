"""Every command that reads a checkpoint refuses one that asks for code or is cut off: status 2, one line."""

import contextlib
import io
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.checkpoint import gadgets
from tests.checkpoint.checkpoints import copy_sat, rank_file
from tests.checkpoint.test_gadgets import plant, seal
from tests.training.small import small_run
from vidtron import checkpoint, training
from vidtron.config.world import World

ROOT = Path(__file__).parents[2]
WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)
PRETRAIN, SAMPLE = "pretrain_video.py", "tools/sample_video.py"
CONVERT, LORA = "tools/convert_checkpoint.py", "tools/convert_lora.py"
LORA_FLAGS = ("--lora-rank", "2", "--lora-alpha", "3", "--save-lora-only")


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """A run with an average of its weights, and one of adapters alone on top of it."""
    folder = tmp_path_factory.mktemp("trained")
    training.run(small_run(shards, save=folder / "run", train_iters=1, ema_decay=[0.9]), WORLD)
    flags = {"lora_rank": 2, "lora_alpha": 3.0, "save_lora_only": True}
    training.run(
        small_run(shards, save=folder / "lora", load=folder / "run", finetune=True, train_iters=1, **flags), WORLD
    )
    return folder


@pytest.fixture
def place(trained, tmp_path):
    """Copies to damage, and a SAT folder and a SAT file of adapters; the adapters' base is named, not copied."""
    shutil.copytree(trained, tmp_path / "here")
    copy_sat("2b", tmp_path / "here" / "sat")
    shutil.copyfile(rank_file(tmp_path / "here" / "sat"), tmp_path / "here" / "lora.pt")
    return tmp_path / "here"


def arguments(place: Path) -> dict[str, tuple[str, Path, list[object]]]:
    """What is done -> script, checkpoint or file that it reads, arguments."""
    run, lora, out = place / "run", place / "lora", place / "out"
    pretrain = ["--config", run / "config.yaml", "--train-iters", 3]
    sample = ["--prompt", "a street", "--output", out, "--sampling-steps", 2]
    convert = ["--save", out, "--save-format", "diffusers"]
    return {
        "load": (PRETRAIN, run, [*pretrain, "--load", run, "--save", out]),
        "finetune": (PRETRAIN, run, [*pretrain, "--load", run, "--save", out, "--finetune"]),
        "resume": (PRETRAIN, run, [*pretrain, "--load", run, "--save", run]),
        "LoRA base": (
            PRETRAIN,
            run,
            ["--config", lora / "config.yaml", "--train-iters", 3, "--no-finetune", "--load", lora, "--save", out,
             "--lora-base", run],
        ),
        "load SAT": (PRETRAIN, place / "sat", [*pretrain, "--load", place / "sat", "--save", out]),
        "lora-load": (
            PRETRAIN,
            place / "lora.pt",
            [*pretrain, "--load", run, "--finetune", "--save", out, "--lora-load", place / "lora.pt", *LORA_FLAGS],
        ),
        "sample": (SAMPLE, run, ["--load", run, *sample]),
        "sample an average": (SAMPLE, run, ["--load", run, "--ema", "0.9", *sample]),
        "sample SAT": (SAMPLE, place / "sat", ["--load", place / "sat", *sample]),
        "convert": (CONVERT, run, ["--load", run, "--load-format", "megatron", *convert]),
        "convert an average": (CONVERT, run, ["--load", run, "--load-format", "megatron", "--ema", "0.9", *convert]),
        "convert SAT": (CONVERT, place / "sat", ["--load", place / "sat", "--load-format", "sat", *convert]),
        "convert with a LoRA base": (
            CONVERT,
            run,
            ["--load", lora, "--load-format", "megatron", "--lora-base", run, *convert],
        ),
        "convert adapters": (LORA, lora, ["--load", lora, "--load-format", "megatron", *convert]),
        "convert adapters of SAT": (
            LORA,
            place / "lora.pt",
            ["--load", place / "lora.pt", "--load-format", "sat", *convert],
        ),
    }  # fmt: skip


DONE = list(arguments(Path()))


def harmed(path: Path, harm: str, marker: Path) -> str:
    """Put a gadget into a file, or cut it off; gives the file's name."""
    name, _, kind = harm.partition(" ")
    if path.name == "lora.pt" or path.name == "sat":
        file = path if path.is_file() else rank_file(path)
    else:
        folder = checkpoint.latest(path)
        file = folder / name
        if kind in ("tensors", "objects"):
            plant(folder, gadgets.gadgets(marker)["os.system"], objects=kind == "objects")
            return file.name
    if kind == "cut off":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        content = gadgets.gadgets(marker)[kind]
        file.write_bytes(content if file.name == ".metadata" else gadgets.as_torch_file(content))
    if path.is_dir() and path.name != "sat":
        seal(file.parent)
    return file.name


def in_this_process(script: str, words: list[object]) -> tuple[int, str]:
    """(exit status, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", [script, *map(str, words)]):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(str(ROOT / script), run_name="__main__")
            except SystemExit as exit_:
                return exit_.code or 0, err.getvalue()
    return 0, err.getvalue()


def assert_refused(status: int, err: str, file: str, marker: Path) -> None:
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(told) == 1 and file in told[0] and "Traceback" not in err, (status, err)
    assert not marker.exists()


HARMS = (
    ".metadata Popen behind dots of an allowed module",
    ".metadata getattr chain",
    ".metadata cut off",
    "common.pt os.system",
    "common.pt cut off",
    "metadata.json cut off",
    "__0_0.distcp tensors",
    "__0_0.distcp cut off",
)


@pytest.mark.parametrize("done", DONE)
def test_refused(done, place, tmp_path):
    marker = tmp_path / "marker"
    script, path, words = arguments(place)[done]
    folder = checkpoint.latest(path) if path.is_dir() else None
    harms = [harm for harm in HARMS if folder and (folder / harm.split()[0]).exists()]  # mcore 0.19 has no common.pt
    for harm in harms or (".pt os.system", ".pt cut off"):
        if folder:
            shutil.copytree(folder, tmp_path / "whole")
        file = harmed(path, harm, marker)
        assert_refused(*in_this_process(script, words), file, marker)
        assert not (place / "out").exists() or not any((place / "out").glob("iter_*"))
        if folder:
            shutil.rmtree(folder)
            (tmp_path / "whole").rename(folder)


@pytest.mark.slow
@pytest.mark.parametrize("done", ["load", "sample", "convert", "convert adapters"])
def test_refused_as_users_start_it(done, place, tmp_path):
    script, path, words = arguments(place)[done]
    marker = tmp_path / "marker"
    file = harmed(path, ".metadata os.system", marker)
    ended = subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, words)], capture_output=True, text=True, cwd=ROOT
    )
    assert_refused(ended.returncode, ended.stderr, file, marker)
