"""The plan of the house: which room may import which, and what only one room may touch."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from vidtron.models import registry

ROOT = Path(__file__).parents[1]

ORDER = [
    {"config", "diffusion"},
    {"parallel"},
    {"models", "encoders", "data"},
    {"checkpoint", "recipe"},
    {"inference"},
    {"training"},
]
"""A room may import the rooms of earlier rows. `config` and `diffusion` import nothing of ours."""

SIDE_ROOMS = {"curation": {"config", "data", "curation"}}
"""A room beside the way of a training run: what it may import; only tools may import it."""

ROOMS = set().union(*ORDER, SIDE_ROOMS)
MAX_LINES = 400


def allowed(room: str) -> set[str]:
    """Rooms that `room` may import, itself included."""
    if room in SIDE_ROOMS:
        return SIDE_ROOMS[room]
    row = next(i for i, rooms in enumerate(ORDER) if room in rooms)
    return {room}.union(*ORDER[:row])


def imported(source: str, package: str) -> Iterator[str]:
    """Dotted names that a module of `package` imports, anywhere in it; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def sources(*folders: str) -> list[Path]:
    """Our Python files."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def wrong_imports(room: str, source: str, package: str) -> list[str]:
    """Names that a module of `room` must not import."""
    wrong = []
    for name in imported(source, package):
        first, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if first == "vidtron" and target in ROOMS and target not in allowed(room):
            wrong.append(name)
        if first in ("tools", "tests", "benchmarks", "pretrain_video"):
            wrong.append(name)
        if room == "diffusion" and (first == "megatron" or (name + ".").startswith("torch.distributed.")):
            wrong.append(name)
    return wrong


def test_the_rule_finds_what_it_should():
    assert wrong_imports("models", "from vidtron.data.planning.plan import Plan", "vidtron.models") == [
        "vidtron.data.planning.plan.Plan"
    ]
    assert wrong_imports("models", "from vidtron import training", "vidtron.models") == ["vidtron.training"]
    assert wrong_imports("data", "def f():\n    import vidtron.encoders.t5", "vidtron.data") == ["vidtron.encoders.t5"]
    assert wrong_imports("config", "from ..parallel import x", "vidtron.config") == ["vidtron.parallel.x"]
    assert wrong_imports("diffusion", "import torch.distributed as dist", "vidtron.diffusion") == ["torch.distributed"]
    assert wrong_imports("diffusion", "from vidtron.config.run import R", "vidtron.diffusion")
    assert wrong_imports("curation", "from vidtron.encoders import t5", "vidtron.curation")
    assert wrong_imports("training", "from vidtron.curation import run", "vidtron.training")
    assert not wrong_imports("training", "from vidtron.models import registry\nimport torch", "vidtron.training")


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_import_one_way(room: str):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(f"vidtron/{room}")
        for name in wrong_imports(room, path.read_text(), ".".join(path.relative_to(ROOT).parent.parts))
    ]
    assert not wrong, "\n".join(wrong)


def test_training_takes_of_inference_what_samples_videos():
    """All else that both need is in `recipe`."""
    taking = {
        path.name
        for path in sources("vidtron/training")
        if any(name.startswith("vidtron.inference") for name in imported(path.read_text(), "vidtron.training"))
    }
    assert taking == {"checks.py", "logging.py", "validation_samples.py"}


def test_every_room_is_a_package_and_known():
    folders = {path for path in (ROOT / "vidtron").rglob("*") if path.is_dir() and any(path.glob("*.py"))}
    missing = [str(path.relative_to(ROOT)) for path in folders if not (path / "__init__.py").is_file()]
    assert not missing, f"without __init__.py, so that an installed vidtron lacks them: {missing}"
    assert {path.name for path in folders if path.parent.name == "vidtron"} == ROOMS


def test_only_parallel_reads_global_parallel_state():
    ours = [path for path in sources("vidtron", "tools", "examples", "benchmarks") if "parallel" not in path.parts]
    reading = [path for path in [*ours, ROOT / "pretrain_video.py"] if "parallel_state" in path.read_text()]
    assert not reading


FAMILIES = [name.rpartition(".")[2] for name in registry.OWN]


def texts_in(source: str) -> Iterator[str]:
    """All texts of a module that are no documentation."""
    tree = ast.parse(source)
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value


def knows_a_family(source: str, package: str) -> list[str]:
    """What a module imports of a family's package, and texts in which it names one."""
    packages = [f"vidtron.models.{family}" for family in FAMILIES]
    found = [name for name in imported(source, package) for p in packages if f"{name}.".startswith(f"{p}.")]
    return found + [text for text in texts_in(source) if any(re.search(rf"\b{f}\b", text) for f in FAMILIES)]


def test_the_rule_about_families_finds_what_it_should():
    assert FAMILIES
    family = FAMILIES[0]
    assert knows_a_family(f"from vidtron.models.{family} import config", "vidtron.data")
    assert knows_a_family(f"def f():\n    from vidtron.models import {family}", "vidtron.data")
    assert knows_a_family(f"from .{family}.config import PRESETS", "vidtron.models")
    assert knows_a_family(f"if run.model == '{family}-5b':\n    pass", "vidtron.training")
    assert knows_a_family(f"x = f'{{run.model}} is {family}'", "vidtron.training")
    assert not knows_a_family(f'"""As {family} does it."""\nfrom vidtron.models import registry', "vidtron.data")


def test_nothing_but_the_registrys_table_knows_a_family():
    own = [ROOT / "vidtron" / "models" / family for family in FAMILIES]
    paths = [path for path in sources("vidtron", "tools") if not any(folder in path.parents for folder in own)]
    known = {}
    for path in [*paths, ROOT / "pretrain_video.py"]:
        package = ".".join(path.relative_to(ROOT).parent.parts)
        if found := knows_a_family(path.read_text(), package):
            known[str(path.relative_to(ROOT))] = " ".join(found)
    assert known.pop("vidtron/models/registry.py") == " ".join(registry.OWN)
    assert not known


def test_files_have_one_subject():
    files = [*sources("vidtron", "tools", "examples", "benchmarks", "tests", "docs"), *ROOT.glob("*.py")]
    assert len(files) > 50
    long = {str(path.relative_to(ROOT)): n for path in files if (n := len(path.read_text().splitlines())) > MAX_LINES}
    assert not long


def test_the_entry_point_is_short():
    assert len((ROOT / "pretrain_video.py").read_text().splitlines()) < 150
