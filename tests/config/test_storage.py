"""Errors of writing, in one line."""

import errno
from pathlib import Path

import pytest
import torch

from tests.small_disk import small_disk
from vidtron.config.storage import StorageError, reason_of, whole_file, writing


def no_room() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def test_the_line_names_path_reason_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, writing(tmp_path / "a", "make room"):
        raise no_room()
    assert str(caught.value) == f"{tmp_path / 'a'}: cannot be written (No space left on device); make room"


def test_the_system_s_reason_is_found_behind_others(tmp_path: Path) -> None:
    try:
        try:
            raise no_room()
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598") from None
    except RuntimeError as error:
        assert reason_of(error, tmp_path) == "No space left on device"
    assert reason_of(RuntimeError("a bug"), tmp_path) is None
    assert reason_of(RuntimeError("iostream error"), tmp_path / "gone") == "No such file or directory"


def test_bugs_are_no_matter_of_storage(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug") as caught, writing(tmp_path / "a", "make room"):
        raise RuntimeError("a bug")
    assert not isinstance(caught.value, StorageError)
    with pytest.raises(StorageError, match="inner"), writing(tmp_path / "a", "make room"):
        raise StorageError("inner")


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a"
    with whole_file(path) as part:
        part.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), whole_file(path) as part:
        part.write_text("sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_torch_s_writer_at_a_full_disk(tmp_path: Path) -> None:
    """It loses the system's error on the way through C++."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk, disk.limits(1 << 19):
        path = disk.folder / "x.pt"
        with pytest.raises(StorageError) as caught, writing(path, "make room"), whole_file(path) as part:
            torch.save(torch.zeros(1 << 20), part)
        assert str(caught.value).startswith(f"{path}: cannot be written (")
        assert not list(disk.folder.iterdir())
