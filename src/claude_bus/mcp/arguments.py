"""The arguments of tools, read without pydantic where that is easy.

A tool declares its arguments as a class with annotations. Arguments that are written as the declaration says are taken
as they are. For all others, those with mistakes among them, pydantic decides: it knows what else is meant, and names
what is wrong. It is imported only then, because that takes a session more time and memory than most of its calls.
"""

from __future__ import annotations

import inspect
import math

from .. import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from pydantic import BaseModel

# The annotations that arguments may have besides those of Python.
Several = list[str]
"""A list; a single item is one as well."""
OneOrMore = str | list[str]
Seconds = float
"""A number, or text such as `90s`, `30m`, `2h`, `1d`."""
Natural = int
"""1 or more."""
Version = int
"""0 or more."""
UpTo100 = int
"""0 to 100."""
UpTo200 = int
"""1 to 200."""
UpTo500 = int
"""1 to 500."""
if TYPE_CHECKING:
    Json = Any
else:
    Json = object
"""Any JSON value."""


class Arguments:
    """Base of all arguments: unknown ones are refused, not ignored."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the arguments, as declared."""
        return list(inspect.get_annotations(cls))

    @classmethod
    def plain(cls, given: dict[str, Any]) -> Self | None:
        """Return the arguments if they are written as declared; None if pydantic has to decide."""
        kinds: dict[str, str] = inspect.get_annotations(cls)
        try:
            if not given.keys() <= kinds.keys():
                return None
            read = {name: _READERS[kinds[name]](value) for name, value in given.items()}
        except (_NotPlain, ValueError, OverflowError):
            return None
        missing = kinds.keys() - given.keys()
        return cls(**read) if all(name in cls.__dict__ for name in missing) else None

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Return the arguments as a pydantic model, which validates them and knows their JSON schema."""
        return _model(cls)

    @classmethod
    def validated(cls, given: dict[str, Any]) -> Self:
        """Return the arguments as pydantic understands them. Raises its `ValidationError`."""
        parsed = cls.model().model_validate(given)
        return cls(**{name: getattr(parsed, name) for name in cls.names()})


# -- without pydantic ------------------------------------------------------------------------------------


class _NotPlain(Exception):
    """A value that is not written as declared."""


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _NotPlain
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list):
        raise _NotPlain
    return [_text(item) for item in value]


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _NotPlain
    return value


def _number(least: float = -math.inf, most: float = math.inf) -> Callable[[object], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _NotPlain
        return value

    return read


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _NotPlain
    found = float(limits.parse_seconds(_text(value)) if isinstance(value, str) else value)
    if not math.isfinite(found):
        raise _NotPlain
    return found


def _or_none(read: Callable[[object], Any]) -> Callable[[object], Any]:
    return lambda value: None if value is None else read(value)


def _one_of(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _NotPlain
        return value

    return read


def _several(value: object) -> list[str]:
    return [_text(value)] if isinstance(value, str) else _texts(value)


def _one_or_more(value: object) -> str | list[str]:
    return _text(value) if isinstance(value, str) else _texts(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "str": _text,
    "bool": _flag,
    "int": _number(),
    "int | None": _or_none(_number()),
    "list[str] | None": _or_none(_texts),
    "Several | None": _or_none(_several),
    "OneOrMore": _one_or_more,
    "OneOrMore | None": _or_none(_one_or_more),
    "Seconds": _seconds,
    "Seconds | None": _or_none(_seconds),
    "Natural": _number(1),
    "Version | None": _or_none(_number(0)),
    "UpTo100": _number(0, 100),
    "UpTo200": _number(1, 200),
    "UpTo500": _number(1, 500),
    "Kind": _one_of("message", "request", "fyi"),
    "Mode": _one_of("overwrite", "append", "delete"),
    "Json": lambda value: value,
}
"""How to read an argument, by its annotation as it is written."""


# -- with pydantic ---------------------------------------------------------------------------------------


_MODELS: dict[type[Arguments], type[BaseModel]] = {}


def _model(cls: type[Arguments]) -> type[BaseModel]:
    if cls not in _MODELS:
        from pydantic import ConfigDict, create_model

        meant = _meanings()
        fields: dict[str, Any] = {
            name: (eval(kind, meant), cls.__dict__.get(name, ...))  # noqa: S307 - our own annotations
            for name, kind in inspect.get_annotations(cls).items()
        }
        _MODELS[cls] = create_model(cls.__name__, __config__=ConfigDict(extra="forbid"), **fields)
    return _MODELS[cls]


def _meanings() -> dict[str, Any]:
    """Return the annotations as pydantic understands them."""
    from typing import Annotated, Any, Literal

    from pydantic import BeforeValidator, Field

    def listed(value: object) -> object:
        return [value] if isinstance(value, str) else value

    def seconds(value: object) -> object:
        return limits.parse_seconds(value) if isinstance(value, str) else value

    def whole(least: int, most: int | None = None) -> Any:
        return Annotated[int, Field(ge=least, le=most)]

    return {
        "Several": Annotated[list[str], BeforeValidator(listed)],
        "OneOrMore": OneOrMore,
        "Seconds": Annotated[float, BeforeValidator(seconds), Field(allow_inf_nan=False)],
        "Natural": whole(1),
        "Version": whole(0),
        "UpTo100": whole(0, 100),
        "UpTo200": whole(1, 200),
        "UpTo500": whole(1, 500),
        "Kind": Literal["message", "request", "fyi"],
        "Mode": Literal["overwrite", "append", "delete"],
        "Json": Annotated[
            Any, Field(json_schema_extra={"type": ["string", "number", "boolean", "object", "array", "null"]})
        ],
    }
