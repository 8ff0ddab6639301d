"""Figures of the report beside plain numpy."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.index_files import facts, write_index
from vidtron.data.report import statistics
from vidtron.data.report.cards import sampled_rows
from vidtron.data.report.statistics import Column, Histogram, histogram, index_statistics, pilot_rows, values_of
from vidtron.data.shards.index import ShardIndex
from vidtron.data.shards.sample import IndexRow


def column_of(values: np.ndarray, parts: int = 7) -> Column:
    pilot = values[pilot_rows(len(values))]
    whole = bool(np.issubdtype(values.dtype, np.integer))
    return Column("x", "x", "", lambda: iter(np.array_split(values, parts)), pilot, whole)


def checked(values: np.ndarray) -> Histogram:
    """A histogram that agrees with numpy's."""
    found = histogram(column_of(values))
    assert found is not None
    finite = values[np.isfinite(values)]
    edges = np.array(found.edges)
    # numpy counts the last edge into the last bar: so it is here where that is the maximum.
    inside = finite[finite < edges[-1]] if found.above else finite
    assert found.below or edges[0] == finite.min()
    assert found.above or edges[-1] == finite.max()
    assert found.counts == tuple(np.histogram(inside, edges)[0].tolist())
    assert found.below == int((finite < edges[0]).sum())
    assert found.above in (0, int((finite >= edges[-1]).sum()))
    assert found.missing == len(values) - len(finite)
    assert found.below + sum(found.counts) + found.above == len(finite)
    assert (found.minimum, found.maximum) == (finite.min(), finite.max())
    assert found.mean == pytest.approx(finite.mean())
    return found


def random_values(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    return {
        "scores": rng.normal(5, 1, 5000),
        "small numbers": rng.normal(0, 1e-5, 5000),
        "frames": rng.integers(1, 300, 5000).astype(np.int32),
        "few whole": rng.integers(3, 7, 5000),
        "rates": rng.choice([23.976, 25, 29.97, 60], 5000),
        "tenths": np.round(rng.random(5000), 1),
        "long tail": rng.lognormal(2, 3, 5000),
        "gaps": np.where(rng.random(5000) < 0.4, np.nan, rng.random(5000)),
        "negative": rng.integers(-500, -20, 5000),
        "infinite": np.where(rng.random(5000) < 0.01, np.inf, rng.random(5000)),
        "one": np.array([3.5]),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    "scores,small numbers,frames,few whole,rates,tenths,long tail,gaps,negative,infinite,one".split(","),
)
def test_histograms_count_as_numpy_does(kind: str):
    values = random_values(kind)
    found = checked(values)
    assert 1 <= len(found.counts) <= 45
    assert found.median == np.median(values[np.isfinite(values)])
    assert found.below + found.above <= 0.02 * len(values)


def test_a_far_value_does_not_flatten_the_others():
    found = checked(np.append(np.random.default_rng(0).random(5000), [1e9, -1e9]))
    assert (found.below, found.above) == (1, 1)
    assert min(found.counts) > 0


def test_near_values_are_all_in_bars():
    found = checked(np.random.default_rng(0).integers(17, 600, 5000))
    assert (found.below, found.above) == (0, 0)


def test_bars_of_whole_numbers_are_whole():
    found = checked(np.arange(4))
    assert (found.edges, found.counts) == ((0, 1, 2, 3, 3), (1, 1, 1, 1))
    assert checked(np.full(9, 49)).edges == (49, 49)
    tens = checked(np.append(np.arange(3, 250), [250, 250]))
    assert tens.edges == (3, *range(10, 251, 10)) and tens.counts[-1] == 12
    assert all(edge == round(edge) for edge in checked(random_values("frames")).edges)


def test_edges_are_round_numbers():
    assert checked(random_values("tenths")).edges[1] in (0.02, 0.05)
    assert 0.3 in checked(random_values("tenths")).edges  # not 0.30000000000000004


def test_columns_without_values_have_no_histogram():
    assert histogram(column_of(np.full(100, np.nan))) is None


def test_rare_values_are_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(statistics, "_PILOT", 10)
    values = np.full(1000, np.nan)
    values[777] = 4.0
    assert checked(values).median == 4.0


@pytest.fixture(scope="module")
def rows() -> list[list[IndexRow]]:
    rng = np.random.default_rng(1)
    sizes = [(640, 360), (360, 640), (512, 512)]

    def one(folder: int, number: int) -> IndexRow:
        width, height = sizes[rng.integers(3)]
        image = rng.random() < 0.2
        frames, codec, media = (1, "mjpeg", "jpg") if image else (int(rng.integers(2, 90)), "vp9", "mp4")
        characters = int(rng.integers(1, 500))
        return IndexRow(
            f"shard-{number // 20:06d}.tar",
            f"clip{folder}-{number}",
            media,
            {media: (512, int(rng.integers(1000, 2_000_000_000))), "txt": (1024, characters)},
            facts(frames, width=width, height=height, codec=codec, **({"fps": 1.0, "duration": 0.0} if image else {})),
            characters,
            scores={"score_a": None if rng.random() < 0.3 else float(rng.normal())},
        )

    return [[one(folder, number) for number in range(count)] for folder, count in enumerate((61, 33))]


@pytest.fixture(scope="module")
def index(rows: list[list[IndexRow]], tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    folder = tmp_path_factory.mktemp("index")
    folders = [
        write_index(folder / "a", rows[0], rows_per_batch=7, scores=("score_a",)),
        write_index(folder / "b", [replace(one, scores={}) for one in rows[1]], rows_per_batch=7),
    ]
    return ShardIndex.open(folders, check_shards=False)


def test_figures_of_an_index(index: ShardIndex, rows: list[list[IndexRow]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(statistics, "CHUNK", 10)
    found = index_statistics(index)
    everything = [one for folder in rows for one in folder]
    assert [folder.samples for folder in found.folders] == [61, 33]
    assert [folder.shards for folder in found.folders] == [4, 2]
    assert [Path(folder.name).name for folder in found.folders] == ["a", "b"]
    for folder, theirs in zip(found.folders, rows, strict=True):
        assert folder.hours == pytest.approx(sum(one.clip.duration for one in theirs) / 3600)
        assert folder.media_bytes == sum(one.members[one.media][1] for one in theirs)
    assert found.images == sum(one.media == "jpg" for one in everything)
    assert found.codecs == dict(Counter(one.clip.codec for one in everything))
    assert found.resolutions == Counter((one.clip.width, one.clip.height) for one in everything)
    assert list(found.resolutions.values()) == sorted(found.resolutions.values(), reverse=True)
    histograms = {one.name: one for one in found.histograms}
    videos = [one.clip for one in everything if one.media != "jpg"]
    for name in ("fps", "duration"):
        assert histograms[name].mean == pytest.approx(np.mean([getattr(clip, name) for clip in videos]))
        assert histograms[name].missing == found.images
    assert list(histograms) == "width height aspect_ratio frames fps duration caption_characters score_a".split()
    assert histograms["frames"].mean == pytest.approx(np.mean([one.clip.frames for one in everything]))
    assert histograms["aspect_ratio"].mean == pytest.approx(
        np.mean([one.clip.height / one.clip.width for one in everything])
    )
    assert histograms["score_a"].missing == sum(one.scores["score_a"] is None for one in rows[0]) + 33
    assert histograms["score_a"].label == "a"


def test_values_of_rows(index: ShardIndex, rows: list[list[IndexRow]]):
    everything = [one for folder in rows for one in folder]
    chosen = np.array([90, 3, 61])
    values = values_of(index, chosen)
    assert values["frames"] == [everything[i].clip.frames for i in chosen]
    assert values["aspect_ratio"] == [everything[i].clip.height / everything[i].clip.width for i in chosen]
    assert np.isnan(values["score_a"][0])
    pictures = np.array([place for place, one in enumerate(everything) if one.media == "jpg"])
    for name in ("fps", "duration"):
        assert np.isnan(values_of(index, pictures)[name]).all() and not np.isnan(values_of(index, chosen)[name]).all()


def test_the_same_seed_samples_the_same_rows(index: ShardIndex):
    rows = sampled_rows(index, 20, seed=3)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == 20
    assert 0 <= rows[0] <= rows[-1] < len(index)
    assert (rows == sampled_rows(index, 20, seed=3)).all()
    assert (rows != sampled_rows(index, 20, seed=4)).any()
    assert sampled_rows(index, 1000, seed=0).tolist() == list(range(94))
