"""Signals in evaluations, in validation sampling, before the first step and while saving: the run leaves soon, on all
ranks, and the run that continues it has the numbers of one that was never stopped."""

import contextlib
import importlib
import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.layouts import LAYOUTS, Layout, small_run, train
from tests.shards import write_shards
from vidtron.checkpoint import completed, engine, folders, iteration_of, read_state
from vidtron.training import batches, evaluate, validation_samples
from vidtron.training.trainer import Trainer

STEPS = 4
run = importlib.import_module("vidtron.training.run")
"""The room also has a function of that name."""


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("held out"), 6)


def once(home: Any, name: str, call: int, seen: list[str]) -> Callable[[pytest.MonkeyPatch], None]:
    """Send SIGTERM to this process before the function is called for the `call`-th time."""

    def arrange(patch: pytest.MonkeyPatch) -> None:
        plain = getattr(home, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            if len(seen) == call:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(*args, **kwargs)

        patch.setattr(home, name, wrapped)

    return arrange


# What is counted, and at which call the signal comes.
MOMENTS: dict[str, tuple[Any, str, int]] = {
    "groups": (run, "RunData", 1),
    "model": (run, "assemble", 1),
    "first batch": (batches.TrainingBatches, "__next__", 1),
    "reading held-out clips": (evaluate, "moved", 1),
    "evaluation": (Trainer, "_forward", 2),
    "last batch of the evaluation": (Trainer, "_forward", 3),
    "denoising": (validation_samples.ValidationSamples, "_look", 2),
    "decoding": (validation_samples, "write_video", 1),
    "saving": (engine.folders, "publish", 1),
}


def train_and_signal(rank: int, config: Any, moment: str, signalled: int) -> tuple[Any, int, list[str]]:
    """Job: the real trainer, signalled on one rank; its result, calls after the signal, and what was told."""
    seen: list[str] = []
    home, name, call = MOMENTS[moment]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as told:
        once(home, name, call if rank == signalled else 0, seen)(patch)
        result = train(rank, config)
    return result, len(seen), told.getvalue().splitlines()


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """What must not depend on stops."""
    timed = ("seconds", "percent", "tokens", "tflops", "mfu", "memory", "samples_per")
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if not any(word in name for word in timed)} for row in rows]


def flags_of(held_out: Path, folder: Path, layout: Layout) -> dict[str, Any]:
    return {
        "save": folder,
        "load": folder,
        "train_iters": STEPS,
        "eval_interval": 2,
        "eval_iters": 3,
        "valid_data_path": [str(held_out)],
        "validation_prompts": ["a bicycle", "a street"],
        "validation_sampling_steps": 3,
        "decoder": "pyav",
        **layout.flags,
    }


ALONE = Layout(1, {})


@pytest.fixture(scope="module")
def uninterrupted(pool, shards, held_out, tmp_path_factory):
    def rows(name: str) -> list[dict[str, Any]]:
        if name not in known:
            layout: Layout = LAYOUTS.get(name, ALONE)
            folder = tmp_path_factory.mktemp("uninterrupted")
            pool.run(train, layout.ranks, small_run(shards, **flags_of(held_out, folder, layout)))
            known[name] = rows_of(folder)
        return known[name]

    known: dict[str, list[dict[str, Any]]] = {}
    return rows


BEFORE_THE_FIRST_STEP = ("groups", "model", "first batch")
CASES = [
    ("groups", "DP2", 1),
    ("model", "alone", 0),
    ("first batch", "TP2", 1),
    ("reading held-out clips", "alone", 0),
    ("evaluation", "alone", 0),
    ("evaluation", "DP2", 1),
    ("evaluation", "PP2", 0),
    ("last batch of the evaluation", "alone", 0),
    ("denoising", "TP2", 1),
    ("denoising", "DP2", 1),
    ("decoding", "TP2", 1),
]


@pytest.mark.parametrize(("moment", "name", "signalled"), CASES)
def test_a_signal(pool, shards, held_out, tmp_path, uninterrupted, moment, name, signalled):
    layout: Layout = LAYOUTS.get(name, ALONE)
    config = small_run(shards, **flags_of(held_out, tmp_path / "run", layout))
    answers = pool.run(train_and_signal, layout.ranks, config, moment, signalled)
    assert {result.stopped_by for result, _, _ in answers} == {"signal"}
    (line,) = [line for line in answers[0][2] if line.startswith("leaving")]
    if moment in BEFORE_THE_FIRST_STEP:
        assert line == "leaving before the first step (signal); there is nothing to save"
        assert not completed(tmp_path / "run")
    else:
        assert line.startswith("leaving after step 2 (signal)")
        (saved,) = completed(tmp_path / "run")
        assert iteration_of(saved) == 2
        # What had been done of an evaluation when the signal came is either all of it or does not count.
        whole = any(row["kind"] == "eval" for row in rows_of(tmp_path / "run"))
        assert read_state(saved)["evaluation_due"] is not whole
        assert line.endswith("its evaluation is left to the run that continues") is not whole
        assert whole or not list((tmp_path / "run").glob("samples/*"))
    if moment == "evaluation":
        _, calls, _ = answers[signalled]
        assert calls == 2, "the rest of the evaluation was waited for"
    pool.run(train, layout.ranks, config)
    assert rows_of(tmp_path / "run") == uninterrupted(name)


def test_a_signal_in_the_step_before_an_evaluation(pool, shards, held_out, tmp_path, uninterrupted):
    """It is not made then, but by the run that continues, even where that was the last step."""
    config = small_run(shards, **flags_of(held_out, tmp_path, ALONE))
    config.training.exit_interval = 3
    pool.run(train, 1, config)
    config.training.exit_interval = None
    result, _, told = pool.run(train_in_last_step, 1, config)[0]
    assert result.stopped_by == "signal" and not result.evaluations
    assert told[-1] == "leaving after step 4 (signal); its evaluation is left to the run that continues"
    result = pool.run(train, 1, config)[0]
    assert result.stopped_by == "done" and list(result.evaluations) == [4]
    assert rows_of(tmp_path) == uninterrupted("alone")


def train_in_last_step(rank: int, config: Any) -> tuple[Any, int, list[str]]:
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as told:
        once(Trainer, "_attempt", 1, seen)(patch)
        result = train(rank, config)
    return result, len(seen), told.getvalue().splitlines()


@pytest.mark.parametrize(("name", "async_save"), [("alone", False), ("DP2", True)])
def test_a_signal_while_saving(pool, shards, held_out, tmp_path, uninterrupted, name, async_save):
    """The save is finished, and the run leaves without another step."""
    layout: Layout = LAYOUTS.get(name, ALONE)
    flags = {**flags_of(held_out, tmp_path, layout), "save_interval": 1, "async_save": async_save}
    answers = pool.run(train_and_signal, layout.ranks, small_run(shards, **flags), "saving", 0)
    result, _, told = answers[0]
    assert result.stopped_by == "signal" and result.iteration < STEPS
    assert told[-1].startswith(f"leaving after step {result.iteration} (signal)")
    assert iteration_of(completed(tmp_path)[-1]) == result.iteration
    assert async_save or result.iteration == 1
    assert not list(tmp_path.glob(f"{folders._UNFINISHED}*"))
    pool.run(train, layout.ranks, small_run(shards, **flags))
    assert rows_of(tmp_path) == uninterrupted(name)
