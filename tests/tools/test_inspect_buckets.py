import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.data.array_index import ArrayIndex
from tools import inspect_buckets
from vidtron.data.shards.index import ShardIndex

MODEL = "--model cogvideox-5b --fps 8".split()


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line over 6 videos of twice the pixels, 5 short ones, 2 images and one clip that is too small."""
    index = ArrayIndex(
        [20] * 6 + [9] * 5 + [1] * 2 + [20], [480] * 6 + [240] * 7 + [24], [480] * 6 + [240] * 7 + [24], fps=8.0
    )
    monkeypatch.setattr(ShardIndex, "open", lambda *folders, **settings: index)
    path = tmp_path / "buckets.yaml"
    path.write_text("480x240: {17: [1, 4]}\n240x240: {1: [1, 3], 17: [1, 2]}")
    return [*MODEL, "--data-path", "shards", "--bucket-config", str(path)]


def test_the_table(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    inspect_buckets.main([*words, "--epochs", "2"])
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines[1:4]}
    # name, height x width, batch, samples, batches, left over, tokens, step cost, cropped, repeated
    assert rows["480x240-17f-2.00"][4:8] == ["4", "12", "2", "4"] and rows["480x240-17f-2.00"][-2:] == [
        "50.0%",
        "0.0%",
    ]
    assert rows["240x240-17f-1.00"][4:8] == ["2", "10", "4", "2"] and rows["240x240-17f-1.00"][-2:] == [
        "0.0%",
        "47.1%",
    ]
    assert rows["240x240-1f-1.00"][4:10] == ["3", "4", "0", "4", "0.0%", "-"]
    assert lines[4] == "2 epochs: 28 samples, 16 used (57.1%) in 6 steps"
    assert lines[5].startswith("a step costs 0.") and "standard deviation" in lines[5]
    assert lines[6:] == [
        "left out: 2 (7.1%) too small: fewer pixels than any resolution asks for",
        "left over at the end of epochs: 10 (35.7%)",
        "warning: buckets with fewer samples than a batch give none: 240x240-1f-1.00 (2 of 3)",
    ]


def test_an_epoch_without_steps_is_shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path(words[-1]).write_text("240x240: {1: [1, 30], 17: [1, 30]}")
    inspect_buckets.main([*words, "--ratios"])
    out = capsys.readouterr().out
    assert "error: the 14 clips in shards0 fill no global batch" in out
    assert [line.split()[0] for line in out.splitlines() if line.startswith("240x240")] == [
        "240x240-17f-1.00",
        "240x240-1f-1.00",
    ]


@pytest.mark.parametrize("name", ["plot.svg", "plot.html"])
def test_the_plot(words: list[str], tmp_path: Path, name: str) -> None:
    inspect_buckets.main([*words, "--plot", str(tmp_path / name)])
    text = (tmp_path / name).read_text()
    root = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + len("</svg>")])
    written = ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")]
    assert "480x240-17f-2.00" in written and "no whole batch" in written
    assert all(float(node.get("width", "0").rstrip("%")) >= 0 for node in root.iter() if node.tag.endswith("rect"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--epochs", "0"], "argument --epochs: 0; accepted: a whole number, 1 to"),
        (["--plot", "x.png"], "--plot x.png: accepted: a file ending in .svg or .html"),
        (["--frame-interval", "0"], "--frame-interval 0; accepted"),
        (["--bucket-config", "nothing.yaml"], "--bucket-config nothing.yaml: No such file"),
    ],
)
def test_mistakes(words: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        inspect_buckets.main([*words, *more])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
