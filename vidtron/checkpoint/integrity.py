"""Whether a checkpoint's files are what was written, told before anything in them is opened."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from vidtron.checkpoint import folders, manifest
from vidtron.checkpoint.full_state import read_common
from vidtron.checkpoint.manifest import BLOCK_BYTES, Manifest, ManifestError
from vidtron.parallel import Groups, gather_objects

_THREADS = 2
"""That hash at the same time in one process: as many as there are cores for a rank anywhere."""
_ADVICE = "accepted: an undamaged checkpoint, or --no-verify-checkpoint"


def damage(folder: Path, *, contents: bool = True, rank: int = 0, ranks: int = 1) -> list[str]:
    """What of a checkpoint is not as it was written: one message for each file, which it names; none if all is well.

    A checkpoint of an earlier version, which has no checksums, passes.

    Args:
        folder: an iter_* folder.
        contents: read the tensors' files too; else their sizes alone are compared, and what the other files hold.
        rank: of the processes that share the reading of tensors' files; each tells of its part.
        ranks: number of these processes.
    """
    try:
        written = manifest.read(folder)
    except (ManifestError, OSError) as error:
        return [f"{folder / folders.MANIFEST_FILE}: {error}"]
    if written is None:
        return _without_manifest(folder)
    problems = {name: problem for name in written.files if (problem := _size_problem(folder, written, name))}
    blocks = [(name, n) for name, file in written.files.items() for n in range(len(file.blocks)) if name not in problems]
    small = [(name, n) for name, n in blocks if not _holds_tensors(name)]
    large = [(name, n) for name, n in blocks if _holds_tensors(name)] if contents else []
    # Neighbours together: a part of a file is read from its beginning to its end.
    mine = [*small, *large[rank * len(large) // ranks : (rank + 1) * len(large) // ranks]]
    with ThreadPoolExecutor(_THREADS) as threads:
        for (name, _), problem in zip(mine, threads.map(partial(_block_problem, folder, written), mine), strict=True):
            if problem is not None:
                problems.setdefault(name, problem)
    return [f"{folder / name}: {problem}" for name, problem in sorted(problems.items())]


def _holds_tensors(name: str) -> bool:
    return name.endswith(".distcp")


def _without_manifest(folder: Path) -> list[str]:
    """Whether a manifest is missing where one was written."""
    try:
        common = read_common(folder)
    except Exception as error:  # whatever damaged bytes make pickle, zip and torch raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return [f"{folder / 'common.pt'}: cannot be read: {reason}"]
    return [f"{folder / folders.MANIFEST_FILE}: missing"] if manifest.MANIFEST_KEY in common else []


def _size_problem(folder: Path, written: Manifest, name: str) -> str | None:
    try:
        size = (folder / name).stat().st_size
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    expected = written.files[name].bytes
    return None if size == expected else f"damaged: {size:,} bytes, {expected:,} were written"


def _block_problem(folder: Path, written: Manifest, block: tuple[str, int]) -> str | None:
    name, number = block
    try:
        found = manifest.block_checksum(folder / name, number)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if found == written.files[name].blocks[number]:
        return None
    first, last = number * BLOCK_BYTES, min((number + 1) * BLOCK_BYTES, written.files[name].bytes)
    return f"damaged: bytes {first:,} to {last:,} are not those that were written"


def shared_damage(folder: Path, groups: Groups) -> list[str]:
    """`damage`, the reading shared by all ranks of the run; all get the same answer. All ranks call it together."""
    own = damage(folder, rank=groups.rank, ranks=groups.world_size)
    return sorted({message for part in gather_objects(own, groups.world) for message in part})


def refusals(messages: list[str]) -> list[str]:
    """Messages of `damage`, as errors of `--load`."""
    return [f"--load {message}; {_ADVICE}" for message in messages]


def has_checksums(folder: Path) -> bool:
    """Whether a checkpoint was written with checksums."""
    return (folder / folders.MANIFEST_FILE).is_file()


@dataclass(frozen=True)
class Choice:
    """The checkpoint that `--load` leads to."""

    path: Path | None
    """None: there is none."""
    remarks: list[str] = field(default_factory=list)
    """What was passed over and why, for the log."""
    errors: list[str] = field(default_factory=list)
    """Why none can be loaded."""


def choose(load: Path, check: Callable[[Path], list[str]] | None) -> Choice:
    """The iter_* folder that `load` names, or the newest of a run folder that is undamaged, and finite if any is.

    Args:
        load: a run folder or an iter_* folder; or something else, which leads to none.
        check: what is damaged in a checkpoint (`damage`, `shared_damage`). None: nothing is looked at, and the newest
            complete one is taken.
    """
    if folders.is_complete(load):
        return _named(load, check)
    candidates = folders.completed(load)[::-1]
    if check is None or not candidates:
        return Choice(next(iter(candidates), None))
    passed_over: list[str] = []
    damaged: list[str] = []
    not_finite: list[Path] = []
    for path in candidates:
        if found := check(path):
            damaged += found
            passed_over += [f"passed over {message}" for message in found]
        elif is_finite(path):
            return Choice(path, passed_over)
        else:
            not_finite.append(path)
            passed_over.append(f"passed over {path}: its weights are not finite")
    if not_finite:
        newest = not_finite[0]
        rest = [line for line in passed_over if line != f"passed over {newest}: its weights are not finite"]
        return Choice(newest, [*rest, _not_finite_warning(newest)])
    return Choice(None, [], refusals(damaged))


def _named(path: Path, check: Callable[[Path], list[str]] | None) -> Choice:
    if check is None:
        return Choice(path)
    if found := check(path):
        return Choice(None, [], refusals(found))
    return Choice(path, [] if is_finite(path) else [_not_finite_warning(path)])


def _not_finite_warning(path: Path) -> str:
    return f"WARNING: the weights of {path} are not finite; no training comes back from that"


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
