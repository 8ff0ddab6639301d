"""Prompts from the command line and from files."""

import json
from pathlib import Path

import pytest

from vidtron.config.errors import ConfigurationError
from vidtron.inference.prompts import VALIDATION_FLAGS, Prompt, check_prompts, read_prompts

A, B = Path("a.png"), Path("b.png")


def test_command_line_then_text_file(tmp_path):
    (tmp_path / "p.txt").write_text("\n  a lake \n{no json}\n", encoding="utf-8")
    assert read_prompts(["x"], tmp_path / "p.txt", [], seed=1, negative="bad", first_number=4) == [
        Prompt("x", 4, 1, "bad"),
        Prompt("a lake", 5, 1, "bad"),
        Prompt("{no json}", 6, 1, "bad"),
    ]


def test_jsonl(tmp_path):
    lines = [
        {"prompt": "a"},
        {"prompt": "b", "seed": 7, "negative_prompt": "", "image": "pictures/b.png"},
        {"prompt": "c", "image": "/c.png"},
    ]
    (tmp_path / "p.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    assert read_prompts([], tmp_path / "p.jsonl", [A], seed=1) == [
        Prompt("a", 0, 1, None, A),
        Prompt("b", 1, 7, "", tmp_path / "pictures/b.png"),
        Prompt("c", 2, 1, None, Path("/c.png")),
    ]


def test_one_image_for_all_or_one_for_each():
    assert [prompt.image for prompt in read_prompts(["x", "y"], None, [A], seed=1)] == [A, A]
    assert [prompt.image for prompt in read_prompts(["x", "y"], None, [A, B], seed=1)] == [A, B]
    with pytest.raises(ConfigurationError, match="--image: 2 images for 3 --prompt; accepted: 1, or one for each"):
        read_prompts(["x", "y", "z"], None, [A, B], seed=1)


def test_every_bad_line_is_named(tmp_path):
    lines = ['{"prompt": "fine"}', "{", "[]", '{"text": 1}', '{"prompt": "x", "sed": 1}', '{"prompt": 3}',
             '{"prompt": "x", "seed": "1"}', '{"prompt": "x", "seed": true}', "[" * 100_000,
             '{"prompt": "\\ud800"}']  # fmt: skip
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    with pytest.raises(ConfigurationError) as raised:
        read_prompts([], tmp_path / "p.jsonl", [], seed=1)
    start = f"--prompts-file {tmp_path / 'p.jsonl'}, line "
    assert [error.removeprefix(start).split(":")[0] for error in raised.value.errors] == [
        str(line) for line in range(2, 11)
    ]
    for part in ("Expecting", 'with "prompt"', 'with "prompt"', "unknown key 'sed'; accepted: prompt, image, seed",
                 "prompt 3; accepted: a text", "a whole number", "seed True", "nested deeper",
                 "half of a surrogate pair"):  # fmt: skip
        assert any(part in error for error in raised.value.errors), part


def test_unusable_files(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name, reason in (
        ("none.txt", "No such file"),
        ("empty.txt", "no prompts in it"),
        ("binary.txt", "not a text"),
    ):
        with pytest.raises(ConfigurationError, match=f"--validation-prompts-file .*{name}: {reason}"):
            read_prompts([], tmp_path / name, [], seed=1, flags=VALIDATION_FLAGS)


def test_images_only_where_the_model_takes_them():
    prompts = [Prompt("a", 0, 1), Prompt("b", 1, 1, image=A)]
    (error,) = check_prompts(prompts, image_conditioned=True)
    assert error.startswith("--image: prompt 0 ('a') has none")
    (error,) = check_prompts(prompts, image_conditioned=False, flags=VALIDATION_FLAGS)
    assert error.startswith("--validation-images a.png: the model makes videos from text alone")
