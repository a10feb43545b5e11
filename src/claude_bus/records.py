"""`dataclass` as in the standard library, which defines a frozen class with slots in a fifth of the time.

The standard one compiles the text of some eight methods for each class, and defines the class
twice. A command defines fifty such classes each time it starts, which took it a fifth of its time,
and a session twice as many. Here only `__init__` is compiled; the other methods are functions
that all classes share. Type checkers see the standard one, and so do its functions: `replace`, `fields`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, Field, FrozenInstanceError
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 - modules import it from here
else:

    def dataclass(cls: type | None = None, /, **options: bool) -> Any:
        """Make a class a dataclass, with the options of the standard library's."""
        if options != {"frozen": True, "slots": True}:
            return dataclasses.dataclass(cls, **options)
        return _record


def _record(cls: type) -> type:
    cls.__doc__ = cls.__doc__ or cls.__name__  # otherwise the standard library makes one of the signature
    described: Any = dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
    fields = dataclasses.fields(described)
    names = [field.name for field in fields]
    left = {name: value for name, value in vars(cls).items() if name not in (*names, "__dict__", "__weakref__")}
    inherited = {name for base in cls.__mro__[1:] for name in getattr(base, "__slots__", ())}
    methods = {
        "__init__": _init(fields, cls),
        "__repr__": _repr,
        "__eq__": _equality([field.name for field in fields if field.compare]),
        "__hash__": _hash([field.name for field in fields if field.compare]),
        "__setattr__": _refuse_to_set,
        "__delattr__": _refuse_to_delete,
        "__getstate__": _state,
        "__setstate__": _set_state,
    }
    own = {name: method for name, method in methods.items() if left.get(name) is None}
    slots = tuple(name for name in names if name not in inherited)
    body = {**left, **own, "__slots__": slots, "__qualname__": cls.__qualname__}
    return type(cls)(cls.__name__, cls.__bases__, body)


def _init(fields: tuple[Field[Any], ...], cls: type) -> Any:
    given: dict[str, Any] = {"set_": object.__setattr__, "MISSING": MISSING}
    parameters, lines = ["self"], []
    for number, field in enumerate(fields):
        value = field.name
        if field.default is not MISSING:
            given[f"default{number}"] = field.default
            parameters.append(f"{field.name}=default{number}")
        elif field.default_factory is not MISSING:
            given[f"factory{number}"] = field.default_factory
            parameters.append(f"{field.name}=MISSING")
            value = f"factory{number}() if {field.name} is MISSING else {field.name}"
        else:
            parameters.append(field.name)
        lines.append(f"set_(self, {field.name!r}, {value})")
    made: dict[str, Any] = {}
    exec(f"def __init__({', '.join(parameters)}):\n " + "\n ".join(lines or ["pass"]), given, made)  # noqa: S102
    init = made["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init


def _repr(self: Any) -> str:
    shown = (f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _equality(names: list[str]) -> Any:
    values = attrgetter(*names) if names else type

    def equals(self: Any, other: Any) -> Any:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return equals


def _hash(names: list[str]) -> Any:
    values = attrgetter(*names) if names else type

    def hashed(self: Any) -> int:
        return hash(values(self))

    return hashed


def _refuse_to_set(_self: Any, name: str, _value: Any) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
