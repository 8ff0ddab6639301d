"""Members of tars as an index names them: whether the bytes at a place are those of the member that is meant."""

import io
import tarfile

BLOCK = tarfile.BLOCKSIZE
_SHORT = tarfile.LENGTH_NAME
_EXTENDED_BLOCKS = 32  # before the header of a member whose name is too long for it, or not ASCII


def header_length(name: str, offset: int) -> int:
    """Bytes before a member's content that say whose it is: its header, and an extended one where names need it.

    Args:
        name: of the member.
        offset: of its content in the tar.
    """
    blocks = 1 if _fits(name) else 1 + _EXTENDED_BLOCKS
    return min(offset, blocks * BLOCK)


def header_problem(header: bytes, name: str, size: int) -> str:
    """What is wrong where a member of this name and size should begin; empty if nothing is.

    Args:
        header: the `header_length` bytes before its content.
        name: of the member; the case of its extension does not count.
        size: of the content, bytes.
    """
    found = _extended(header) if len(header) > BLOCK else None
    if found is None:
        try:
            found = tarfile.TarInfo.frombuf(header[-BLOCK:], "utf-8", "surrogateescape")
        except tarfile.TarError:
            return "no member of the shard begins where the index says"
    if not found.isreg():
        return "the index leads to something in the shard that is no file"
    if _folded(found.name) != _folded(name):
        return f"the index leads to {found.name} instead"
    if found.size != size:
        return f"it has {found.size} bytes where the index says {size}"
    return ""


def _extended(header: bytes) -> tarfile.TarInfo | None:
    """The member with the last extended header that leads just to the end of these bytes, if there is one."""
    for start in range(len(header) - 3 * BLOCK, -1, -BLOCK):
        if header[start + 156 : start + 157] in (b"x", b"L"):
            try:
                with tarfile.open(fileobj=io.BytesIO(header[start:]), mode="r:") as tar:
                    found = tar.next()
            except tarfile.TarError:
                continue
            if found is not None and found.offset_data == len(header) - start:
                return found
    return None


def _fits(name: str) -> bool:
    return name.isascii() and len(name) <= _SHORT


def _folded(name: str) -> tuple[str, str]:
    stem, _, extension = name.rpartition(".")
    return stem, extension.lower()
