"""Data classes whose methods are made when they are first needed.

`dataclasses` writes and compiles the methods of each class while its module is imported: two thirds of a millisecond,
which for all records of the bus was a third of the imports of each session. A `record` behaves as
`dataclass(frozen=True, slots=True)` does, also for `fields`, `replace` and a type checker. But its methods are shared,
except for `__init__`, which is made for the first instance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

__all__ = ["record"]

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:

    def record(*, frozen: bool, slots: bool) -> Callable[[type], type]:
        """Return a decorator that makes a record of a class; both arguments must be true."""
        assert frozen
        assert slots
        return _record


def _record(cls: type) -> type:
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    made.__dataclass_params__.frozen = made.__dataclass_params__.eq = True
    for name, method in _METHODS.items():
        if name not in cls.__dict__:
            setattr(made, name, method)
    if made.__dataclass_fields__ or hasattr(made, "__post_init__"):
        made.__init__ = _first_init(made)
        made.__signature__ = _Signature()
    result: type = made
    return result


def _first_init(cls: Any) -> Callable[..., None]:
    def init(self: Any, *args: Any, **given: Any) -> None:
        cls.__init__ = _init(cls)
        cls.__init__(self, *args, **given)

    return init


def _init(cls: Any) -> Any:
    """Return the method that `dataclasses` makes for such a class."""
    fields = [
        (
            found.name,
            found.type,
            dataclasses.field(
                default=found.default,
                default_factory=found.default_factory,
                init=found.init,
                kw_only=bool(found.kw_only),
            ),
        )
        for found in dataclasses.fields(cls)
    ]
    more = {"__post_init__": cls.__post_init__} if hasattr(cls, "__post_init__") else {}
    return dataclasses.make_dataclass(cls.__name__, fields, namespace=more, frozen=True, repr=False, eq=False).__init__  # type: ignore[misc]


class _Signature:
    """The signature of a record, for who looks at the class before its first instance."""

    def __get__(self, _record: object, cls: Any) -> Any:
        import inspect

        found = inspect.signature(_init(cls))
        return found.replace(parameters=[*found.parameters.values()][1:])


_KEYS: dict[type, Callable[[Any], Any]] = {}


def _key(self: Any) -> Any:
    """Return the values that are compared."""
    cls = self.__class__
    if cls not in _KEYS:
        names = [found.name for found in dataclasses.fields(cls) if found.compare]
        _KEYS[cls] = attrgetter(*names) if names else lambda _: ()
    return _KEYS[cls](self)


def _repr(self: Any) -> str:
    shown = (f"{found.name}={getattr(self, found.name)!r}" for found in dataclasses.fields(self) if found.repr)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _eq(self: Any, other: Any) -> bool:
    return bool(_key(self) == _key(other)) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(_key(self))


def _is_fixed(self: Any, name: str) -> bool:
    """Return whether an attribute is fixed: a subclass that is no record itself may have others."""
    return "__dataclass_fields__" in type(self).__dict__ or name in self.__dataclass_fields__


def _setattr(self: Any, name: str, value: object) -> None:
    if _is_fixed(self, name):
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
    object.__setattr__(self, name, value)


def _delattr(self: Any, name: str) -> None:
    if _is_fixed(self, name):
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
    object.__delattr__(self, name)


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, found.name) for found in dataclasses.fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    for found, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, found.name, value)


_METHODS = {
    "__repr__": _repr,
    "__eq__": _eq,
    "__hash__": _hash,
    "__setattr__": _setattr,
    "__delattr__": _delattr,
    "__getstate__": _getstate,
    "__setstate__": _setstate,
}
