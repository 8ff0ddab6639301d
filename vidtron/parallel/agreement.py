"""What ranks tell each other outside the network: flags, objects, tensors; and the state of their device."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from vidtron.config.storage import StorageError
from vidtron.parallel.groups import Groups

T = TypeVar("T")


def any_rank(flag: bool, groups: Groups) -> bool:
    """True on all ranks of the run if `flag` is true on one of them."""
    answer = torch.tensor(int(flag), device=groups.device)
    dist.all_reduce(answer, op=dist.ReduceOp.MAX, group=groups.world)
    return bool(answer.item())


def broadcast_tensor(tensor: torch.Tensor, owner: int, group: ProcessGroup) -> torch.Tensor:
    """Overwrite `tensor` with that of the group's rank `owner`, in place, and return it.

    All ranks hand in a contiguous tensor of one shape and dtype on their device.
    """
    if group.size() > 1:
        dist.broadcast(tensor, dist.get_global_rank(group, owner), group=group)
    return tensor


def broadcast_object(value: Any, owner: int, groups: Groups, group: ProcessGroup | None = None) -> Any:
    """The picklable object that rank `owner` of the group hands in; the others may hand in None.

    The group is the replica unless another is given.
    """
    group = groups.replica if group is None else group
    if group.size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, dist.get_global_rank(group, owner), group=group, device=groups.device)
    return box[0]


def on_first_rank(action: Callable[[], T], groups: Groups) -> T:
    """Run an action on rank 0 alone, and give its result to all ranks, which call this together.

    Raises:
        StorageError: it could not write, on all ranks.
        Exception: whatever else it raised on rank 0; a RuntimeError that tells of it on the others.
    """
    result: Any = None
    error: Exception | None = None
    if groups.rank == 0:
        try:
            result = action()
        except OSError as failure:
            place = f"{failure.filename}: " if failure.filename is not None else ""
            error = StorageError(f"{place}cannot be written ({failure.strerror or failure})")
        except Exception as failure:
            error = failure
    told = None if error is None else (isinstance(error, StorageError), str(error))
    result, told = broadcast_object((result, told), 0, groups, groups.world)
    if error is not None:
        raise error
    if told is not None:
        is_storage, message = told
        raise StorageError(message) if is_storage else RuntimeError(f"rank 0: {message}")
    return result


def gather_objects(value: Any, group: ProcessGroup) -> list[Any]:
    """The picklable objects that all ranks of the group hand in, by rank, on all of them."""
    gathered: list[Any] = [value] * group.size()
    if group.size() > 1:
        dist.all_gather_object(gathered, value, group=group)
    return gathered


def gather_tensors(tensor: torch.Tensor, group: ProcessGroup) -> list[torch.Tensor]:
    """The tensors that all ranks of the group hand in, of one shape and dtype, by rank, on all of them."""
    gathered = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(group.size())]
    dist.all_gather(gathered, tensor.contiguous(), group=group)
    return gathered


def barrier(groups: Groups) -> None:
    """Wait until all ranks of the run are here."""
    any_rank(False, groups)


class PatientBarrier:
    """A barrier for ranks that may be hours apart: what they wait in has no part in the run's time-out.

    Made by all ranks together.
    """

    def __init__(self, groups: Groups) -> None:
        alone = groups.world_size == 1
        # NCCL's watchdog would end the run; gloo, which also GPU runs have, knows a time-out for each group.
        self._group = None if alone else dist.new_group(backend="gloo", timeout=timedelta(days=30))

    def wait(self) -> None:
        """Return when all ranks of the run have come."""
        if self._group is not None:
            dist.barrier(group=self._group)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_statistics(device: torch.device) -> dict[str, int]:
    """Bytes of device memory: `allocated` and `reserved` now, `max_allocated` since the last reset.

    On a CPU: `resident`, the memory of this process, and `max_resident` since it started.
    """
    if device.type == "cuda":
        return {
            "allocated": torch.cuda.memory_allocated(device),
            "reserved": torch.cuda.memory_reserved(device),
            "max_allocated": torch.cuda.max_memory_allocated(device),
        }
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return {
        name: int(fields[field].split()[0]) * 1024
        for name, field in (("resident", "VmRSS"), ("max_resident", "VmHWM"))
        if field in fields
    }
