"""The report in a browser: what is shown, filtering by link and by hand, and no error on the console."""

import html
import re
from pathlib import Path

import pytest

from tests.data.chromium import CHROMIUM, driven, dumped
from tests.data.clip_files import clip_bytes, damaged
from vidtron.data.building.shard_writer import BuildOptions, build
from vidtron.data.report.assemble import assemble
from vidtron.data.report.page import page
from vidtron.data.shards.index import ShardIndex

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

CAPTIONS = {
    "a0": ("a black cat sleeps", 4.0),
    "a1": ("a white Cat jumps", 6.0),
    "a2": ("a dog runs", 7.5),
    "cat3": ("a road", None),
    "a4": ("</script><img src=x onerror=\"document.title='broken out'\"> evil cat", 5.0),
    "a5": ("a very long caption " * 40, 5.5),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of six clips; a2 cannot be decoded."""
    folder = tmp_path_factory.mktemp("browser")
    lines = ["path\tcaption\tscore_aesthetic"]
    for number, (name, (caption, score)) in enumerate(CAPTIONS.items()):
        (folder / f"{name}.mp4").write_bytes(clip_bytes(10 + 5 * number, "h264" if number % 2 else "vp9"))
        lines.append(f'{name}.mp4\t"{caption.replace(chr(34), chr(34) * 2)}"\t{"" if score is None else score}')
    (folder / "table.tsv").write_text("\n".join(lines))
    build(BuildOptions(folder / "table.tsv", folder / "shards", codec="copy"))
    broken = ShardIndex.open([folder / "shards"])[2]
    content = damaged(broken.read("mp4"))
    with open(broken.shard, "r+b") as file:
        file.seek(broken.members["mp4"][0])
        file.write(content)
    path = folder / "page" / "report.html"
    path.parent.mkdir()
    path.write_text(page(assemble(ShardIndex.open([folder / "shards"]))), encoding="utf-8")
    return path


def shown(document: str) -> tuple[str, list[str]]:
    """(the count, keys of the cards shown) of a document."""
    count = re.search(r'<strong id="count">(.*?)</strong>', document)
    assert count is not None
    cards = re.findall(r'<article class="card"( hidden="")?><h3>(.*?)</h3>', document)
    assert len(cards) == len(CAPTIONS)
    return count[1], [key for hidden, key in cards if not hidden]


@pytest.mark.parametrize(
    ("fragment", "keys"),
    [
        ("", ["a0", "a1", "a2", "cat3", "a4", "a5"]),
        ("#q=cat", ["a0", "a1", "cat3", "a4"]),  # also in keys, in any case
        ("#q=cat&min_score_aesthetic=5", ["a1", "a4"]),  # a clip without a score is none of 5 or more
        ("#max_score_aesthetic=5.5&sort=score_aesthetic&order=desc", ["a5", "a4", "a0"]),
        ("#codec=h264&sort=frames&order=desc", ["a5", "cat3", "a1"]),
        ("#state=unreadable", ["a2"]),
        ("#q=%3C/script%3E", ["a4"]),
        ("#q=nothing+like+this", []),
    ],
)
def test_a_link_filters_and_sorts(fragment: str, keys: list[str], report: Path, tmp_path: Path):
    document, console = dumped(report.as_uri() + fragment, tmp_path)
    assert shown(document) == (f"{len(keys)} of 6 sampled clips shown", keys)
    assert console == []


def test_the_page_is_complete_and_captions_are_text(report: Path, tmp_path: Path):
    document, console = dumped(report.as_uri(), tmp_path)
    assert console == []
    assert "<title>Dataset report</title>" in document and "broken out" in html.unescape(document)
    assert len(re.findall(r'<img src="data:image/jpeg;base64,', document)) == len(re.findall("<img", document)) == 15
    assert "cannot be decoded: " in document
    assert len(re.findall('<figure class="histogram">', document)) == 8
    headline = re.findall(r"<dt>(\w+)</dt><dd>(.*?)</dd>", document[: document.index("</header>")])
    assert ("samples", "6") in headline and ("codecs", "vp9, h264") in headline


def test_a_link_to_what_there_is_not_is_told(report: Path, tmp_path: Path):
    document, _ = dumped(report.as_uri() + "#codec=av1&min_nothing=3&min_frames=x&q=dog", tmp_path)
    assert shown(document)[1] == ["a2"]
    assert "codec=av1, min_nothing=3, min_frames=x" in html.unescape(document)


def test_filters_are_set_by_hand_and_written_into_the_link(report: Path, tmp_path: Path):
    script = """
      const state = () => [at("#count").textContent, frame.contentWindow.location.hash];
      const steps = [];
      await loaded("report.html");
      enter("#q", "cat"); steps.push(state());
      enter("#min_score_aesthetic", 2); steps.push(state());
      enter("#max_score_aesthetic", 1); steps.push([...state(), at("#max_score_aesthetic").value]);
      enter("#sort", "frames"); enter("#order", "desc"); steps.push(state());
      at("button[type=reset]").click(); await settled(); steps.push([...state(), at("#q").value]);
      const more = all("button.more"); more[0].click(); steps.push(more.length, more[0].parentNode.textContent.length);
      at("#skip").click(); steps.push(frame.contentDocument.activeElement.id);
      return steps;
    """
    steps, console = driven(report, script, tmp_path)
    score = "min_score_aesthetic=5.5"  # 4, 5, 5.5, 6 and 7.5: the third
    assert steps == [
        ["4 of 6 sampled clips shown", "#q=cat"],
        ["1 of 6 sampled clips shown", f"#q=cat&{score}"],
        ["0 of 6 sampled clips shown", f"#q=cat&{score}&max_score_aesthetic=5.5", "2"],  # stops at the other end
        ["0 of 6 sampled clips shown", f"#q=cat&sort=frames&order=desc&{score}&max_score_aesthetic=5.5"],
        ["6 of 6 sampled clips shown", "", ""],
        1,
        len(CAPTIONS["a5"][0].strip() + " less"),
        "clips",
    ]
    assert console == []


def test_nothing_is_wider_than_the_window_and_all_controls_are_reached(report: Path, tmp_path: Path):
    script = """
      const widths = {};
      for (const width of [400, 700, 1600]) {
        frame.style.width = width + "px"; frame.style.height = "900px"; frame.style.border = "0";
        await loaded("report.html?" + width); await settled();
        const root = frame.contentDocument.documentElement;
        widths[width] = [root.clientWidth <= width, root.scrollWidth <= root.clientWidth];
      }
      const controls = all("a, button, input, select, summary");
      return { widths, unreachable: controls.filter((one) => one.tabIndex < 0).length,
               unnamed: controls.filter((one) => !(one.labels?.length || one.ariaLabel || one.textContent)).length };
    """
    found, console = driven(report, script, tmp_path)
    assert found == {
        "widths": {width: [True, True] for width in ("400", "700", "1600")},
        "unreachable": 0,
        "unnamed": 0,
    }
    assert console == []


def test_errors_on_the_console_are_seen(report: Path, tmp_path: Path):
    """The other tests would notice."""
    (tmp_path / "broken.html").write_text("<script>nonsense()</script>")
    _, console = dumped((tmp_path / "broken.html").as_uri(), tmp_path / "profile")
    assert len(console) == 1 and "nonsense is not defined" in console[0]


def test_only_the_page_s_own_script_may_run(report: Path, tmp_path: Path):
    changed = tmp_path / "changed.html"
    changed.write_text(report.read_text().replace("</body>", "<script>document.title='ran'</script></body>"))
    document, console = dumped(changed.as_uri(), tmp_path / "profile")
    assert "<title>Dataset report</title>" in document
    assert any("Content Security Policy" in line for line in console)
