"""Whether a checkpoint's files are what was written, told before anything is loaded from them."""

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtron.checkpoint import folders, manifest
from vidtron.checkpoint.manifest import FileChecksums, ManifestError
from vidtron.checkpoint.reading import read_common
from vidtron.parallel import Groups, gather_objects

_MOST_THREADS = 4
"""That read and hash at the same time in one process."""


@dataclass(frozen=True)
class Inspection:
    """Findings about a checkpoint's files."""

    damage: list[str]
    """One message for each file, named in it, that is not as it was written."""
    finite: bool = True
    """Whether all weights were finite when they were saved."""
    has_checksums: bool = True
    """False: an earlier version has written it, and damage would go unseen."""

    def remarks(self, folder: Path) -> list[str]:
        """Remarks for the user that are no damage."""
        found = []
        if not self.has_checksums:
            found.append(f"{folder} has no checksums (an earlier version has written it): damage would go unseen")
        if not self.finite:
            found.append(f"WARNING: the weights of {folder} are not finite")
        return found


class Verification:
    """Verification of one checkpoint's files, in threads that start at once; leaving its context ends it early."""

    def __init__(self, folder: Path, *, contents: bool = True, rank: int = 0, ranks: int = 1) -> None:
        """
        Args:
            folder: an iter_* folder.
            contents: read the tensors' files too; else their sizes alone are compared, and what the other files hold.
            rank: of the processes that share the reading of tensors' files; each tells of its part.
            ranks: number of these processes.
        """
        self.folder = folder
        self._problems: dict[str, str] = {}
        self._finite, self._has_checksums = True, True
        self._reading: list[tuple[str, Future[str | None]]] = []
        self._threads = ThreadPoolExecutor(min(_MOST_THREADS, len(os.sched_getaffinity(0))))
        try:
            written = manifest.read(folder)
        except (ManifestError, OSError) as error:
            self._problems[folders.MANIFEST_FILE] = str(error)
            return
        if written is None:
            self._without_manifest()
            return
        self._finite = written.finite
        blocks = []
        for name, file in sorted(written.files.items()):
            problem = _size_problem(folder / name, file)
            if problem is None:
                blocks += [(name, file, number) for number in range(len(file.blocks))]
            else:
                self._problems[name] = problem
        large = [block for block in blocks if _holds_tensors(block[0])] if contents else []
        # Neighbours together: a part of a file is read from its beginning to its end.
        share = large[rank * len(large) // ranks : (rank + 1) * len(large) // ranks]
        for name, file, number in [*(block for block in blocks if not _holds_tensors(block[0])), *share]:
            self._reading.append((name, self._threads.submit(_block_problem, folder / name, file, number)))

    def _without_manifest(self) -> None:
        """Whether checksums are missing where some were written."""
        try:
            json.loads((self.folder / "metadata.json").read_bytes())
        except (OSError, ValueError) as error:
            self._problems["metadata.json"] = f"cannot be read: {error}"
            return
        try:
            common = read_common(self.folder)
        except Exception as error:  # whatever damaged bytes make pickle, zip and torch raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._problems["common.pt"] = f"cannot be read: {reason}"
            return
        self._has_checksums = manifest.MANIFEST_KEY in common
        if self._has_checksums:
            self._problems[folders.MANIFEST_FILE] = "missing"

    def result(self) -> Inspection:
        """The findings of this process; waits until everything is read."""
        return self._told(self._wait(), self._finite, self._has_checksums)

    def shared_result(self, groups: Groups) -> Inspection:
        """The findings of all ranks together, on every rank; all ranks call this."""
        parts = gather_objects((self._wait(), self._finite, self._has_checksums), groups.world)
        problems: dict[str, str] = {}
        for part, _, _ in parts:  # the first rank's share of a file comes first in it
            problems = part | problems
        return self._told(problems, all(finite for _, finite, _ in parts), all(has for _, _, has in parts))

    def _wait(self) -> dict[str, str]:
        """What is wrong with each file, as far as this process looks."""
        for name, block in self._reading:
            problem = block.result()
            if problem is not None:
                self._problems.setdefault(name, problem)
        return self._problems

    def _told(self, problems: dict[str, str], finite: bool, has_checksums: bool) -> Inspection:
        damage = [f"{self.folder / name}: {problem}" for name, problem in sorted(problems.items())]
        return Inspection(damage, finite, has_checksums)

    def __enter__(self) -> "Verification":
        return self

    def __exit__(self, *exception: object) -> None:
        self._threads.shutdown(cancel_futures=True)


def inspect(folder: Path, *, contents: bool = True) -> Inspection:
    """Look at a checkpoint's files in this process alone; `contents` as for `Verification`."""
    with Verification(folder, contents=contents) as verification:
        return verification.result()


def shared_inspect(folder: Path, groups: Groups) -> Inspection:
    """Look at all of a checkpoint's files; the ranks, which call this together, share the reading and the answer."""
    with Verification(folder, rank=groups.rank, ranks=groups.world_size) as verification:
        return verification.shared_result(groups)


def refusals(inspections: Iterable[Inspection]) -> list[str]:
    """The damage as errors: one line for each checkpoint, which names its damaged files."""
    return [
        f"--load: {'; '.join(inspection.damage)}; accepted: an undamaged checkpoint, or --no-verify-checkpoint"
        for inspection in inspections
        if inspection.damage
    ]


def _holds_tensors(name: str) -> bool:
    return name.endswith(".distcp")


def _size_problem(path: Path, written: FileChecksums) -> str | None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if size == written.bytes else f"damaged: {size:,} bytes, {written.bytes:,} were written"


def _block_problem(path: Path, written: FileChecksums, number: int) -> str | None:
    try:
        found = manifest.block_checksum(path, number)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if found == written.blocks[number]:
        return None
    first = number * manifest.BLOCK_BYTES
    last = min(first + manifest.BLOCK_BYTES, written.bytes)
    return f"damaged: bytes {first:,} to {last:,} are not those that were written"


@dataclass(frozen=True)
class Choice:
    """The checkpoint that `--load` leads to."""

    path: Path | None
    """None: there is none."""
    remarks: tuple[str, ...] = ()
    """For the log: what was passed over, and what is to be known of the checkpoint."""
    errors: tuple[str, ...] = ()
    """Why none can be loaded."""


def candidates(load: Path) -> list[Path]:
    """The folder itself if it is a checkpoint, else those of a run folder, newest first."""
    return [load] if folders.is_complete(load) else folders.completed(load)[::-1]


def choose(found: list[Path], examine: Callable[[Path], Inspection] | None, *, named: bool) -> Choice:
    """The checkpoint to go on from: the newest that is undamaged, and whose weights are finite if any's are.

    Args:
        found: `candidates`.
        examine: looks at a checkpoint. None: nobody does, and the newest is taken.
        named: the user has named the only one.
    """
    if examine is None or not found:
        return Choice(next(iter(found), None))
    remarks: list[str] = []
    damaged: list[Inspection] = []
    not_finite: tuple[Path, Inspection] | None = None
    for path in found:
        inspection = examine(path)
        if inspection.damage:
            damaged.append(inspection)
            remarks += [f"passed over {message}" for message in inspection.damage]
        elif inspection.finite:
            return Choice(path, (*remarks, *inspection.remarks(path)))
        else:
            remarks += [] if named else [f"passed over {path}: its weights are not finite"]
            not_finite = not_finite or (path, inspection)
    if not_finite is None:
        return Choice(None, errors=tuple(refusals(damaged)))
    path, inspection = not_finite
    remarks = [remark for remark in remarks if not remark.startswith(f"passed over {path}: ")]
    return Choice(path, (*remarks, *inspection.remarks(path)))


class Search:
    """Which checkpoint `--load` leads to, all ranks together; its files are read while the run is being set up.

    A context manager; all ranks make one.
    """

    def __init__(self, load: Path | None, groups: Groups, *, verify: bool) -> None:
        """
        Args:
            load: `--load`.
            groups: the run's process groups.
            verify: `--verify-checkpoint`.
        """
        own = [] if load is None else candidates(load)
        self._groups, self._verify = groups, verify
        self._found: list[Path] = gather_objects(own, groups.world)[0]  # what rank 0 sees
        self._named = self._found == [load]
        self._first: Verification | None = None
        if verify and self._found:
            self._first = Verification(self._found[0], rank=groups.rank, ranks=groups.world_size)

    def choice(self) -> Choice:
        """The chosen checkpoint, the same on all ranks, which call this together."""
        return choose(self._found, self._examine if self._verify else None, named=self._named)

    def _examine(self, path: Path) -> Inspection:
        if self._first is not None and path == self._first.folder:
            return self._first.shared_result(self._groups)
        return shared_inspect(path, self._groups)

    def __enter__(self) -> "Search":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._first is not None:
            self._first.__exit__(*exception)


def is_finite(folder: Path) -> bool:
    """Whether all weights of a checkpoint are finite, as far as its manifest is there and says so."""
    try:
        written = manifest.read(folder)
    except (ManifestError, OSError):
        return False
    return written is None or written.finite


def newest_finite(run_dir: Path, last: Path) -> Path | None:
    """The newest checkpoint of a run, up to the last one, whose weights are finite."""
    return next((path for path in reversed(folders.up_to(run_dir, last)) if is_finite(path)), None)
