"""tools/encode_latents.py: its command line, what it prints, its exit status."""

import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.shards import write_shards

ROOT = Path(__file__).parents[2]
SMALL = ("--model", "cogvideox-tiny", "--num-frames", "9", "--height", "32", "--width", "48", "--decoder", "pyav")


def run_tool(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of the tool in this process."""
    status: object = 0
    with patch.object(sys, "argv", ["tools/encode_latents.py", *map(str, arguments)]):
        try:
            runpy.run_path(str(ROOT / "tools" / "encode_latents.py"), run_name="__main__")
        except SystemExit as leaving:
            status = leaving.code
    out, err = capfd.readouterr()
    return int(str(status or 0)), out, err


def test_it_encodes_and_finds_it_done(shards: Path, tmp_path: Path, capfd) -> None:
    words = (*SMALL, "--data-path", shards, "--latent-cache", tmp_path / "cache")
    status, out, err = run_tool(capfd, *words)
    assert (status, out) == (0, f"{tmp_path / 'cache'}: 1 shards\n")
    assert "shard_000000: 8 clips" in err
    # A layout of the training, which does not fit this one rank, is passed over.
    status, out, _ = run_tool(capfd, *words, "--tensor-model-parallel-size", "4", "--global-batch-size", "64")
    assert (status, out) == (0, f"{tmp_path / 'cache'}: 1 shards, 1 of them finished before\n")


def test_bad_clips_are_told(tmp_path: Path, capfd) -> None:
    folder = write_shards(tmp_path / "broken", clips=2)
    content = bytearray((folder / "shard_000000.tar").read_bytes())
    content[512:1500] = bytes(988)
    (folder / "shard_000000.tar").write_bytes(content)
    status, out, err = run_tool(capfd, *SMALL, "--data-path", folder, "--latent-cache", tmp_path / "cache")
    assert status == 0
    assert "1 samples cannot be read" in out and "cache/skipped.jsonl names them" in out
    assert "skipped clip000: " in err


def test_refusals(shards: Path, tmp_path: Path, capfd) -> None:
    status, _, err = run_tool(capfd, *SMALL, "--data-path", shards, "--num-frames", 10)
    assert status == 2
    assert "error: --latent-cache: missing; accepted: a folder" in err and "error: --num-frames 10" in err
    words = (*SMALL, "--data-path", shards, "--latent-cache", tmp_path)
    assert run_tool(capfd, *words)[0] == 0
    status, _, err = run_tool(capfd, *words, "--scale-factor", "0.7")
    assert status == 2 and "made with another --scale-factor: 1.0; this run has 0.7" in err


@pytest.mark.slow
def test_under_torchrun(shards: Path, tmp_path: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    words = ("tools/encode_latents.py", *SMALL, "--data-path", str(shards), "--latent-cache", str(tmp_path / "cache"))
    result = subprocess.run([*torchrun, *words], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'cache'}: 1 shards\n"
    assert (tmp_path / "cache" / "shard_000000.tar").is_file()
