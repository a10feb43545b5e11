"""Records behave as the data classes of the standard library do."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from claude_bus.records import record
from tests.project.test_layers import MODULES


@record(frozen=True, slots=True)
class Ours:
    """A record."""

    name: str
    number: int = 7
    more: tuple[str, ...] = ()
    made: list[int] = field(default_factory=list)
    unseen: int = field(default=0, repr=False, compare=False)

    @property
    def shown(self) -> str:
        return f"{self.name}{self.number}"


@dataclass(frozen=True, slots=True)
class Theirs:
    """The same of the standard library."""

    name: str
    number: int = 7
    more: tuple[str, ...] = ()
    made: list[int] = field(default_factory=list)
    unseen: int = field(default=0, repr=False, compare=False)


@record(frozen=True, slots=True)
class Empty:
    """A record without fields."""


def test_it_is_made_shown_and_compared_alike() -> None:
    """By position or name, with defaults; what is not compared makes no difference."""
    ours, theirs = Ours("a", more=("b",)), Theirs("a", more=("b",))

    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours == Ours("a", 7, ("b",), [], 5)
    assert ours != Ours("a", 8, ("b",))
    assert ours != theirs  # type: ignore[comparison-overlap]
    assert ours.shown == "a7"
    assert ours.made is not Ours("a").made
    assert [(found.name, found.type) for found in fields(ours)] == [
        (found.name, found.type) for found in fields(theirs)
    ]
    assert Ours.__match_args__ == Theirs.__match_args__
    assert inspect.signature(Ours) == inspect.signature(Theirs)
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert replace(ours, number=9).shown == "a9"
    assert Empty() == Empty()
    assert repr(Empty()) == "Empty()"


def test_it_is_hashed_by_its_values() -> None:
    """So it can be a key."""
    assert hash(replace(Ours("a"), made=())) == hash(replace(Ours("a"), made=()))  # type: ignore[arg-type]
    assert len({Empty(), Empty()}) == 1
    with pytest.raises(TypeError):
        hash(Ours("a"))


def test_it_cannot_be_changed() -> None:
    """Neither a field nor anything else, before the first instance and after."""
    ours: Any = Ours("a")

    for name in ("name", "other"):
        with pytest.raises(FrozenInstanceError):
            setattr(ours, name, "b")
    with pytest.raises(FrozenInstanceError):
        del ours.name
    assert not hasattr(ours, "__dict__")


def test_it_can_be_copied_and_pickled() -> None:
    """With all its fields."""
    ours = Ours("a", unseen=3)

    for other in (copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert other == ours
        assert other.unseen == 3


@pytest.mark.parametrize("given", [{}, {"nam": "a"}, {"name": "a", "other": 1}])
def test_wrong_arguments_are_refused(given: dict[str, Any]) -> None:
    """As by any function."""
    with pytest.raises(TypeError):
        Ours(**given)
    with pytest.raises(TypeError):
        Empty(**given | {"x": 1})


def test_pydantic_reads_it() -> None:
    """The wire of the served bus is made of records."""
    assert TypeAdapter(Ours).validate_python({"name": "a", "number": "8"}) == Ours("a", 8)


class Special(Ours):
    """A subclass that is not a record."""


def test_a_subclass_may_have_attributes_of_its_own() -> None:
    """As with data classes."""
    special: Any = Special("a")
    special.more_of_it = 1

    assert special.more_of_it == 1
    with pytest.raises(FrozenInstanceError):
        special.name = "b"


def test_the_records_of_the_bus_are_of_the_kind_that_is_tested_here() -> None:
    """Records with other options, or that inherit from each other, are left to the standard library."""
    eq = Ours.__dict__["__eq__"]
    for module in MODULES:
        found = vars(importlib.import_module(f"claude_bus.{module}".removesuffix(".__init__")))
        for cls in found.values():
            if isinstance(cls, type) and "__dataclass_fields__" in cls.__dict__ and cls.__dict__.get("__eq__") is eq:
                assert all(each.hash is None and not each.kw_only for each in fields(cls)), cls
                assert not any(dataclasses.is_dataclass(base) for base in cls.__mro__[1:]), cls
