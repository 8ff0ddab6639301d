"""The header before a member's bytes says whose they are, whatever wrote the tar."""

import io
import tarfile

import pytest

from vidtron.data.shards.members import header_length, header_problem

NAMES = ["a.mp4", "./folder/a.MP4", "f" * 90 + ".mp4", "f" * 99 + "/" + "g" * 90 + ".mp4", "k" * 240 + ".mp4",
         "grüße/日本.mp4", "ü" * 120 + ".txt", "k" * 1500 + ".json"]  # fmt: skip
CONTENT = b"x" * 700


def places(form: int) -> tuple[bytes, dict[str, int]]:
    """A tar of these names, and where their contents begin."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name in NAMES:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(CONTENT), 1.5  # a part of a second takes an extended header in PAX
            tar.addfile(info, io.BytesIO(CONTENT))
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        return file.getvalue(), {info.name: info.offset_data for info in tar}


def problem(content: bytes, offset: int, name: str, size: int = len(CONTENT)) -> str:
    before = header_length(name, offset)
    return header_problem(content[offset - before : offset], name, size)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_known_by_their_headers(form: int) -> None:
    content, found = places(form)
    assert set(found) == set(NAMES)
    for name, offset in found.items():
        stem, _, extension = name.rpartition(".")
        assert problem(content, offset, f"{stem}.{extension.lower()}") == ""
        assert problem(content, offset, name, 699) == "it has 700 bytes where the index says 699"
        assert problem(content, 0, name) == "no member of the shard begins where the index says"
        assert problem(content, offset + 1, name) == "no member of the shard begins where the index says"
        for other in set(NAMES) - {name}:
            assert problem(content, offset, other).startswith("the index leads to ")


def test_what_is_no_file_is_refused() -> None:
    folder = tarfile.TarInfo("a.mp4")
    folder.type = tarfile.DIRTYPE
    assert header_problem(folder.tobuf(), "a.mp4", 0) == "the index leads to something in the shard that is no file"
    assert header_problem(b"", "a.mp4", 0) == "no member of the shard begins where the index says"
