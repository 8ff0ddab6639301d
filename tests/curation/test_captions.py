"""Text: cleaning, prefixes, camera sentences."""

import json
from pathlib import Path

import pytest

from tests.curation.steps import rows_of, write_rows
from vidtron.curation.cleaning import Clean
from vidtron.curation.table import CurationError

pytest.importorskip("ftfy")
pytest.importorskip("bs4")
ORACLE = Path(__file__).parents[1] / "reference" / "data" / "opensora"


def test_texts_as_open_sora_makes_them():
    from vidtron.curation.caption_rules import clean_for_t5, with_motion, without_prefix

    for caption, cleaned in json.loads((ORACLE / "text_cleaning.json").read_text()).items():
        assert clean_for_t5(caption) == cleaned
    facts = json.loads((ORACLE / "tools.json").read_text())
    for caption, rest in facts["remove_caption_prefix"].items():
        assert without_prefix(caption) == rest
    for motion, caption in facts["merge_cmotion"].items():
        assert with_motion("A dog runs.", motion) == caption


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Clean(), "A dog runs <fast>."),
        (Clean(motion=True), "A dog runs <fast>. The camera is panning left."),
        (Clean(remove_prefix=False), "The video shows a dog runs <fast>."),
        (Clean(motion=True, t5=True), "a dog runs the camera is panning left."),
    ],
)
def test_clean(tmp_path, step, text):
    source = write_rows(
        tmp_path / "in.parquet",
        [
            {"path": "/a", "text": "The video shows\n a dog runs <fast>.", "motion": "pan left"},
            {"path": "/b", "text": " ", "motion": None},
        ],
    )
    good, empty = rows_of(step, source)
    assert (good["text"], good["error"]) == (text, None)
    assert (empty["text"], empty["error"]) == (None, "clean: it has no caption in the column text")


def test_motion_needs_its_column(tmp_path):
    source = write_rows(tmp_path / "in.parquet", [{"path": "/a", "text": "x"}])
    with pytest.raises(CurationError, match="has no column motion"):
        rows_of(Clean(motion=True), source)
