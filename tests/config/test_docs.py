"""The documentation's tables are those of the code."""

import importlib.util
import re
from pathlib import Path

from vidtron.config.flags import flags
from vidtron.models.registry import preset, preset_names

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OTHER_PROGRAMS = {"--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint"}
"""Flags of torchrun that the texts mention."""


def test_flags_and_presets_are_up_to_date():
    spec = importlib.util.spec_from_file_location("generate_flags", DOCS / "generate_flags.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text(encoding="utf-8")
    assert "`--tensor-model-parallel-size`" in page and "`cogvideox-5b`" in page
    assert module.generated(page) == page, "run python docs/generate_flags.py"


def test_texts_mention_only_flags_that_exist():
    legal = {"--model", "--config", "--plugin", "--help", *OTHER_PROGRAMS}
    for name in preset_names():
        for flag in flags(type(preset(name).network)).values():
            legal |= {flag.option, f"--no-{flag.option[2:]}"}
    rooms = ("inference", "recipe", "data", "curation")
    programs = [
        *ROOT.glob("tools/**/*.py"),
        *ROOT.glob("benchmarks/*.py"),
        *(path for room in rooms for path in ROOT.glob(f"vidtron/{room}/**/*.py")),
    ]
    sources = "".join(path.read_text() for path in programs)
    unknown = {
        (page.name, word)
        for page in [ROOT / "README.md", ROOT / "examples" / "README.md", *DOCS.glob("*.md")]
        for word in re.findall(r"(?<![\w-])--[a-z][\w.-]*[a-z0-9]", page.read_text(encoding="utf-8"))
        if word not in legal
        and f'"{word}"' not in sources
        and not re.search(rf"^    {word[2:].replace('-', '_')}: ", sources, re.MULTILINE)
    }
    assert not unknown
