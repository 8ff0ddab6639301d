import os
import subprocess
import sys
from pathlib import Path

from tests.data.clip_files import build_shards, clip_bytes
from vidtron.data.shards.index import INDEX_NAME, ShardIndex

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "index_shards.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_folder_is_indexed(tmp_path: Path) -> None:
    before = build_shards(tmp_path, {name: clip_bytes(5) for name in "ab"}, samples_per_shard=1)
    folder = before.folders[0]
    (folder / INDEX_NAME).unlink()
    status, out, err = run(folder, "--strict")
    assert status == 0, err
    assert "2 samples, shards: 2" in out and "shard-000001.tar: 1 clips" in err
    assert list(ShardIndex.open([folder])) == list(before)
    last = folder / "shard-000001.tar"
    last.write_bytes(last.read_bytes()[:700])
    status, out, err = run(folder, "--strict")
    assert status == 1 and "1 samples, shards: 1" in out and "1 clips skipped" in out


def test_errors_have_status_2(tmp_path: Path) -> None:
    status, _, err = run(tmp_path)
    assert status == 2 and err.startswith("error: ") and "holds no shards" in err and "Traceback" not in err
