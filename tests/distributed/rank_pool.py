"""Processes that stay alive and act as the ranks of one distributed test after another.

A job is a module-level function `job(rank, *args)`; it runs on all ranks of a world at once, in the environment that
torchrun would give it. Starting a process and importing torch and megatron-core takes seconds, and is paid once.
"""

import atexit
import contextlib
import faulthandler
import importlib
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

LARGEST_WORLD = 4
GRACE_SECONDS = 5.0  # for the other ranks to notice that one has failed
MOST_THREADS = 100
"""Of a rank between two jobs. Hooks of megatron-core's distributed optimizer keep each run's model alive, and with it
its gloo groups, whose threads wake a hundred times a second: after hundreds of jobs that takes most of the machine."""


class RankFailure(AssertionError):
    """A job raised on one rank or more; carries the tracebacks of those ranks."""


class RankPool:
    """Up to `LARGEST_WORLD` rank processes, started when they are first needed."""

    def __init__(self) -> None:
        self._ranks: list[_RankProcess] = []
        atexit.register(self.close)

    def run(self, job: Callable[..., Any], world_size: int, *args: Any, timeout: float = 500) -> list[Any]:
        """Call `job(rank, *args)` on `world_size` ranks and return their results, in the order of ranks.

        Raises:
            RankFailure: the job raised.
            TimeoutError: it took longer than `timeout` seconds; says where the processes, now killed, stood.
        """
        if not 1 <= world_size <= LARGEST_WORLD:
            raise ValueError(f"a world of {world_size} ranks; accepted: 1 to {LARGEST_WORLD}")
        self._ranks = [rank if rank.threads <= MOST_THREADS else rank.successor() for rank in self._ranks]
        while len(self._ranks) < world_size:
            self._ranks.append(_RankProcess.start())
        ranks = self._ranks[:world_size]
        port = _free_port()
        for number, rank in enumerate(ranks):
            rank.connection.send_bytes(_packed_job(job, args, number, world_size, port))
        try:
            return self._collect(ranks, timeout)
        except BaseException:  # also an interrupt from the keyboard: ranks in mid-job are of no further use
            if any(rank.busy for rank in ranks):
                self.close()
            raise

    def close(self) -> None:
        """Kill the processes, and all that they have started."""
        for rank in self._ranks:
            rank.kill()
        self._ranks = []

    def _collect(self, ranks: "list[_RankProcess]", timeout: float) -> list[Any]:
        results: dict[int, Any] = {}
        failures: dict[int, str] = {}
        pending = {rank.connection: number for number, rank in enumerate(ranks)}
        for rank in ranks:
            rank.busy = True
        deadline = time.monotonic() + timeout
        while pending:
            ready = wait(list(pending), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for connection in ready:
                number = pending.pop(connection)  # type: ignore[arg-type]
                try:
                    packed = connection.recv_bytes()  # type: ignore[union-attr]
                    (succeeded, answer), ranks[number].threads = pickle.loads(packed[:-8]), int.from_bytes(packed[-8:])
                except EOFError:
                    succeeded, answer = False, f"the process died (exit code {ranks[number].exit_code()})"
                else:
                    ranks[number].busy = False
                if succeeded:
                    results[number] = answer
                else:
                    failures[number] = answer
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        # A child of a dead process may hold its end of the pipe open: then no end of file tells of the death.
        dead = [number for number in pending.values() if ranks[number].exit_code() is not None]
        failures |= {number: f"the process died (exit code {ranks[number].exit_code()})" for number in dead}
        pending = {connection: number for connection, number in pending.items() if number not in dead}
        if failures:
            stuck = f"\n(still running and killed: ranks {sorted(pending.values())})" if pending else ""
            raise RankFailure("".join(f"\nrank {n}:\n{text}" for n, text in sorted(failures.items())) + stuck)
        if pending:
            stacks = "".join(f"\nrank {number}:\n{ranks[number].stack()}" for number in sorted(pending.values()))
            raise TimeoutError(f"ranks {sorted(pending.values())} did not answer within {timeout:g} s{stacks}")
        return [results[number] for number in range(len(ranks))]


@dataclass
class _RankProcess:
    process: Any
    connection: Connection
    stack_file: Path
    busy: bool = False
    threads: int = 0
    """When it answered last."""

    @classmethod
    def start(cls) -> "_RankProcess":
        # Not forked: neither torch's threads nor CUDA survive that. Not daemons: checkpoints start children.
        spawn = multiprocessing.get_context("spawn")
        here, there = spawn.Pipe()
        descriptor, stack_file = tempfile.mkstemp(prefix="rank-stack-")
        os.close(descriptor)
        process = spawn.Process(target=_serve, args=(there, stack_file), daemon=False)
        process.start()
        there.close()
        return cls(process, here, Path(stack_file))

    def successor(self) -> "_RankProcess":
        """A new process in the place of this one."""
        self.kill()
        return self.start()

    def exit_code(self) -> int | None:
        self.process.join(timeout=1)
        return self.process.exitcode

    def stack(self) -> str:
        """Where the process stands."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGUSR2)
            time.sleep(0.2)
        return self.stack_file.read_text()

    def kill(self) -> None:
        self.connection.close()
        self.stack_file.unlink(missing_ok=True)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()


def _packed_job(job: Callable[..., Any], args: tuple[Any, ...], rank: int, world_size: int, port: int) -> bytes:
    environment = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    # Arguments by value (torch would hand over file descriptors) and after sys.path, which may have grown since.
    return pickle.dumps((sys.path, environment, job.__module__, job.__qualname__, rank, pickle.dumps(args)))


def _serve(connection: Connection, stack_file: str) -> None:
    """A rank's life: run jobs until the pool closes the connection."""
    os.setsid()  # so that the pool can kill this process together with its children
    faulthandler.register(signal.SIGUSR2, file=open(stack_file, "w"))  # noqa: SIM115, stays open
    os.environ["OMP_NUM_THREADS"] = "1"
    if os.environ.get("VIDTRON_LAST_BITS"):
        from tests.last_bits import enter_if_asked

        enter_if_asked()
    while True:
        try:
            sys.path[:], environment, module, name, rank, packed_args = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        os.environ.update(environment)
        try:
            job = getattr(importlib.import_module(module), name)
            answer = pickle.dumps((True, job(rank, *pickle.loads(packed_args))))
        except BaseException:  # SystemExit too: the pool reports it, and the process lives on
            answer = pickle.dumps((False, traceback.format_exc()))
        _leave_process_group()
        connection.send_bytes(answer + len(os.listdir("/proc/self/task")).to_bytes(8))


def _leave_process_group() -> None:
    """A job that failed half-way may have left its group; the next one starts from nothing."""
    if "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
