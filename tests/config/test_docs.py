"""The documentation's tables are those of the code."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_flags_and_presets_are_up_to_date():
    spec = importlib.util.spec_from_file_location("generate_flags", DOCS / "generate_flags.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text(encoding="utf-8")
    assert "`--tensor-model-parallel-size`" in page and "`cogvideox-5b`" in page
    assert module.generated(page) == page, "run python docs/generate_flags.py"
