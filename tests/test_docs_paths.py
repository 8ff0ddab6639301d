"""Files that the pages for developers name are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
PAGES = [ROOT / "docs" / "extending.md", *ROOT.glob("docs/debugging.md"), ROOT / "CONTRIBUTING.md"]


def paths_named(text: str) -> list[str]:
    """What stands in backticks and is a path: in a folder of the repository, or a Python file beside the folders."""
    words = re.findall(r"`([\w./*-]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    file = re.compile(r"[\w-]+/[\w./-]+\.\w+|[a-z]\w*_\w+\.py")
    return [word for word in words if file.fullmatch(word) or ("/" in word and word.split("/")[0] in FOLDERS)]


def missing(text: str) -> list[str]:
    """Paths named in a page that are not there."""
    return [path for path in paths_named(text) if not any(ROOT.glob(path.rstrip("/")))]


def test_the_rule_finds_what_it_should():
    text = "`vidtron/training/run.py` and `training/run.py` and `pretrain_video.py`, `tests/*.py`, `a/b`, `model.py`\n"
    assert paths_named(text) == ["vidtron/training/run.py", "training/run.py", "pretrain_video.py", "tests/*.py"]
    assert missing(text + "`vidtron/no_such_file.py`") == ["training/run.py", "vidtron/no_such_file.py"]
    assert missing("`vidtron/models/`, `vidtron/nowhere/`\n```\n`vidtron/x.py`\n```\n") == ["vidtron/nowhere/"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    assert paths_named(text)
    assert not missing(text)


def test_a_step_names_its_files():
    """Each file of the training room that a step runs through stands in the section about it."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    section = page.partition("## A training step, file by file")[2].partition("\n## ")[0]
    elsewhere = {"__init__", "batch_size", "checks", "clip_fit", "encode_shards", "folder", "memory", "run"}
    files = {path.stem for path in (ROOT / "vidtron" / "training").glob("*.py")} - elsewhere
    assert not {name for name in files if f"`vidtron/training/{name}.py`" not in section}
