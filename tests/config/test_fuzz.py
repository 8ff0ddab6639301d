"""Whatever is asked for is refused with errors or trains; never a traceback, never long."""

import time
from pathlib import Path

import pytest

import pretrain_video
from tests.config.fuzz import Draft, Fuzz
from vidtron import training
from vidtron.config.errors import EXIT_STATUS
from vidtron.config.run import RunConfig
from vidtron.config.world import World

SEED, COUNT, TRAINED = 20, 2000, 40
MOST_SECONDS = 2.0


def checked(draft: Draft, folder: Path, capsys: pytest.CaptureFixture) -> tuple[RunConfig, World] | None:
    """The configuration, or None where it was refused with one error a line."""
    try:
        found = pretrain_video.configured(draft.argv(folder))
    except SystemExit as exit_:
        printed = capsys.readouterr()
        lines = [line for line in printed.err.splitlines() if not line.startswith("note: ")]
        assert exit_.code == EXIT_STATUS and printed.out == "", draft
        assert lines and all(line.startswith("error: ") for line in lines), (draft, lines)
        return None
    capsys.readouterr()
    return found


@pytest.mark.slow
def test_2000_configurations_are_refused_or_valid(shards, tmp_path, capsys, monkeypatch):
    """Seconds are this process's own, so that a busy machine counts for nothing."""
    monkeypatch.chdir(tmp_path)
    fuzz, valid, slow = Fuzz(SEED, shards), 0, []
    for _ in range(COUNT):
        draft, start = fuzz.wild(), time.process_time()
        try:
            valid += checked(draft, tmp_path, capsys) is not None
        except Exception as error:
            raise AssertionError(f"{draft}") from error
        if time.process_time() - start > MOST_SECONDS:
            slow.append(str(draft))
    assert not slow
    assert COUNT // 20 < valid < COUNT // 2  # else one side is hardly tried
    assert {path.name for path in tmp_path.iterdir()} <= {"config.yaml", "bucket-config.yaml"}


@pytest.mark.slow
def test_valid_configurations_train(shards, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fuzz, trained, refused = Fuzz(SEED, shards), 0, 0
    while trained < TRAINED:
        draft = fuzz.small()
        found = checked(draft, tmp_path, capsys)
        if found is None:
            refused += 1
            assert refused < 20 * TRAINED
            continue
        try:
            result = training.run(*found)
        except Exception as error:
            raise AssertionError(f"{draft}") from error
        assert result.iteration == 2, draft
        capsys.readouterr()
        trained += 1
