"""The dataclasses of the package behave as the standard library's."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import pytest

from claude_bus.records import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """A place."""

    x: int
    y: int = 0
    names: list[str] = dataclasses.field(default_factory=list, compare=False)
    word: str = dataclasses.field(default="", repr=False)

    @property
    def sum(self) -> int:
        return self.x + self.y


@dataclasses.dataclass(frozen=True, slots=True)
class Standard:
    """The same."""

    x: int
    y: int = 0
    names: list[str] = dataclasses.field(default_factory=list, compare=False)
    word: str = dataclasses.field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Nothing:
    """No fields."""


def test_it_is_a_dataclass_with_the_same_fields_and_signature() -> None:
    """Libraries that read a class's description, such as pydantic, find the standard one."""
    assert dataclasses.is_dataclass(Point)
    assert [(f.name, f.default, f.init) for f in dataclasses.fields(Point)] == [
        (f.name, f.default, f.init) for f in dataclasses.fields(Standard)
    ]
    assert list(inspect.signature(Point).parameters) == list(inspect.signature(Standard).parameters)
    assert (Point.__match_args__, Point.__slots__) == (Standard.__match_args__, Standard.__slots__)
    assert (Point.__name__, Point.__qualname__, Point.__module__, Point.__doc__) == (
        "Point",
        "Point",
        __name__,
        "A place.",
    )


def test_it_is_made_compared_and_shown_alike() -> None:
    """Positional and named arguments, defaults of its own for each object, equality within the class only."""
    one, other = Point(1, names=["a"]), Standard(1, names=["a"])
    assert repr(one) == repr(other).replace("Standard", "Point")
    assert Point(1) == Point(1, 0, ["not compared"])
    assert hash(Point(1)) == hash(Point(1, names=["not compared"]))
    assert Point(1) != Point(2)
    assert Point(1) != other  # type: ignore[comparison-overlap]
    assert Point(1).names is not Point(1).names
    assert Point(2, 3).sum == 5
    assert Nothing() == Nothing()
    assert len({Nothing(), Nothing(), Point(1), Point(1)}) == 2
    assert dataclasses.replace(one, y=5) == Point(1, 5)
    assert dataclasses.asdict(one) == dataclasses.asdict(other)
    any_point: Any = Point
    for bad in ([], [1, 2, [], "", 5]):
        with pytest.raises(TypeError, match="__init__"):
            any_point(*bad)


def test_it_cannot_be_changed_and_has_no_more_fields() -> None:
    """The same error as the standard one's, for fields and for anything else."""
    point: Any = Point(1)
    for name in ("x", "other"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(point, name, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    assert not hasattr(point, "__dict__")


def test_it_is_copied_and_pickled() -> None:
    """Copies are equal, deep ones share nothing."""
    point = Point(1, names=["a"])
    deep = copy.deepcopy(point)
    assert (copy.copy(point), deep, pickle.loads(pickle.dumps(point))) == (point, point, point)
    assert deep.names is not point.names


def test_other_options_are_the_standard_librarys() -> None:
    """Only frozen classes with slots are made here."""

    @dataclass(order=True)
    class Ordered:
        n: int

    assert Ordered(1) < Ordered(2)
