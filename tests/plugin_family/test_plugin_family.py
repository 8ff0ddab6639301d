"""A family that vidtron does not know, under every layout and through every program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from tests.shards import write_shards
from vidtron.checkpoint import latest, read_full_state
from vidtron.models.layers.checkpoint_rules import bits_equal

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LAYOUTS = {
    "TP2+SP": ["--tensor-model-parallel-size", "2", "--sequence-parallel"],
    "PP2": ["--pipeline-model-parallel-size", "2"],
    "CP2": ["--context-parallel-size", "2"],
    "DP2": [],
}
RECOMPUTED = [
    "--recompute-granularity", "full", "--recompute-method", "uniform", "--recompute-num-layers", "1",
]  # fmt: skip
TRAINING = [
    "--model", "toydit", "--global-batch-size", "4", "--train-iters", "3", "--log-interval", "1", "--num-workers", "0",
    "--clip-grad", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards, and a folder in which the family can be imported but is not installed."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "path").mkdir()
    (folder / "path" / "toydit").symlink_to(HERE / "toydit")
    write_shards(folder / "shards", 8)
    return folder


def run(data: Path, words: list[object], *, ranks: int = 1, installed: bool = True) -> str:
    """What a program prints that must end well; with the family found by its entry point, or by --plugin."""
    path = HERE if installed else data / "path"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, path))), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable]
    if ranks > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    ended = subprocess.run(
        [*launch, *map(str, words), *([] if installed else ["--plugin", "toydit"])],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def trained(data: Path, out: Path, words: list[object], *, ranks: int = 1, installed: bool = True) -> list[dict]:
    """Rows of the log of a run."""
    run(
        data,
        ["pretrain_video.py", *TRAINING, "--data-path", data / "shards", "--save", out, *words],
        ranks=ranks,
        installed=installed,
    )
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_alike(rows: list[dict], expected: list[dict]) -> None:
    """Losses and gradient norms: all weights take part, so that a gradient that is missing shows."""
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in rows if row["kind"] == "train"] == pytest.approx(
            [row[key] for row in expected if row["kind"] == "train"], rel=2e-5
        )


SGD = ["--optimizer", "sgd", "--lr", "0.05", "--sgd-momentum", "0.9"]


@pytest.fixture(scope="module")
def run_of_one_rank(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    trained(data, folder, SGD)
    return folder


@pytest.fixture(scope="module")
def one_rank(run_of_one_rank):
    return [json.loads(line) for line in (run_of_one_rank / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, data, one_rank, tmp_path):
    """By --plugin, with everything recomputed: what the texts' projections receive comes through that."""
    rows = trained(data, tmp_path, [*SGD, *LAYOUTS[layout], *RECOMPUTED], ranks=2, installed=False)
    assert_alike(rows, one_rank)


@pytest.mark.slow
def test_adapters_averages_resumption_validation_and_sampling(data, tmp_path):
    words = [
        "--lora-rank", "4", "--lora-dropout", "0.1", "--ema-decay", "0.9", "--valid-data-path", data / "shards",
        "--eval-interval", "3", "--eval-iters", "1",
    ]  # fmt: skip
    expected = trained(data, tmp_path / "one", words)
    trained(data, tmp_path / "two", [*words, *LAYOUTS["TP2+SP"], "--exit-interval", "1"], ranks=2)
    rows = trained(data, tmp_path / "two", [*words, *LAYOUTS["PP2"], "--load", tmp_path / "two"], ranks=2)
    assert_alike(rows, expected)
    evaluated, wanted = ([row["loss"] for row in some if row["kind"] == "eval"] for some in (rows, expected))
    assert len(wanted) == 2 and evaluated == pytest.approx(wanted, rel=2e-5)
    for load, extra in ((tmp_path / "two", ["--ema", "0.9"]), (tmp_path / "one", [])):
        told = run(
            data,
            ["tools/sample_video.py", "--load", load, "--prompt", "moving colours", "--output", load / "videos",
             "--sampling-steps", "2", "--sampler", "ancestral", *extra],
        )  # fmt: skip
        assert "moving colours" in told and list((load / "videos").glob("*.mp4"))


def converted(data: Path, load_format: str, load: Path, save_format: str, save: Path) -> str:
    """What the converter says, by --plugin, of a conversion that it has verified."""
    words = ["--load-format", load_format, "--load", load, "--save-format", save_format, "--save", save, "--verify"]
    return run(data, ["tools/convert_checkpoint.py", *words], installed=False)


@pytest.mark.slow
def test_its_own_file_and_back(data, run_of_one_rank, tmp_path):
    told = converted(data, "megatron", run_of_one_rank, "toydit", tmp_path / "toy.safetensors")
    assert "vidtron's network, source and target weights: largest difference 0 (outputs up to" in told
    file, hidden = load_file(tmp_path / "toy.safetensors"), 64
    assert (
        file["blocks.3.attn.q.kernel"].shape == file["blocks.3.text_kv.1.k_layernorm.scale"].shape * 2 == (hidden,) * 2
    )
    assert file["captions.0.kernel"].shape == (24, hidden) and file["blocks.0.modulation.5"].shape == (hidden,)
    converted(data, "toydit", tmp_path / "toy.safetensors", "megatron", tmp_path / "back")
    before, after = (read_full_state(latest(folder)) for folder in (run_of_one_rank, tmp_path / "back"))
    assert before.keys() == after.keys() and len(before) > 100
    assert [name for name in before if not bits_equal(before[name], after[name])] == []
    settings = [yaml.safe_load((latest(f) / "config.yaml").read_text()) for f in (run_of_one_rank, tmp_path / "back")]
    for key in ("model", "hidden_size", "num_frames", "height", "width"):
        assert settings[0][key] == settings[1][key]
    with pytest.raises(AssertionError, match="diffusers: networks of toydit's family have no names"):
        converted(data, "megatron", run_of_one_rank, "diffusers", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_plugin_that_is_none(tmp_path):
    (tmp_path / "empty_plugin.py").write_text("")
    for module, reason in (("no_such_plugin", "cannot be imported"), ("empty_plugin", "no REGISTRATION")):
        ended = subprocess.run(
            [sys.executable, "pretrain_video.py", "--model", "toydit", "--plugin", module],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 2 and f"error: --plugin {module}: {reason}" in ended.stderr


def test_no_file_of_vidtron_names_it():
    files = [path for folder in ("vidtron", "tools") for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in files if "toydit" in path.read_text()]
    assert sum(len(path.read_text().splitlines()) for path in (HERE / "toydit").glob("*.py")) <= 600
