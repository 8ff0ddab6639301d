"""Ranges of numbers and names of files, declared at the fields and checked in one place."""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from tests.config.test_check import config
from vidtron.config import flags
from vidtron.config.errors import collect_errors
from vidtron.config.ranges import Range, annotations, name_error, range_of, refusals, shown
from vidtron.config.world import World
from vidtron.inference.config import SamplingConfig
from vidtron.models.registry import preset, preset_names

WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)


def sections_of(section: type) -> set[type]:
    """A dataclass and those in its fields."""
    hints = typing.get_type_hints(section)
    inner = {hint for hint in hints.values() if dataclasses.is_dataclass(hint)}
    return {section}.union(*(sections_of(one) for one in inner))  # type: ignore[arg-type]


SECTIONS = sorted(
    {section for name in preset_names() for section in flags.sections(type(preset(name).network)).values()}
    | sections_of(SamplingConfig),
    key=lambda section: section.__name__,
)


def numbers_without_range(annotation: Any) -> bool:
    """Whether some number of a type could be anything."""
    if typing.get_origin(annotation) is Annotated:
        return range_of(annotation) is None and numbers_without_range(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is Literal:
        return False
    return annotation in (int, float) or any(map(numbers_without_range, typing.get_args(annotation)))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_has_a_range_that_its_default_is_in(section: type):
    bare = [name for name, annotation in annotations(section).items() if numbers_without_range(annotation)]
    assert not bare
    required = {
        f.name: Path("x")
        for f in dataclasses.fields(section)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    assert list(refusals(section(**required))) == []


def test_a_bare_number_is_found():
    assert numbers_without_range(int | None) and numbers_without_range(list[float])
    assert numbers_without_range(tuple[Annotated[int, "no range"], int])
    assert not numbers_without_range(Annotated[int, Range(0, 1)] | types.NoneType)


@pytest.mark.parametrize(
    ("accepted", "inside", "outside", "told"),
    [
        (Range(1, 5), (1, 5), (0, 6, float("nan")), "1 to 5"),
        (Range(0, 1, below=True), (0, 0.9), (1, -1e-9, float("inf")), "0 or more and less than 1"),
        (Range(0, 1e6, above=True), (1e-9, 1e6), (0, -1), "more than 0 and at most 1,000,000"),
    ],
)
def test_range(accepted: Range, inside: tuple, outside: tuple, told: str):
    assert all(value in accepted for value in inside) and not any(value in accepted for value in outside)
    assert str(accepted) == told


@dataclass
class _Inner:
    sizes: tuple[Annotated[int, Range(1, 9)], Annotated[int, Range(1, 9)]] = (1, 2)


@dataclass
class _Outer:
    rate: Annotated[float, Range(0, 1)] | None = None
    word: str = ""
    file: Path | None = None
    inner: _Inner = field(default_factory=_Inner)


def test_optionals_sequences_and_nested_sections():
    assert list(refusals(_Outer())) == []
    found = list(refusals(_Outer(float("nan"), "a\0", Path("x" * 256), _Inner((0, 10)))))
    starts = ("--rate nan", "--word a\\x00: holds a null", "--file xxx", "--sizes 0; accepted: 1 to 9", "--sizes 10")
    for refusal, start in zip(found, starts, strict=True):
        assert refusal.message.startswith(start)
    assert [refusal.hopeless for refusal in found] == [True, True, True, False, True]


def test_names():
    assert name_error("runs/ü/" + "x" * 255) is None and name_error(".") is None
    assert name_error("s3://bucket/" + "x" * 300, address=True) is None
    for name in ("", "a\0b", "\ud800", "x" * 256, "ü" * 128, "a/" * 2048, "s3://" + "x" * 300):
        assert "accepted" in str(name_error(name)), name


def test_what_is_shown_fits_a_line():
    assert shown("a\nb\x1b[0m") == "a\\nb\\x1b[0m" and shown("ü") == "ü"
    assert len(shown("9" * 5000)) < 250
    assert shown(16**6000) == "a number of thousands of digits"


def test_hopeless_values_are_told_alone_and_quickly():
    def never(*_: object) -> list[str]:
        raise AssertionError("this check would compute with it")

    errors = collect_errors([never], config(training__seed=10**20, training__train_iters=0), WORLD)
    assert [error.split(";")[0] for error in errors] == ["--train-iters 0", f"--seed {10**20}"]
    assert collect_errors([lambda *_: ["--x"]], config(training__train_iters=0), WORLD) == ["--x"]
