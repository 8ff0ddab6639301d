"""What is outside the command line: launcher, folders, memory."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.config.test_check import WORLD, config
from vidtron.config.check import check
from vidtron.config.errors import ConfigurationError
from vidtron.config.folders import folder_error
from vidtron.config.launcher import launched, launched_rank
from vidtron.config.world import World, machine_memory

RANKS = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def test_the_launchers_world():
    assert launched({}) == ((1, 0, 0, 1), [])
    assert launched(RANKS) == ((2, 1, 1, 1), [])


@pytest.mark.parametrize(
    ("changed", "start"),
    [
        ({"RANK": "x"}, "RANK=x in the environment; accepted: 0 to"),
        ({"RANK": "9" * 5000}, "RANK=999"),
        ({"RANK": ""}, "RANK= in the environment"),
        ({"RANK": "5"}, "RANK=5 in the environment, of WORLD_SIZE=2; accepted: 0 to 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 in the environment; accepted: 1 to"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK=-1"),
        ({"LOCAL_RANK": "7"}, "LOCAL_RANK=7 in the environment, of WORLD_SIZE=2"),
        ({"LOCAL_WORLD_SIZE": "two"}, "LOCAL_WORLD_SIZE=two"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999 in the environment; accepted: 1 to 65535"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is not in the environment"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not in the environment, of WORLD_SIZE=2"),
    ],
)
def test_a_wrong_variable_is_named(changed: dict[str, str], start: str, monkeypatch, capsys):
    (error,) = launched(RANKS | changed)[1]
    assert error.startswith(start)
    for name, value in (RANKS | changed).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=r"accepted: "):
        World.from_environment()
    monkeypatch.setattr("vidtron.config.errors.HEAD_START_SECONDS", 0.0)
    with pytest.raises(SystemExit) as caught:
        World.of_launcher()
    assert caught.value.code == 2
    if launched_rank() == 0:
        assert capsys.readouterr().err == f"error: {error}\n"


def test_a_rank_has_its_share_of_the_memory(monkeypatch):
    whole = World.from_environment().memory
    for name, value in (RANKS | {"LOCAL_WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    if not World.from_environment().has_cuda:
        assert whole == machine_memory() and World.from_environment().memory == whole // 2


def test_folders_are_tried_and_left_as_they_were(tmp_path: Path):
    assert folder_error(tmp_path) is None
    assert folder_error(tmp_path / "a" / "b") is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert str(folder_error(tmp_path / "file")).startswith("not a folder; accepted: ")
    assert f"{tmp_path / 'file'} is not a folder" in str(folder_error(tmp_path / "file" / "a" / "b"))
    for path in ("/proc/vidtron", "/proc/self/status/x", "x" * 300, "a\0"):
        assert "accepted: " in str(folder_error(Path(path))), path


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch):
    """Root may write where permissions forbid it; so a file system that is read-only is played."""

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", read_only)
    monkeypatch.setattr(tempfile, "mkdtemp", read_only)
    for name in ("checkpoint__save", "data__data_cache_path", "encoders__latent_cache"):
        flag = "--" + name.split("__")[1].replace("_", "-")
        (error,) = check(config(**{name: tmp_path / "new"}), WORLD)
        start = f"{flag} {tmp_path / 'new'}: cannot be written (Read-only file system)"
        assert error.startswith(f"{start}; accepted: a folder")
    assert check(config(encoders__latent_cache=tmp_path), WORLD) == []  # whole, perhaps
