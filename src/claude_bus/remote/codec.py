"""The verbs of the bus as they go over the wire between two claude-bus programs.

Both ends derive it from the contract (`bus.Bus`): a verb's arguments are a JSON object
by its parameters' names, its answer is JSON of its return type. Nothing is declared
twice. It is no public protocol: programs of others use `/v1`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints, is_typeddict

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from .. import rules
from ..bus import Bus
from ..errors import InvalidInput
from ..model import Address, Process

HERE = frozenset({"ear", "pulse", "prune", "close"})
"""What a bus elsewhere does by itself, or each program for itself."""


@dataclass(frozen=True, slots=True)
class Call:
    """What goes to the server: the arguments, and on whose behalf the answer will be held."""

    process: Process
    """The program that calls: what is handed over is in its hands."""
    arguments: dict[str, Any]
    held: tuple[tuple[Address, int], ...] = ()
    """All that it knows to have been handed, and has not proven read; see `deliveries.take_back`."""


class Verb:
    """One verb: how its call and its answer are written and read."""

    def __init__(self, name: str) -> None:
        self.name = name
        method = getattr(Bus, name)
        self._signature = inspect.signature(method)
        hints = get_type_hints(method)
        self.types: Mapping[str, Any] = dict(_parameters(self._signature, hints))
        """The type of each parameter, by its name."""
        fields: Any = {
            _field(parameter): (kind, Field(None, alias=parameter)) for parameter, kind in self.types.items()
        }
        self._arguments = create_model(f"{name} arguments", __config__=_STRICT, **fields)
        self._answer: TypeAdapter[Any] = TypeAdapter(hints["return"])

    def call(self, process: Process, held: tuple[tuple[Address, int], ...], args: Any, kwargs: Any) -> bytes:
        """A call as it goes over the wire. Raises `InvalidInput` for text that no UTF-8 has."""
        bound = self._signature.bind(None, *args, **kwargs).arguments
        del bound["self"]
        given = {_field(name): value for name, value in {**bound, **bound.pop("options", {})}.items()}
        arguments = self._arguments.model_construct(set(given), **given)
        call = _envelope(self._arguments).model_construct(process=process, arguments=arguments, held=held)
        try:
            return call.model_dump_json(by_alias=True, exclude_unset=True, warnings=False).encode()
        except ValueError:
            raise InvalidInput("text holds half a surrogate pair; send valid Unicode text") from None

    def called(self, body: bytes) -> Call:
        """A call that came over the wire. Raises `InvalidInput` for what is none."""
        try:
            envelope: Any = _envelope(self._arguments).model_validate_json(body)
            sent = envelope.arguments.model_fields_set
            given = {name: getattr(envelope.arguments, _field(name)) for name in self.types if _field(name) in sent}
            self._signature.bind(None, **given)
        except (ValidationError, TypeError) as error:
            raise InvalidInput(f"{self.name}: {_explained(error)}") from None
        return Call(envelope.process, given, envelope.held)

    def answer(self, value: Any) -> bytes:
        """An answer as it goes over the wire."""
        return self._answer.dump_json(value, warnings=False)

    def answered(self, body: bytes) -> Any:
        """An answer that came over the wire; `ValueError` for what is none."""
        return self._answer.validate_json(body)


def _field(parameter: str) -> str:
    """Its name as a field: one that no attribute of a pydantic model has."""
    return f"{parameter}_"


_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=False)


def _parameters(signature: inspect.Signature, hints: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and types; those of `**options: Unpack[...]` one by one."""
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            [options] = get_args(hints[name])
            assert is_typeddict(options)
            yield from get_type_hints(options).items()
        elif name != "self":
            yield name, hints[name]


@cache
def _envelope(arguments: type[BaseModel]) -> type[BaseModel]:
    return create_model(
        "call",
        __config__=_STRICT,
        process=(Process, ...),
        arguments=(arguments, ...),
        held=(Annotated[tuple[tuple[Address, int], ...], Field(max_length=rules.MAX_SETTLED)], ()),
    )


def _explained(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return str(error)
    if error.error_count() > rules.MAX_PROBLEMS:
        return f"{error.error_count()} of its parts are not valid"
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems[:5])


@cache
def verb(name: str) -> Verb:
    """The verb of this name. Raises `KeyError` for what is none, or does not go over the wire."""
    if name not in names():
        raise KeyError(name)
    return Verb(name)


@cache
def names() -> frozenset[str]:
    """The verbs that go over the wire."""
    found = {name for name, value in vars(Bus).items() if inspect.isfunction(value) and not name.startswith("_")}
    return frozenset(found - HERE)
