import io
import json

import pytest

from tests.training.log_row import train_row
from tests.training.small import small_run
from vidtron.training.log_rows import EvalRow
from vidtron.training.logging import Logger, Terminal

ROW = train_row()


def test_plain_lines_in_a_log(capsys):
    stream = io.StringIO()
    terminal = Terminal(train_iters=10, iteration=0, interval=2, stream=stream)
    for iteration in range(1, 6):
        terminal.write(train_row(iteration=iteration))
    terminal.write(
        EvalRow(
            iteration=5, consumed_samples=5, weights="model", loss=0.1, sigma_edges=[], sigma_losses=[], seconds=1.0
        )
    )
    lines = stream.getvalue().splitlines()
    assert [line.split(" |")[0] for line in lines] == ["step 2/10", "step 4/10", "evaluation after step 5"]
    assert "\r" not in stream.getvalue()


def test_bar_on_a_terminal(capsys):
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    terminal = Terminal(train_iters=10, iteration=3, interval=1, stream=stream)
    terminal.write(train_row(iteration=4))
    terminal.close()
    assert terminal.bar.n == 4
    assert "4/10" in capsys.readouterr().err


def test_every_step_is_a_row(tmp_path):
    logger = Logger(small_run(save=tmp_path, log_interval=5), 0, active=True)
    for iteration in (1, 2):
        logger.write(train_row(iteration=iteration))
        # Flushed at once, not when the run ends.
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == iteration
    logger.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[1] == train_row(iteration=2).content()


def test_other_ranks_write_nothing(tmp_path, capsys):
    logger = Logger(small_run(save=tmp_path), 0, active=False)
    logger.write(ROW)
    logger.say("hello")
    logger.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_tensorboard(tmp_path):
    event_file = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = Logger(small_run(save=tmp_path, tensorboard=True), 0, active=True)
    logger.write(ROW)
    logger.close()
    events = event_file.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (event,) = events.Scalars("train/loss")
    assert (event.step, event.value) == (1, 0.5)


@pytest.mark.slow
def test_wandb_offline(tmp_path):
    pytest.importorskip("wandb")
    logger = Logger(small_run(save=tmp_path, wandb_project="p", wandb_mode="offline"), 0, active=True)
    logger.write(ROW)
    logger.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
