"""The same steps on a cluster: rows go through Ray Data to actors that hold the opened step.

Each actor runs its rows in a process of its own, as on one machine, so that a file that kills it costs its row and not
the actor. Results carry the number of their row: the table is put together in the order of its rows.
"""

import importlib.util
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from vidtron.curation.step import RowStep
from vidtron.curation.table import CurationError, Row
from vidtron.curation.workers import Crew

_NUMBER = "__row__"
_LAST = "__last__"
_BATCH_ROWS = 16


class _Actor:
    """Opened once in each Ray worker."""

    def __init__(self, step: RowStep, schema: pa.Schema, row_seconds: float) -> None:
        self._crew = Crew(step, 1, row_seconds)
        self._schema = pa.schema([*schema, (_NUMBER, pa.int64()), (_LAST, pa.bool_())])

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows with their numbers -> the rows they become; the last one of each row is marked."""
        numbers = batch[_NUMBER].to_pylist()
        rows = batch.drop_columns([_NUMBER]).to_pylist()
        measured = [
            {**row, _NUMBER: number, _LAST: place == len(made) - 1}
            for number, made in self._crew.map(zip(numbers, rows, strict=True))
            for place, row in enumerate(made)
        ]
        return pa.Table.from_pylist(measured, schema=self._schema)


def measured(
    step: RowStep, table: pa.Table, due: Sequence[range], address: str, workers: int | None, row_seconds: float
) -> Iterator[tuple[int, list[Row]]]:
    """(number, rows it becomes) of each row in some ranges of a table, as they get ready.

    Args:
        step: measures a row.
        table: all rows.
        due: ranges of rows that are wanted.
        address: of the cluster, or local.
        workers: actors; None: one per CPU of the cluster; for steps that run a network one per GPU, or one per node
            without GPUs.
        row_seconds: see Running.

    Raises:
        CurationError: Ray is not installed, or the cluster cannot be reached.
    """
    if importlib.util.find_spec("ray") is None:
        raise CurationError("--ray-address: the package ray is not installed; pip install 'ray[data]'")
    import ray
    import ray.data

    _connect(address, workers)
    try:
        actors = workers or _cluster_size(step)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        blocks = [
            table.slice(part.start, len(part)).append_column(_NUMBER, pa.array(part, pa.int64())) for part in due
        ]
        dataset = ray.data.from_arrow(blocks).map_batches(
            _Actor,
            fn_constructor_args=(step, step.schema(table.schema), row_seconds),
            batch_size=_BATCH_ROWS,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_gpus=1 if step.uses_gpu() else None,
        )
        unfinished: defaultdict[int, list[Row]] = defaultdict(list)
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                number, last = row.pop(_NUMBER), row.pop(_LAST)
                unfinished[number].append(row)
                if last:
                    yield number, unfinished.pop(number)
    finally:
        ray.shutdown()


def _connect(address: str, workers: int | None) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == "local":
            with _found_by_children():
                ray.init("local", num_cpus=workers, include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise CurationError(
            f"--ray-address {address}: cannot be reached ({error}); accepted: local, auto, ray://HOST:PORT"
        ) from error


@contextmanager
def _found_by_children() -> Iterator[None]:
    """Processes started here import what this one can; on a cluster vidtron is installed on each node."""
    earlier = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        yield
    finally:
        if earlier is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = earlier


def _cluster_size(step: RowStep) -> int:
    """Actors that the cluster has room for."""
    import ray

    if step.runs_network() and not step.uses_gpu():
        return sum(node["Alive"] for node in ray.nodes())
    return max(1, int(ray.cluster_resources().get("GPU" if step.uses_gpu() else "CPU", 1)))
