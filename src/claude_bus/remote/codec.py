"""The verbs of the bus as they go over the wire between two claude-bus programs.

Both ends derive it from a verb's declaration: its arguments are a JSON object by its
parameters' names, its answer is JSON of its return type. Nothing is declared twice. It is
no public protocol: programs of others use `/v1`.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from .. import drafts, limits
from ..errors import InvalidInput
from ..model.identity import Address, Process, SignOfLife
from ..records import record
from ..sql.arguments import Local, OnTheWire
from ..sql.verbs import Verb

M = TypeVar("M")
SIGNS = "Claude-Bus-Signs"
"""A header of each answer of a server that takes signs of life with its calls."""


@record(frozen=True, slots=True)
class Call:
    """A call as it goes to the server: the arguments, and on whose behalf the answer will be held."""

    process: Process
    """The program that calls: what is handed over is in its hands."""
    arguments: dict[str, Any]
    held: tuple[tuple[Address, int], ...] = ()
    """All that it knows to have been handed, and has not proven read; see `deliveries.requeue_unconfirmed`."""
    sign: SignOfLife | None = None
    """The sign of life of the session that calls; servers take it that say so with `SIGNS`."""


@record(frozen=True, slots=True)
class Parameter:
    """A parameter of a verb."""

    name: str
    kind: Any
    """Its type over the wire."""
    meanings: tuple[object, ...]
    """The meanings that its type has; see `sql.arguments`."""

    def meaning(self, kind: type[M]) -> M | None:
        """The meaning of this kind, if its type has one."""
        return next((meaning for meaning in self.meanings if isinstance(meaning, kind)), None)


class Form:
    """One verb: how its call and its answer are written and read."""

    def __init__(self, verb: Verb[..., Any]) -> None:
        self.name = verb.wire
        hints = get_type_hints(verb.function, include_extras=True)
        _tx, *all_of_them = inspect.signature(verb.function).parameters.values()
        known = [(each, Parameter(each.name, *_taken_apart(hints[each.name]))) for each in all_of_them]
        remote = [(each, parameter) for each, parameter in known if not parameter.meaning(Local)]
        self._signature = inspect.Signature([each for each, _ in remote])
        self.parameters: Mapping[str, Parameter] = {parameter.name: parameter for _, parameter in remote}
        fields: Any = {
            _field(each.name): (each.kind, Field(None, alias=each.name)) for each in self.parameters.values()
        }
        self._arguments = create_model(f"{self.name} arguments", __config__=_STRICT, **fields)
        self._answer: TypeAdapter[Any] = TypeAdapter(hints["return"])

    def call(
        self,
        process: Process,
        held: tuple[tuple[Address, int], ...],
        args: Any,
        kwargs: Any,
        sign: SignOfLife | None = None,
    ) -> bytes:
        """A call as it goes over the wire. Raises `InvalidInput` for text that no UTF-8 has."""
        bound = self._signature.bind(*args, **kwargs).arguments
        given = {_field(name): value for name, value in bound.items()}
        arguments = self._arguments.model_construct(set(given), **given)
        more: dict[str, Any] = {"sign": sign} if sign else {}
        call = _envelope(self._arguments).model_construct(process=process, arguments=arguments, held=held, **more)
        try:
            return call.model_dump_json(by_alias=True, exclude_unset=True, warnings=False).encode()
        except ValueError:
            raise InvalidInput("text holds half a surrogate pair; send valid Unicode text") from None

    def called(self, body: bytes) -> Call:
        """A call that came over the wire. Raises `InvalidInput` if it is not a valid call."""
        try:
            envelope: Any = _envelope(self._arguments).model_validate_json(body)
            sent = envelope.arguments.model_fields_set
            given = {
                name: getattr(envelope.arguments, _field(name)) for name in self.parameters if _field(name) in sent
            }
            self._signature.bind(**given)
        except (ValidationError, TypeError) as error:
            raise InvalidInput(f"{self.name}: {_explained(error)}") from None
        return Call(envelope.process, given, envelope.held, envelope.sign)

    def answer(self, value: Any) -> bytes:
        """An answer as it goes over the wire."""
        return self._answer.dump_json(value, warnings=False)

    def answered(self, body: bytes) -> Any:
        """An answer that came over the wire; `ValueError` if it is not valid."""
        return self._answer.validate_json(body)


def _taken_apart(hint: Any) -> tuple[Any, tuple[object, ...]]:
    """A parameter's type over the wire, and what its type means."""
    if get_origin(hint) is Annotated:
        plain, *meanings = get_args(hint)
        kind = next((meaning.kind for meaning in meanings if isinstance(meaning, OnTheWire)), plain)
        return kind, tuple(meanings)
    if get_origin(hint) in (Union, UnionType):
        parts = [_taken_apart(part) for part in get_args(hint)]
        return functools.reduce(operator.or_, [kind for kind, _ in parts]), tuple(m for _, ms in parts for m in ms)
    return hint, ()


def _field(parameter: str) -> str:
    """Its name as a field: one that no attribute of a pydantic model has."""
    return f"{parameter}_"


_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=False)


@cache
def _envelope(arguments: type[BaseModel]) -> type[BaseModel]:
    return create_model(
        "call",
        __config__=_STRICT,
        process=(Process, ...),
        arguments=(arguments, ...),
        held=(Annotated[tuple[tuple[Address, int], ...], Field(max_length=drafts.MAX_SETTLED)], ()),
        sign=(SignOfLife | None, None),
    )


def _explained(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return str(error)
    if error.error_count() > limits.MAX_PROBLEMS:
        return f"{error.error_count()} of its parts are not valid"
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems[:5])


@cache
def form(verb: Verb[..., Any]) -> Form:
    """The form of a verb that goes over the wire."""
    assert verb.wire, f"{verb.function.__qualname__} does not go over the wire"
    return Form(verb)
