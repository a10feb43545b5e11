"""Kinds of values in requests, with their limits, as the document shows them."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import Header, Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ... import rules

PATH = "/v1"
"""Where the API is."""
LARGEST = 2**63 - 1
"""The largest integer that the store holds."""
MAX_WAIT = 60.0
"""Seconds that a request may wait; proxies end what is silent for longer."""


def segment(given: object) -> object:
    """A segment of the path as text. It arrives encoded, so that `/` can be part of it."""
    if not isinstance(given, str):
        return given
    try:
        return unquote_to_bytes(given).decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None


def _without_nul(given: str) -> str:
    if "\0" in given:
        raise ValueError("holds a NUL")
    return given


def _text_of_header(given: object) -> object:
    """A header's bytes are UTF-8 here, as in the rest of the API."""
    if not isinstance(given, str):
        return given
    try:
        return given.encode("latin-1").decode()
    except UnicodeError:
        raise ValueError("is not UTF-8") from None


class Body(BaseModel):
    """Base of all bodies: unknown fields are refused, and a number is not text."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Query(BaseModel):
    """Base of all query parameters: unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")


Name = Annotated[
    str,
    Field(
        min_length=1,
        max_length=rules.MAX_NAME,
        description="Letters, digits and `. _ - : + ~ #` of any script, beginning with a letter or digit.",
        examples=["ci"],
    ),
]
Channel = Annotated[
    str,
    Field(max_length=rules.MAX_NAME, description="The server's own (`BUS_CHANNEL`, else `default`) unless given."),
]
Line = Annotated[str, Field(max_length=rules.MAX_ROLE, description="One printable line.")]
Text = Annotated[str, AfterValidator(_without_nul)]
Id = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
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
    str,
    BeforeValidator(segment),
    Path(min_length=1, max_length=rules.MAX_ROLE, description="Any printable line; encode `/` as `%2F`."),
]
IdInPath = Annotated[Id, BeforeValidator(segment), Path()]
HeaderText = Annotated[str, BeforeValidator(_text_of_header), Header()]
