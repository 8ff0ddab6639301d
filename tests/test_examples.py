"""The scripts of examples/: that their flags are legal and fit a node, and that signals reach the ranks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidtron.config.check import check as check_config
from vidtron.config.cli import parse
from vidtron.config.run import RunConfig
from vidtron.config.world import OPTIONAL_PACKAGES, World
from vidtron.models.registry import family_of, preset, preset_names
from vidtron.parallel.check import check as check_parallel
from vidtron.recipe.check import check as check_recipe

EXAMPLES = Path(__file__).parents[1] / "examples"
NODE = World(size=8, rank=0, local_rank=0, has_cuda=True, packages=frozenset(OPTIONAL_PACKAGES))


def program(folder: Path, name: str, text: str) -> None:
    """An executable in a folder that goes first in PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def flags_of(script: Path, tmp_path: Path, **variables: str) -> list[str]:
    """What a script would give to pretrain_video.py."""
    program(tmp_path / "bin", "torchrun", f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/words"\n')
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    subprocess.run([script], env={**os.environ, "PATH": path, **variables}, check=True, timeout=60)
    words = (tmp_path / "words").read_text().splitlines()
    return words[words.index("pretrain_video.py") + 1 :]


def errors_of(config: RunConfig) -> list[str]:
    """What the rooms say that look at neither files nor folders."""
    checks = (check_config, check_recipe, check_parallel, family_of(config.model).check)
    return [error for check in checks for error in check(config, NODE)]


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("cogvideox_*/*.sh")), ids=lambda path: path.stem)
@pytest.mark.parametrize("valid", ["", "VALID"])
def test_scripts_fit_a_node(script: Path, valid: str, tmp_path: Path):
    variables = {"DATA": "SHARDS", "VAE": "VAE", "TEXT_ENCODER": "T5", "RUN": "RUN", "VALID": valid}
    config = parse(flags_of(script, tmp_path, **variables), preset, preset_names())
    assert errors_of(config) == []
    assert config.data.data_path == ["SHARDS"] and config.data.valid_data_path == ([valid] if valid else [])
    assert config.checkpoint.save == config.checkpoint.load == Path("RUN")  # the requeue idiom
    assert config.model in script.read_text()


def test_objectives_are_legal(tmp_path: Path):
    """Every training of the quickstart's objectives, and a comparison after each."""
    record = 'printf "%s\\n" "$0" "$@" "" >> ' + f'"{tmp_path}/words"\n'
    for name in ("torchrun", "python"):
        program(tmp_path / "bin", name, f"#!/bin/sh\n{record}")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    script = EXAMPLES / "quickstart" / "objectives.sh"
    for name in ("videos/a.mp4", "labels/a.txt"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True)
        (tmp_path / "clips" / name).touch()
    checkout = tmp_path / "checkout" / "examples" / "quickstart"  # the script works in its repository
    checkout.mkdir(parents=True)
    (checkout / script.name).write_bytes(script.read_bytes())
    script = checkout / script.name
    script.chmod(0o755)
    subprocess.run(
        [script, tmp_path / "clips"], env={**os.environ, "PATH": path, "STEPS": "17"}, check=True, timeout=60
    )
    calls = [call.splitlines() for call in (tmp_path / "words").read_text().strip().split("\n\n")]
    assert [Path(call[0]).name for call in calls] == ["python", *["torchrun", "python"] * 4]
    configs = [parse(c[c.index("pretrain_video.py") + 1 :], preset, preset_names()) for c in calls[1::2]]
    assert [config.objective.parameterization for config in configs] == ["velocity", "epsilon", "flow", "edm"]
    alone = World(size=1, rank=0, local_rank=0, has_cuda=False, packages=frozenset())
    for config, call in zip(configs, calls[2::2], strict=True):
        assert [
            error for check in (check_config, check_recipe, check_parallel) for error in check(config, alone)
        ] == []
        assert config.data.data_path == [calls[0][calls[0].index("--output") + 1]]
        assert config.training.train_iters == 17
        assert call[call.index("--load") + 1] == str(config.checkpoint.save)


def test_the_readme_s_cluster_command_is_legal():
    readme = (EXAMPLES.parent / "README.md").read_text()
    block = readme.split("## On a cluster")[1].split("```bash\n")[1].split("```")[0].replace("\\\n", " ")
    words = block.split()
    config = parse(words[words.index("pretrain_video.py") + 1 :], preset, preset_names())
    assert config.parallel.context_parallel_size == 2
    assert errors_of(config) == []


LAUNCHER = f"""#!{sys.executable}
import os, subprocess, sys
rank = '''
import pathlib, signal, sys, time
def leave(*_):
    time.sleep(0.5)
    pathlib.Path(sys.argv[1], "saved" + __import__("os").environ["LOCAL_RANK"]).touch()
    sys.exit(0)
signal.signal(signal.SIGUSR1, leave)
pathlib.Path(sys.argv[1], "up" + __import__("os").environ["LOCAL_RANK"]).touch()
time.sleep(600)
sys.exit(3)
'''
ranks = [subprocess.Popen([sys.executable, "-c", rank, sys.argv[1]], env={{**os.environ, "LOCAL_RANK": str(i)}},
                          start_new_session=True) for i in range(2)]
sys.exit(max(rank.wait() for rank in ranks))
"""


def test_slurm_s_signal_reaches_the_ranks_and_leaves_the_launcher_alone(tmp_path: Path):
    program(tmp_path, "launcher", LAUNCHER)
    program(tmp_path, "script", f'#!/bin/bash\nset -e\n"{tmp_path}/launcher" "{tmp_path}"\n')
    node = subprocess.Popen([EXAMPLES / "slurm" / "node.sh", tmp_path / "script"])
    try:
        deadline = time.monotonic() + 300
        while not ((tmp_path / "up0").exists() and (tmp_path / "up1").exists()):
            assert time.monotonic() < deadline and node.poll() is None
            time.sleep(0.05)
        node.send_signal(signal.SIGUSR1)
        assert node.wait(timeout=300) == 0
    finally:
        node.kill()
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()


def test_shell_scripts_parse():
    scripts = [*EXAMPLES.rglob("*.sh"), *EXAMPLES.rglob("*.sbatch"), EXAMPLES.parent / ".ci" / "run"]
    assert len(scripts) >= 6
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
        assert os.access(script, os.X_OK) or script.suffix == ".sbatch", script


def test_loss_curve(tmp_path: Path):
    rows = [f'{{"kind": "train", "iteration": {i}, "loss": {2.0 if i < 50 else 0.5}}}' for i in range(1, 101)]
    rows.insert(10, '{"kind": "eval", "iteration": 10, "loss": 9.0}')
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    command = [sys.executable, EXAMPLES / "quickstart" / "loss_curve.py", tmp_path]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 21
    assert lines[0].split()[:2] == ["5", "2.0000"] and lines[0].count("#") == 60
    assert lines[-2].split()[:2] == ["100", "0.5000"] and lines[-2].count("#") == 15
    assert lines[-1].endswith("25 %")
