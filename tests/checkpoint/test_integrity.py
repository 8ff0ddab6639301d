"""Damage to a checkpoint's files is found, and the file named."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoint.checkpoints import PLAIN_STATE, diffusers, sat
from tests.checkpoint.damages import damage, damaged_copy, without_checksums
from tests.training.small import small_run
from vidtron import checkpoint, training
from vidtron.checkpoint import Inspection, folders, integrity, manifest
from vidtron.config.world import World

WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)
TRIES = 200
FILES = {"metadata.json", ".metadata", "__0_0.distcp"} | ({PLAIN_STATE} if PLAIN_STATE else set())
"""What megatron-core writes for a run of one rank."""


@pytest.fixture(scope="module")
def run_folder(shards, tmp_path_factory) -> Path:
    """Checkpoints after steps 1 and 2."""
    folder = tmp_path_factory.mktemp("damage") / "run"
    training.run(small_run(shards, save=folder, train_iters=2, save_interval=1, ema_decay=[0.9]), WORLD)
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "run"
    checkpoint.convert(sat("2b"), folder, save_format="megatron")
    return folder


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Files of several blocks."""
    monkeypatch.setattr(manifest, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(manifest, "_WRITE_BYTES", 64)
    monkeypatch.setattr(manifest, "_READ_BYTES", 96)


def test_every_file_has_checksums(run_folder, converted):
    more = {"sat_extras.pt", "common.pt"}  # conversion always writes the latter
    for path, own in ((run_folder / "iter_0000002", FILES), (converted / "iter_0000000", FILES | more)):
        names = {file.name for file in path.iterdir()}
        assert names == {"checksums.json", "config.yaml"} | own
        written = manifest.read(path)
        assert written is not None and written.finite
        assert written.files.keys() == names - {"checksums.json"}
        for name, entry in written.files.items():
            assert entry == manifest.checksums_of(path / name), name  # as it lies there, not only as it was written
        assert checkpoint.inspect(path) == Inspection([])


@pytest.mark.parametrize("async_save", [False, True], ids=["waiting", "in-the-background"])
def test_tensors_are_not_read_again_to_be_hashed(monkeypatch, shards, tmp_path, async_save):
    """Their checksums come with what is written, also from the process that writes in the background."""
    read = []
    hashed = manifest.checksums_of
    monkeypatch.setattr(manifest, "checksums_of", lambda path: read.append(path.name) or hashed(path))
    training.run(small_run(shards, save=tmp_path, train_iters=1, async_save=async_save), WORLD)
    assert set(read) == (FILES - {"__0_0.distcp"}) | {"config.yaml"} and len(read) == len(set(read))
    assert "__0_0.distcp" in manifest.read(tmp_path / "iter_0000001").files


@pytest.mark.parametrize("fixture", ["run_folder", "converted"])
def test_random_damage_is_found_and_named(request, tmp_path, fixture):
    folder = shutil.copytree(max(request.getfixturevalue(fixture).glob("iter_*")), tmp_path / "iter_0000002")
    draw = random.Random(20)
    names = sorted(file.name for file in folder.iterdir())
    for number in range(TRIES):
        file = folder / names[number % len(names)]
        original = file.read_bytes()
        how = damage(file, draw)
        found = checkpoint.inspect(folder).damage
        assert [message.split(": ")[0] for message in found] == [str(file)], (number, file.name, how, found)
        file.write_bytes(original)
    assert checkpoint.inspect(folder).damage == []


def test_two_damaged_files_are_both_named(run_folder, tmp_path):
    folder = shutil.copytree(run_folder / "iter_0000002", tmp_path / "iter_0000002")
    draw = random.Random(1)
    for name in ("__0_0.distcp", "metadata.json"):
        damage(folder / name, draw, "overwritten")
    damage(folder / ".metadata", draw, "gone")
    found = [message.split(": ")[0] for message in checkpoint.inspect(folder).damage]
    assert found == [str(folder / name) for name in (".metadata", "__0_0.distcp", "metadata.json")]


def test_without_reading_tensors(run_folder, tmp_path):
    """What every process looks at before a run begins."""
    draw = random.Random(2)
    for name, kind, is_found in (
        ("__0_0.distcp", "overwritten", False),
        ("__0_0.distcp", "truncated", True),
        ("metadata.json", "overwritten", True),
        (".metadata", "gone", True),
    ):
        folder = tmp_path / f"{name}-{kind}" / "iter_0000002"
        damaged_copy(run_folder / "iter_0000002", folder, name, draw, kind)
        assert bool(checkpoint.inspect(folder, contents=False).damage) == is_found, (name, kind)


def test_blocks_and_shares(small_blocks, tmp_path):
    """Each process tells of its share of a file, and together they tell of all of it."""
    folder = tmp_path / "iter_0000001"
    folder.mkdir()
    content = random.Random(3).randbytes(10_500)
    with manifest.HashingFile(folder / "__0_0.distcp") as file:
        for start in range(0, len(content), 770):
            assert file.write(content[start : start + 770]) == len(content[start : start + 770])
            assert file.tell() == min(start + 770, len(content))
    assert (folder / "__0_0.distcp").read_bytes() == content
    assert file.checksums() == manifest.checksums_of(folder / "__0_0.distcp")
    assert len(file.checksums().blocks) == 11
    manifest.write(folder, {"__0_0.distcp": file.checksums()}, finite=True)
    for ranks in (1, 2, 3, 20):
        for at in range(0, len(content), 999):
            (folder / "__0_0.distcp").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            found = []
            for rank in range(ranks):
                with checkpoint.Verification(folder, rank=rank, ranks=ranks) as verification:
                    found += verification.result().damage
            assert len(found) == 1, (ranks, at)
            first = at // 1000 * 1000
            assert f"damaged: bytes {first:,} to {min(first + 1000, 10_500):,} are" in found[0]


def test_a_file_of_whole_blocks(small_blocks, tmp_path):
    for size in (0, 1000, 3000):
        with manifest.HashingFile(tmp_path / "file") as file:
            file.write(bytes(size))
        assert file.checksums() == manifest.checksums_of(tmp_path / "file")
        assert len(file.checksums().blocks) == size // 1000


def test_crc32_comes_back():
    """Only what has our checksums goes without zip's; also where writing fails."""
    before = torch.serialization.get_crc32_options()
    with pytest.raises(RuntimeError, match="stop"), manifest.without_crc32():
        assert not torch.serialization.get_crc32_options()
        raise RuntimeError("stop")
    assert torch.serialization.get_crc32_options() == before


def test_a_manifest_of_a_later_version(run_folder):
    entries = json.loads((run_folder / "iter_0000002" / "checksums.json").read_text())
    with pytest.raises(manifest.ManifestError, match="version 2; accepted: 1"):
        manifest.parse(json.dumps({**entries, "version": 2}).encode())


@pytest.mark.skipif(PLAIN_STATE is None, reason="takes the mark of checksums out of common.pt")
def test_an_earlier_version_wrote_no_checksums(run_folder, tmp_path):
    path = tmp_path / "iter_0000002"
    without_checksums(shutil.copytree(run_folder / "iter_0000002", path))
    found = checkpoint.inspect(path)
    assert found == Inspection([], finite=True, has_checksums=False)
    (remark,) = found.remarks(path)
    assert remark.startswith(f"{path} has no checksums")
    damage(path / PLAIN_STATE, random.Random(4), "truncated")
    (message,) = checkpoint.inspect(path).damage
    assert message.startswith(f"{path / PLAIN_STATE}: cannot be read")
    damage(path / "metadata.json", random.Random(4), "truncated")
    (message,) = checkpoint.inspect(path).damage
    assert message.startswith(f"{path / 'metadata.json'}: cannot be read")


def empty_checkpoints(run_dir: Path, *finite: bool) -> list[Path]:
    """Checkpoints 1, 2, ... that have a manifest alone."""
    paths = [run_dir / folders.folder_name(number + 1) for number in range(len(finite))]
    for path, is_finite in zip(paths, finite, strict=True):
        path.mkdir(parents=True)
        (path / "file").write_text("content")
        manifest.write(path, {}, finite=is_finite)
    return paths


def chosen(run_dir: Path) -> integrity.Choice:
    found = checkpoint.candidates(run_dir)
    return checkpoint.choose(found, checkpoint.inspect, named=found == [run_dir])


def test_the_newest_undamaged_one_is_chosen(tmp_path):
    first, second, third = empty_checkpoints(tmp_path, True, True, True)
    assert chosen(tmp_path) == integrity.Choice(third)
    (third / "file").unlink()
    (second / "file").write_text("CONTENT")
    choice = chosen(tmp_path)
    assert choice.path == first
    assert choice.remarks == (
        f"passed over {third / 'file'}: missing",
        f"passed over {second / 'file'}: damaged: bytes 0 to 7 are not those that were written",
    )
    (first / "checksums.json").write_text("")
    choice = chosen(tmp_path)
    assert choice.path is None
    assert [error.split(": ")[1] for error in choice.errors] == [
        str(third / "file"),
        str(second / "file"),
        str(first / "checksums.json"),
    ]
    assert all(error.endswith("or --no-verify-checkpoint") for error in choice.errors)


def test_one_that_is_named_is_taken_or_refused(tmp_path):
    first, second = empty_checkpoints(tmp_path, True, False)
    assert chosen(first) == integrity.Choice(first)
    assert chosen(second) == integrity.Choice(second, (f"WARNING: the weights of {second} are not finite",))
    (second / "file").write_text("short")
    choice = chosen(second)
    assert choice.path is None
    assert len(choice.errors) == 1 and str(second / "file") in choice.errors[0]


def test_finite_weights_come_first(tmp_path):
    first, second, third = empty_checkpoints(tmp_path / "mixed", True, False, False)
    choice = chosen(tmp_path / "mixed")
    assert choice.path == first
    assert choice.remarks == tuple(f"passed over {p}: its weights are not finite" for p in (third, second))
    first, second = empty_checkpoints(tmp_path / "none", False, False)
    choice = chosen(tmp_path / "none")
    assert choice.path == second
    assert choice.remarks == (
        f"passed over {first}: its weights are not finite",
        f"WARNING: the weights of {second} are not finite",
    )


def test_pruning_spares_the_newest_finite_one(tmp_path):
    paths = empty_checkpoints(tmp_path, True, True, False, False, True)
    for last, left in ((4, [2, 4, 5]), (5, [5])):  # checkpoint 5 is a later one that a resumption has passed over
        newest = paths[last - 1]
        folders.prune(tmp_path, 1, newest, spared=integrity.newest_finite(tmp_path, newest))
        assert [folders.iteration_of(path) for path in checkpoint.completed(tmp_path)] == left


def test_conversions_write_whether_weights_are_finite(tmp_path):
    source = shutil.copytree(diffusers("2b"), tmp_path / "source")
    checkpoint.convert(source, tmp_path / "good", save_format="megatron")
    assert checkpoint.inspect(tmp_path / "good" / "iter_0000000").finite
    (file,) = source.rglob("*.safetensors")
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[3] = float("inf")
    save_file(tensors, file)
    checkpoint.convert(source, tmp_path / "bad", save_format="megatron")
    assert not checkpoint.inspect(tmp_path / "bad" / "iter_0000000").finite
