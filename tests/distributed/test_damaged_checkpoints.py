"""What commands and runs of several ranks do with damaged checkpoints, and with weights that are not finite."""

import random
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.checkpoint.checkpoints import PLAIN_STATE, diffusers
from tests.checkpoint.damages import damage, damaged_copy, without_checksums
from tests.distributed.toy import Layout, Toy
from tests.training.small import small_run
from vidtron import checkpoint, training
from vidtron.checkpoint import manifest
from vidtron.config import yaml_file
from vidtron.config.errors import ConfigurationError
from vidtron.config.world import World
from vidtron.parallel import initialized

ROOT = Path(__file__).parents[2]
FILES = ("__0_0.distcp", ".metadata", "metadata.json", "config.yaml", "checksums.json")
LORA = {"lora_rank": 2, "lora_alpha": 2.0, "save_lora_only": True}


def train(rank: int, run) -> training.TrainingResult:
    return training.run(run, World.from_environment())


def train_aloud(rank: int, run, log: Path) -> list[float]:
    """Losses; what the run says goes into a file."""
    with log.open("a") as file:
        out, sys.stdout = sys.stdout, file
        try:
            return train(rank, run).losses
        finally:
            sys.stdout = out


def refused_training(rank: int, run) -> list[str]:
    try:
        train(rank, run)
    except ConfigurationError as error:
        return error.errors
    return []


@pytest.fixture(scope="module")
def run_folder(pool, shards, tmp_path_factory) -> Path:
    """Checkpoints after steps 1, 2 and 3, each with files of two ranks, written in the background."""
    folder = tmp_path_factory.mktemp("run") / "run"
    flags = {"save_interval": 1, "async_save": True, "use_distributed_optimizer": True, "ema_decay": [0.9]}
    pool.run(train, 2, small_run(shards, save=folder, train_iters=3, **flags))
    return folder


@pytest.fixture(scope="module")
def adapters(pool, shards, run_folder, tmp_path_factory) -> Path:
    """A run of adapters on the weights of the other."""
    folder = tmp_path_factory.mktemp("adapters") / "run"
    pool.run(train, 1, small_run(shards, load=run_folder, finetune=True, save=folder, train_iters=1, **LORA))
    return folder


def inspected(rank: int, folder: Path) -> checkpoint.Inspection:
    """Job: what the ranks find together."""
    with initialized(Layout(dp=2).run_config(), World.from_environment()) as groups:
        return checkpoint.shared_inspect(folder, groups)


def test_ranks_share_the_reading(pool, tmp_path):
    """A file of three blocks, two ranks; the last block is damaged, then all are: all ranks tell the same once."""
    folder = tmp_path / "iter_0000001"
    folder.mkdir()
    size = 2 * manifest.BLOCK_BYTES + 10
    with manifest.HashingFile(folder / "__0_0.distcp") as file:
        file.write(bytes(size))
    manifest.write(folder, {"__0_0.distcp": file.checksums()}, finite=False)
    assert pool.run(inspected, 2, folder) == [checkpoint.Inspection([], finite=False)] * 2
    for place, first, last in ((size - 1, 2 * manifest.BLOCK_BYTES, size), (0, 0, manifest.BLOCK_BYTES)):
        with (folder / "__0_0.distcp").open("r+b") as damaged:
            damaged.seek(place)
            damaged.write(b"x")
        message = f"{folder / '__0_0.distcp'}: damaged: bytes {first:,} to {last:,} are not those that were written"
        assert pool.run(inspected, 2, folder) == [checkpoint.Inspection([message], finite=False)] * 2


def test_each_rank_hashes_what_it_writes(run_folder):
    for path in checkpoint.completed(run_folder):
        written = manifest.read(path)
        assert written is not None
        assert {"__0_0.distcp", "__1_0.distcp"} < written.files.keys()
        for name, entry in written.files.items():
            assert entry == manifest.checksums_of(path / name), name


@pytest.mark.parametrize("layout", [{}, {"tensor_model_parallel_size": 2}], ids=["DP2", "TP2"])
def test_a_run_goes_on_from_the_newest_undamaged_checkpoint(pool, shards, run_folder, tmp_path, layout):
    """The newest lacks a file, and bytes of the one before are others: all ranks go on from the first."""
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    draw = random.Random(5)
    damage(folder / "iter_0000003" / ".metadata", draw, "gone")
    damage(folder / "iter_0000002" / "__1_0.distcp", draw, "overwritten")
    flags = {"save": folder, "load": folder, "train_iters": 3, "use_distributed_optimizer": True, "ema_decay": [0.9]}
    flags |= {"save_interval": 1, **layout}
    log = tmp_path / "log"
    losses = pool.run(train_aloud, 2, small_run(shards, **flags), log)
    assert [len(part) for part in losses] == [2, 2]
    said = log.read_text()
    assert f"passed over {folder / 'iter_0000003' / '.metadata'}: missing" in said
    assert f"passed over {folder / 'iter_0000002' / '__1_0.distcp'}: damaged: bytes 0 to " in said
    assert "continuing after step 1 " in said
    # They have been written again in the meantime.
    assert [checkpoint.inspect(path).damage for path in checkpoint.completed(folder)] == [[], [], []]
    damage(folder / "iter_0000002" / "__1_0.distcp", draw, "overwritten")
    named = small_run(shards, **{**flags, "save": None, "save_interval": None, "load": folder / "iter_0000002"})
    for errors in pool.run(refused_training, 2, named):
        (error,) = errors
        assert error.startswith(f"--load: {folder / 'iter_0000002' / '__1_0.distcp'}: damaged: bytes 0 to ")
    assert pool.run(refused_training, 2, small_run(shards, **{**flags, "train_iters": 4})) == [[], []]


def main_of(script: str, *arguments: object) -> int:
    """Exit status of a command, run in this process."""
    former, sys.argv = sys.argv, [script, *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as ending:
        return 1 if isinstance(ending.code, str) else ending.code or 0
    finally:
        sys.argv = former
    return 0


def commands(path: Path, config: Path, out: Path) -> dict[str, list[object]]:
    """Whatever loads a checkpoint: training that goes on, and that starts anew; sampling; conversion."""
    train = ["pretrain_video.py", "--config", config, "--save", out, "--load", path]
    sample = ["tools/sample_video.py", "--load", path, "--prompt", "a", "--output", out, "--sampling-steps", 2]
    return {
        "resume": [*train, "--train-iters", 4],
        "finetune": [*train, "--finetune", "--train-iters", 1],
        "sample": sample,
        "sample an average": [*sample, "--ema", "0.9"],
        "convert": [
            "tools/convert_checkpoint.py", "--load-format", "megatron", "--load", path, "--save-format", "diffusers",
            "--save", out,
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def config(shards, tmp_path_factory) -> Path:
    """That of `run_folder`, without its paths."""
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    flags = {"use_distributed_optimizer": True, "ema_decay": [0.9], "train_iters": 1}
    file.write_text(yaml_file.dump(small_run(shards, **flags)))
    return file


@pytest.mark.parametrize("command", list(commands(Path(), Path(), Path())))
def test_commands_refuse_damage(capfd, run_folder, config, tmp_path, command):
    draw = random.Random(command)
    for number, name in enumerate(FILES):
        path = tmp_path / str(number) / "iter_0000003"
        file = damaged_copy(run_folder / "iter_0000003", path, name, draw)
        capfd.readouterr()
        status = main_of(*commands(path, config, tmp_path / "out")[command])
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith(("error", "Traceback"))]
        assert status == 2, (name, errors)
        assert len(errors) == 1 and errors[0].startswith(f"error: --load: {file}: "), (name, errors)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("iter_*"))


@pytest.mark.parametrize("command", list(commands(Path(), Path(), Path())))
def test_commands_take_what_is_whole_or_not_to_be_verified(capfd, run_folder, config, tmp_path, command):
    path = shutil.copytree(run_folder / "iter_0000003", tmp_path / "iter_0000003")
    assert main_of(*commands(path, config, tmp_path / "whole")[command]) == 0
    (path / "checksums.json").write_text("")
    assert main_of(*commands(path, config, tmp_path / "refused")[command]) == 2
    capfd.readouterr()
    assert main_of(*commands(path, config, tmp_path / "unseen")[command], "--no-verify-checkpoint") == 0
    if PLAIN_STATE is None:
        return  # what follows takes the mark of checksums out of common.pt
    without_checksums(path)
    assert main_of(*commands(path, config, tmp_path / "old")[command]) == 0
    captured = capfd.readouterr()
    assert (captured.out + captured.err).count(f"{path} has no checksums") == 1


def test_damaged_base_of_adapters(capfd, adapters, run_folder, tmp_path):
    """The checkpoint of the adapters is whole; the one it stands on is not."""
    base = tmp_path / "base" / "iter_0000003"
    file = damaged_copy(run_folder / "iter_0000003", base, "__0_0.distcp", random.Random(6), "overwritten")
    config, out = adapters / "config.yaml", tmp_path / "out"
    for name, command in commands(adapters, config, out).items():
        if name == "sample an average":
            continue
        capfd.readouterr()
        assert main_of(*command, "--lora-base", base) == 2, name
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith(("error", "Traceback"))]
        assert len(errors) == 1 and errors[0].startswith(f"error: --load: {file}: damaged"), errors


def test_adapters_of_a_damaged_checkpoint(capfd, shards, adapters, tmp_path):
    """As the start of another run, and for other programs."""
    path = tmp_path / "iter_0000001"
    file = damaged_copy(adapters / "iter_0000001", path, "__0_0.distcp", random.Random(7), "overwritten")
    errors = training.check(small_run(shards, lora_load=path, **LORA), World.from_environment())
    assert [error.split(": ")[:2] for error in errors] == [["--lora-load --load", str(file)]]
    arguments = ["--load", path, "--load-format", "megatron", "--save", tmp_path / "out", "--save-format", "diffusers"]
    assert main_of("tools/convert_lora.py", *arguments) == 2
    assert f"{file}: damaged" in capfd.readouterr().err
    assert main_of("tools/convert_lora.py", *arguments, "--no-verify-checkpoint") in (0, 2)


def test_converted_weights(capfd, shards, tmp_path):
    checkpoint.convert(diffusers("2b"), tmp_path / "run", save_format="megatron")
    file = tmp_path / "run" / "iter_0000000" / "__0_0.distcp"
    damage(file, random.Random(8), "overwritten")
    back = [
        "--load-format",
        "megatron",
        "--load",
        tmp_path / "run",
        "--save-format",
        "sat",
        "--save",
        tmp_path / "sat",
    ]
    assert main_of("tools/convert_checkpoint.py", *back) == 2
    (error,) = capfd.readouterr().err.splitlines()
    assert error.startswith(f"error: --load: {file}: damaged: bytes 0 to ")
    assert not (tmp_path / "sat").exists()


def save_nonfinite(rank: int, layout: Layout, run_dir: Path, async_save: bool, log: Path) -> None:
    """Step 2 spoils a weight of the last layer; each save deletes all but the newest."""
    config = layout.run_config()
    with initialized(config, World.from_environment()) as groups, log.open("a") as file:
        toy = Toy(layout, config, groups)
        writer = checkpoint.CheckpointWriter(
            run_dir,
            groups,
            config_yaml="model: toy\n",
            async_save=async_save,
            keep_latest=1,
            say=lambda message: print(message, file=file),
        )
        for iteration in (1, 2, 3):
            toy.train(iteration, 1)
            with torch.no_grad():
                for chunk in toy.modules:
                    for name, layer in chunk.layers.items():
                        if iteration >= 2 and name == "3":
                            layer.down.weight.view(-1)[0] = float("nan")
            writer.save(iteration, toy.chunks, toy.optimizer, toy.scheduler, {"iteration": iteration})
            writer.finalize()


@pytest.mark.parametrize("async_save", [False, True], ids=["waiting", "in-the-background"])
def test_the_newest_finite_checkpoint_is_kept(pool, tmp_path, async_save):
    """One of two pipeline stages has the weight; from there a further step spreads it."""
    log = tmp_path / "log"
    pool.run(save_nonfinite, 2, Layout(pp=2, layers_per_chunk=1), tmp_path / "run", async_save, log)
    kept = checkpoint.completed(tmp_path / "run")
    assert [checkpoint.iteration_of(path) for path in kept] == [1, 3]
    assert [checkpoint.inspect(path) for path in kept] == [
        checkpoint.Inspection([]),
        checkpoint.Inspection([], finite=False),
    ]
    lines = log.read_text().splitlines()
    assert [line.split(" holds ")[0] for line in lines] == [
        f"WARNING: {tmp_path / 'run' / f'iter_000000{n}'}" for n in (2, 3)
    ]
    assert " holds weights that are not finite, in 1 of its tensors (layers.3.down.weight first)" in lines[0]
    choice = checkpoint.choose(checkpoint.candidates(tmp_path / "run"), checkpoint.inspect, named=False)
    assert choice.path == kept[0]
