"""Cards and the page's data."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.data.clip_files import clip_bytes, damaged, shown_numbers
from tests.data.index_files import facts, row, write_index
from vidtron.config.data import ClipSize, DataConfig
from vidtron.data.building.shard_writer import BuildOptions, build
from vidtron.data.fit import ClipFit
from vidtron.data.planning.plan import Plan
from vidtron.data.report.assemble import assemble
from vidtron.data.report.cards import shown_frames, thumbnail
from vidtron.data.report.html import document, embedded
from vidtron.data.report.page import content, page
from vidtron.data.report.planned import buckets_of
from vidtron.data.shards.index import ShardIndex

EVIL = '</script><img src=x onerror="alert(1)"><!-- <script> & " \' %%data%% \u0000'


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of several kinds, two of which are broken after they got into the index."""
    folder = tmp_path_factory.mktemp("report")
    clips = folder / "clips"
    clips.mkdir()
    for name, video in {
        "broken": clip_bytes(20),
        "evil": clip_bytes(41, "vp9"),
        "long": clip_bytes(60, gop=10),
        "mute": clip_bytes(10),
        "uneven": clip_bytes(3, seconds=[0.0, 0.5, 3.0]),
    }.items():
        (clips / f"{name}.mp4").write_bytes(video)
        (clips / f"{name}.txt").write_text(f"caption of {name}")
    (clips / "evil.txt").write_text(EVIL)
    Image.new("RGB", (300, 200), (200, 30, 30)).save(clips / "picture.png")
    (clips / "picture.txt").write_text("a red picture")
    build(BuildOptions(clips, folder / "shards", codec="copy"))
    for sample in ShardIndex.open([folder / "shards"]):
        wrong = {"broken": ("mp4", damaged(sample.read("mp4"))) if sample.media == "mp4" else None}
        wrong["mute"] = ("txt", b"\xff" * sample.members["txt"][1])
        if (change := wrong.get(sample.key)) is not None:
            with open(sample.shard, "r+b") as file:
                file.seek(sample.members[change[0]][0])
                file.write(change[1])
    return folder / "shards"


@pytest.fixture(scope="module")
def cards(shards: Path) -> dict[str, Any]:
    report = assemble(ShardIndex.open([shards]), workers=2)
    assert report.notes == ["2 of the 6 sampled clips cannot be read; their cards say why"]
    return {card["key"]: card for card in content(report)["cards"]}


def pixels(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_card_shows_the_first_middle_and_last_frame(cards: dict[str, Any]):
    images = [pixels(uri) for uri in cards["long"]["thumbnails"]]
    frames_TCHW = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    assert shown_numbers(frames_TCHW) == [0, 29, 59]
    assert len(cards["uneven"]["thumbnails"]) == 3
    assert len(cards["picture"]["thumbnails"]) == 1
    assert pixels(cards["picture"]["thumbnails"][0]).shape == (160, 240, 3)


@pytest.mark.parametrize(("frames", "numbers"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (100, [0, 49, 99])])
def test_short_clips_show_each_frame_once(frames: int, numbers: list[int]):
    assert shown_frames(frames) == numbers


def test_thumbnails_are_bounded():
    assert pixels(thumbnail(np.zeros((100, 4000, 3), np.uint8))).shape == (12, 480, 3)
    assert pixels(thumbnail(np.zeros((2000, 100, 3), np.uint8))).shape == (160, 8, 3)


def test_what_cannot_be_read_is_a_card_with_its_reason(cards: dict[str, Any]):
    broken, mute = cards["broken"], cards["mute"]
    assert broken["thumbnails"] == () and broken["problem"].startswith("cannot be decoded: ")
    assert broken["caption"] == "caption of broken"
    assert mute["caption"] == "" and "UTF-8" in mute["problem"] and len(mute["thumbnails"]) == 3
    assert [key for key, card in cards.items() if card["problem"]] == ["broken", "mute"]


def test_a_shard_that_is_gone_gives_cards_too(shards: Path, tmp_path: Path):
    folder = tmp_path / "s"
    folder.mkdir()
    for path in shards.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    index = ShardIndex.open([folder])
    next(folder.glob("*.tar")).unlink()
    report = assemble(index)
    assert len(report.cards) == 6 and all(card.problem for card in report.cards)


def test_no_text_of_the_dataset_is_markup(shards: Path):
    html = page(assemble(ShardIndex.open([shards])))
    data = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert len(data) == 1 and not set(data[0]) & set("<>&")
    assert {card["key"]: card["caption"] for card in json.loads(data[0])["cards"]}["evil"] == EVIL
    assert html.count("<script") == html.count("</script>") == 2
    assert "<img" not in html
    assert html.count("onerror=") == 1  # in the data, and nowhere else


def test_a_page_runs_its_own_script_alone():
    html = document("<b>", "<p>drawn</p>", script="1 < 2", data=["</script>"])
    assert "<title>&lt;b&gt;</title>" in html and "<p>drawn</p>" in html
    assert "</script>" not in html.partition('id="data">')[2].partition("</script>\n<script>")[0]
    assert "script-src 'sha256-" in html and html.endswith("<script>1 < 2</script>\n</body>\n</html>\n")
    assert "script" not in document("Buckets", "<svg/>")


def test_the_page_needs_nothing_else(shards: Path):
    html = page(assemble(ShardIndex.open([shards]), samples=0))
    assert not re.search(r'(src|href)="(?!data:|#)|@import|url\(|https?://|%%', html)
    assert len(re.findall(r'(src|href)="', html)) == 2


def test_numbers_that_json_has_not_are_left_out(tmp_path: Path):
    rows = [row("a", facts(), scores={"score_a": None}), row("b", facts(), scores={"score_a": 2.0})]
    index = ShardIndex.open([write_index(tmp_path / "a", rows, scores=("score_a",))], check_shards=False)
    found = content(assemble(index, samples=2))
    place = [column["name"] for column in found["columns"]].index("score_a")
    assert [card["values"][place] for card in found["cards"]] == [None, 2.0]
    assert json.loads(embedded(found))["samples"] == 2
    with pytest.raises(ValueError):
        embedded(float("nan"))


def test_line_separators_do_not_end_a_script_s_line():
    assert "\u2028" not in embedded("a\u2028b") and json.loads(embedded("a\u2028b")) == "a\u2028b"


def fit() -> ClipFit:
    return ClipFit(
        rounded_size=lambda height, width: (max(16, height // 16 * 16), max(16, width // 16 * 16)),
        nearest_frames=lambda frames: (frames,),
        tokens=lambda size: size.num_frames,
        flops=lambda size: float(size.num_frames),
        errors=lambda size: [],
    )


@pytest.fixture()
def many(tmp_path: Path) -> ShardIndex:
    rng = np.random.default_rng(0)
    sizes = [(176, 144), (96, 160), (320, 240), (640, 480)]
    rows = []
    for number in range(300):
        width, height = sizes[rng.integers(4)]
        rows.append(row(f"clip{number}", facts(int(rng.integers(1, 40)), width=width, height=height)))
    return ShardIndex.open([write_index(tmp_path / "many", rows, rows_per_batch=64)], check_shards=False)


def bucketed(index: ShardIndex, folder: Path) -> Plan:
    config = folder / "buckets.yaml"
    config.write_text(
        yaml.safe_dump({"144p": {1: [1.0, 2], 9: [0.5, 4]}, "240p": {17: [0.5, 3]}, "1080p": {9: [1.0, 2]}})
    )
    data = DataConfig(bucket_config=config, short_clip="skip", shuffle_slice=8, shuffle_window=64)
    return Plan.from_config(index, data, 5, fit())


def test_cards_know_their_buckets(many: ShardIndex, tmp_path: Path):
    plan = bucketed(many, tmp_path)
    rows = np.arange(0, 300, 2)
    found = dict(zip(rows.tolist(), buckets_of(plan, rows), strict=True))
    planned = {}
    for position in range(plan.epoch_report(0).used):
        sample = plan.slot(position)
        planned[sample.row] = sample.bucket.name
    assert len(planned) > 50
    assert {name for row, name in planned.items() if row in found and found[row] != name} == set()
    in_none = sum(name is None for name in buckets_of(plan, np.arange(300)))
    assert in_none == sum(plan.epoch_report(0).dropped.values()) > 0


def test_the_page_shows_the_plan(many: ShardIndex, tmp_path: Path):
    plan = bucketed(many, tmp_path)
    found = content(assemble(many, plan=plan, samples=0))["plan"]
    report = plan.epoch_report(0)
    assert found["bucketed"] and (found["samples"], found["used"]) == (300, report.used)
    assert sum(one["samples"] for one in found["buckets"]) + sum(report.dropped.values()) == 300
    one = next(one for one in found["buckets"] if one["batches"])
    assert one["samples"] == one["batches"] * one["batch"] + one["left"]
    assert any("1080p-9f is empty" in warning for warning in found["warnings"])


def test_a_run_without_buckets_has_one_size(many: ShardIndex):
    size = ClipSize(17, 96, 160)
    data = DataConfig(num_frames=size.num_frames, height=size.height, width=size.width, short_clip="skip")
    report = assemble(many, plan=Plan.from_config(many, data, 0), samples=50)
    found = content(report)
    assert not found["plan"]["bucketed"]
    assert found["plan"]["buckets"] == [
        {"name": "96x160-17f", "size": "17 x 96 x 160", "batch": None, "samples": found["plan"]["used"],
         "batches": found["plan"]["used"], "left": 0}
    ]  # fmt: skip
    frames = [column["name"] for column in found["columns"]].index("frames")
    for card in found["cards"]:
        assert (card["bucket"] == "left out") == (card["values"][frames] < 17)
