"""Latent caches damaged at random: refused with an error, or the entry is encoded again, and no bit of it is used.

Other seeds: VIDTRON_DAMAGE_SEED.
"""

import json
import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.shards import write_shards
from tests.training.small import small_run
from vidtron import training
from vidtron.config.errors import ConfigurationError
from vidtron.config.world import World
from vidtron.data.latents.header import HEADER_NAME, LatentCacheError
from vidtron.data.latents.parts import JOURNAL_SUFFIX, TAR_SUFFIX, Content, PartWriter, read_content, read_journal
from vidtron.encoders.hashed_tokens import HashedTokens
from vidtron.encoders.space_time import SpaceTimeTransform
from vidtron.models.cogvideox.family import CogVideoXFamily
from vidtron.models.registry import family_of
from vidtron.training.latent_cache import LatentCache
from vidtron.training.training_plan import training_plan

SEED = int(os.environ.get("VIDTRON_DAMAGE_SEED", "0"))
TRIES = 200
ALONE = World(size=1, rank=0, local_rank=0, has_cuda=False)
EPOCH = {"train_iters": 2, "global_batch_size": 2, "clip_window": "centre", "encode_ahead": 0, "num_workers": 0}
NUMBERS: list[Any] = [-1, 0, 1, 2**31, 2**63, 10**30, 1.5, None, "1", True, [], float("nan")]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("cached") / "shards", clips=4, frames=10, height=32, width=48)


@pytest.fixture(scope="module")
def cache(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole cache, as training writes it."""
    folder = tmp_path_factory.mktemp("whole") / "cache"
    training.run(small_run(shards, **EPOCH, latent_cache=folder), ALONE)
    return folder


def opened(shards: Path, folder: Path) -> LatentCache:
    run = small_run(shards, **EPOCH, latent_cache=folder)
    plan = training_plan(run, family_of(run.model))
    text = HashedTokens(run.network.text_width, run.network.text_length)
    spec = CogVideoXFamily().inputs(run)
    return LatentCache(folder, run, plan, torch.float32, SpaceTimeTransform(), [text], spec)


def overwritten(folder: Path, rng: random.Random) -> None:
    path = rng.choice(sorted(folder.iterdir()))
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 4, 40])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)


def cut(folder: Path, rng: random.Random) -> None:
    path = rng.choice(sorted(folder.iterdir()))
    os.truncate(path, rng.randrange(path.stat().st_size))


def gone(folder: Path, rng: random.Random) -> None:
    path = rng.choice(sorted(folder.iterdir()))
    path.unlink()
    if rng.random() < 0.5:
        path.mkdir()


def a_line(folder: Path, rng: random.Random) -> None:
    (path,) = folder.glob(f"*{JOURNAL_SUFFIX}")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    number = rng.randrange(len(lines))
    name = rng.choice(["row", "size", "offset", "bytes", "crc32"])
    value = rng.choice([*NUMBERS, lines[number - 1][name]])
    if name == "size" and rng.random() < 0.7:
        lines[number]["size"][rng.randrange(3)] = value
    elif rng.random() < 0.2:
        del lines[number][name]
    else:
        lines[number][name] = value
    text = [json.dumps(line) for line in lines]
    if rng.random() < 0.2:
        text[number] = rng.choice(["[" * 100_000, "null", "7", "\\ud800", "\0" * 50])
    path.write_text("\n".join(text) + "\n")


def the_header(folder: Path, rng: random.Random) -> None:
    path = folder / HEADER_NAME
    header = json.loads(path.read_text())
    name = rng.choice(list(header))
    header[name] = rng.choice([*NUMBERS, {}, {"--fps": 7}, {"a": "b"}])
    texts = ["[" * 100_000, "", "[]", "7", '{"format": "vidtron-latents", "version": 1, "made_with": 3}']
    path.write_text(json.dumps(header) if rng.random() < 0.6 else rng.choice(texts))


def other_tensors(folder: Path, rng: random.Random) -> None:
    """Entries whose checksums are right, but that are of something else."""
    (journal,) = folder.glob(f"*{JOURNAL_SUFFIX}")
    tar = folder / journal.name.replace(JOURNAL_SUFFIX, TAR_SUFFIX)
    contents = [(entry, read_content(tar, entry)) for entry in read_journal(journal)[0]]
    number = rng.randrange(len(contents))
    writer = PartWriter(folder, "part-000000", replace=True)
    for place, (entry, content) in enumerate(contents):
        assert content is not None
        row = entry.row
        if place == number:
            content, row = changed(content, rng), rng.choice([row, row, row, contents[number - 1][0].row])
        writer.append(row, entry.size, content)
    writer.close()


def changed(content: Content, rng: random.Random) -> Content:
    tensors = dict(content.tensors)
    name = rng.choice(list(tensors))
    tensor = tensors[name]
    deeds: list[Callable[[], torch.Tensor]] = [
        lambda: tensor[..., :1],
        lambda: tensor[None],
        lambda: tensor.flatten(),
        lambda: torch.cat([tensor, tensor]),
        lambda: tensor.repeat_interleave(40, 0),
        lambda: tensor.double(),
        lambda: tensor.half(),
        lambda: tensor.to(torch.uint8),
        lambda: tensor.float() * float("nan"),
        lambda: tensor.float() + float("inf"),
        lambda: torch.zeros(0),
        lambda: torch.zeros(()),
        lambda: tensor.transpose(0, 1).contiguous(),
    ]
    deed = rng.randrange(len(deeds) + 4)
    if deed < len(deeds):
        tensors[name] = deeds[deed]()
    elif deed == len(deeds):
        del tensors[name]
    elif deed == len(deeds) + 1:
        tensors[rng.choice(["logvar", "first_frame", "other"])] = tensor.clone()
    elif deed == len(deeds) + 2:
        return Content(content.key + "x", content.frames, tensors)
    else:
        return Content(content.key, content.frames[::-1], tensors)
    return Content(content.key, content.frames, tensors)


def no_safetensors(folder: Path, rng: random.Random) -> None:
    """Bytes that are none, under a checksum that is theirs."""
    (path,) = folder.glob(f"*{JOURNAL_SUFFIX}")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    line = rng.choice(lines)
    tar = folder / path.name.replace(JOURNAL_SUFFIX, TAR_SUFFIX)
    content = bytearray(tar.read_bytes())
    start, end = line["offset"], line["offset"] + line["bytes"]
    header = rng.choice([b"\xff" * 8, bytes(8), (200).to_bytes(8, "little") + b"[" * 200, rng.randbytes(60)])
    content[start : start + len(header)] = header
    line["crc32"] = zlib.crc32(content[start:end])
    tar.write_bytes(content)
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))


DEEDS = [overwritten, overwritten, cut, gone, a_line, a_line, the_header, other_tensors, other_tensors, no_safetensors]


def good_entries(shards: Path, folder: Path) -> dict[int, Any]:
    cache = opened(shards, folder)
    return {row: cache.lookup(slot, cache._plan.frames_at(slot)) for row, slot in slots(cache).items()}


def slots(cache: LatentCache) -> dict[int, Any]:
    return {slot.row: slot for slot in map(cache._plan.slot, range(len(cache._plan.index)))}


@pytest.mark.parametrize("part", range(4))
def test_damage_is_refused_or_the_entry_is_missing(shards: Path, cache: Path, tmp_path: Path, part: int) -> None:
    good = good_entries(shards, cache)
    assert len(good) == 4 and None not in good.values()
    missing = refused = 0
    for number in range(part, TRIES, 4):
        rng = random.Random(f"{SEED} {number}")
        folder = tmp_path / str(number)
        shutil.copytree(cache, folder)
        rng.choice(DEEDS)(folder, rng)
        try:
            found = good_entries(shards, folder)
        except (ConfigurationError, LatentCacheError) as error:
            assert all(str(folder) in line and "\n" not in line for line in error.errors), error.errors
            refused += 1
            continue
        for row, entry in found.items():
            if entry is None:
                missing += 1
                continue
            assert torch.equal(entry.posterior.mean_CTHW, good[row].posterior.mean_CTHW), number
            assert torch.equal(entry.texts[0].states_BLE, good[row].texts[0].states_BLE), number
    assert missing > TRIES // 4 // 4 and refused


@pytest.mark.parametrize("deed", [a_line, other_tensors, no_safetensors, cut])
def test_training_is_the_same_with_a_damaged_cache(shards, cache, tmp_path, deed, caplog) -> None:
    expected = training.run(small_run(shards, **EPOCH), ALONE).losses
    for seed in range(3):
        folder = tmp_path / f"{seed}"
        shutil.copytree(cache, folder)
        header = (folder / HEADER_NAME).read_bytes()
        deed(folder, random.Random(f"{SEED} {seed}"))
        (folder / HEADER_NAME).write_bytes(header)
        assert training.run(small_run(shards, **EPOCH, latent_cache=folder), ALONE).losses == expected
        again = good_entries(shards, folder)
        assert None not in again.values()  # what was damaged has been written anew
