"""Whether a folder can be written, found out before any work is lost for it."""

import tempfile
from pathlib import Path

from vidtron.config.ranges import name_error

ACCEPTED = "accepted: a folder that can be written, which is made if it does not exist"


def folder_error(folder: Path) -> str | None:
    """What prevents files in `folder`; None if nothing does.

    Tried where it is, or in the nearest folder above that exists, with a folder and a file that go again: permissions
    do not tell of file systems that are read-only, full or no place for files.
    """
    problem = name_error(str(folder))
    if problem is not None:
        return problem
    try:
        place = folder.absolute()
        while not place.exists() and not place.is_symlink():
            place = place.parent
        if not place.is_dir():
            where = "not a folder" if place == folder.absolute() else f"{place} is not a folder"
            return f"{where}; {ACCEPTED}"
        with tempfile.TemporaryDirectory(prefix=".vidtron-", dir=place) as made:
            (Path(made) / "file").write_bytes(b"0")
    except OSError as error:
        return f"cannot be written ({error.strerror}); {ACCEPTED}"
    return None
