"""Types of the values in requests, with their limits, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import Header, Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from ... import limits, names

PATH = "/v1"
"""Path of the API."""
LARGEST = 2**53 - 1
"""The largest integer that every JSON parser represents exactly."""
NUMBER = "[0-9]{1,15}"
"""Pattern of such an integer as text, with as many digits as are always safe."""
MAX_WAIT = 60.0
"""Seconds that a request may wait; proxies close connections that are silent for longer."""


def segment(given: object) -> object:
    """Decode a segment of the path. It arrives encoded, so that it can contain `/`."""
    if not isinstance(given, str):
        return given
    try:
        return unquote_to_bytes(given).decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None


def _whole(given: object) -> object:
    """Return `3.0` as 3: JSON has one kind of number."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


def _without_nul(given: str) -> str:
    if "\0" in given:
        raise ValueError("holds a NUL")
    return given


def _text_of_header(given: object) -> object:
    """Decode a header's bytes as UTF-8, as in the rest of the API."""
    if not isinstance(given, str):
        return given
    try:
        return given.encode("latin-1").decode()
    except UnicodeError:
        raise ValueError("is not UTF-8") from None


class Body(BaseModel):
    """Base of all bodies: unknown fields are refused, and a number is not text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, given: Any) -> Any:
        """Refuse thousands of unknown fields: FastAPI would take too long to list them, and block other requests."""
        if isinstance(given, dict) and len(given) > limits.MAX_PROBLEMS:
            raise ValueError(f"has {len(given)} fields, most of them unknown")
        return given


class Query(BaseModel):
    """Base of all query parameters: unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")


_FIRST = r"[^\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]"
_PLAIN = r"[^\x00-\x22\x24-\x2a\x2c\x2f\x3b-\x40\x5b-\x5e\x60\x7b-\x7d\x7f]"
_NAME = f"(?!(?:all|any)$){_FIRST}{_PLAIN}*"
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
# The rules for names and lines in `rules`, as far as patterns can express them. Beyond ASCII they allow more.


def _documented(pattern: str, **more: str) -> dict[str, JsonValue]:
    return {"pattern": pattern, **more}


Name = Annotated[
    str,
    Field(
        min_length=1,
        max_length=names.MAX_NAME,
        description="Letters, digits and `. _ - : + ~ #` of any script, beginning with a letter or digit.",
        examples=["ci"],
        json_schema_extra=_documented(f"^{_NAME}$"),
    ),
]
Channel = Annotated[
    str,
    Field(
        max_length=names.MAX_NAME,
        description="The server's own (`BUS_CHANNEL`, else `default`) unless given.",
        json_schema_extra=_documented(f"^(?:{_NAME})?$"),
    ),
]
Line = Annotated[
    str,
    Field(max_length=limits.MAX_ROLE, description="One printable line.", json_schema_extra=_documented(_PRINTABLE)),
]
Tag = Annotated[str, Field(max_length=names.MAX_NAME, json_schema_extra=_documented(_PRINTABLE))]
Pattern = Annotated[str, Field(min_length=1, max_length=1000, json_schema_extra=_documented(_PRINTABLE))]
Text = Annotated[str, Field(json_schema_extra=_documented(r"^[^\x00]*$")), AfterValidator(_without_nul)]
Id = Annotated[int, Field(ge=1, le=LARGEST), BeforeValidator(_whole)]
Count = Annotated[int, Field(ge=0, le=LARGEST), BeforeValidator(_whole)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Wait = Annotated[
    float,
    Field(
        ge=0,
        le=MAX_WAIT,
        allow_inf_nan=False,
        description="Seconds to wait until there is something; then the answer is what there is.",
    ),
]

NameInPath = Annotated[Name, BeforeValidator(segment), Path()]
KeyInPath = Annotated[
    Line,
    Field(min_length=1, description="Any printable line; encode `/` as `%2F`."),
    BeforeValidator(segment),
    Path(),
]
IdInPath = Annotated[Id, BeforeValidator(segment), Path()]
_FromHeader = Annotated[str, BeforeValidator(_text_of_header)]
LineInHeader = Annotated[Line, BeforeValidator(_text_of_header), Header()]
VersionInHeader = Annotated[
    _FromHeader,
    Header(description="A version in quotes, as `ETag` gives it.", json_schema_extra=_documented(f'^("{NUMBER}")?$')),
]
AnyInHeader = Annotated[
    _FromHeader, Header(description="`*`: only if it does not exist.", json_schema_extra=_documented(r"^\*?$"))
]
NumberInHeader = Annotated[_FromHeader, Header(json_schema_extra=_documented(f"^({NUMBER})?$"))]
