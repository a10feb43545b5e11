"""The types of verbs' parameters that mean something to the server: who acts, whose key it is, how long a text may be.

`http.verbs` reads them from a verb's signature. A text without one of these is one printable
line of a thousand characters at most; a name is always one that the caller's token must permit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from .. import limits
from ..model.claims import ClaimTarget
from ..model.identity import Address
from ..records import record


@record(frozen=True, slots=True)
class Acts:
    """A name that the caller acts as; it must not be a live session of somebody else."""


@record(frozen=True, slots=True)
class OwnSession:
    """The key of a session; a caller elsewhere means one of its own."""


@record(frozen=True, slots=True)
class OwnAddress:
    """The address of a listener; a caller elsewhere means one of its own."""


@record(frozen=True, slots=True)
class OnChannel:
    """A channel, which the caller's token must permit."""


@record(frozen=True, slots=True)
class Line:
    """One printable line of at most so many characters."""

    most: int


@record(frozen=True, slots=True)
class Checked:
    """Not checked by the server: the verb checks it itself, or it is fenced wherever it is shown."""


@record(frozen=True, slots=True)
class FewMessages:
    """At most as many ids as one request may settle."""


@record(frozen=True, slots=True)
class Local:
    """Given on the machine of the bus only: it is no part of the wire."""


@record(frozen=True, slots=True)
class OnTheWire:
    """The type over the wire, where that is more exact than here."""

    kind: Any


Me = Annotated[Address, Acts()]
SessionKey = Annotated[str, OwnSession()]
Listener = Annotated[str, OwnAddress()]
Channel = Annotated[str, OnChannel()]
Role = Annotated[str, Line(limits.MAX_ROLE)]
Tree = Annotated[str, Line(limits.MAX_PATH_BYTES)]
Owns = Annotated[tuple[str, ...] | None, Checked()]
Content = Annotated[str, Checked()]
MessageIds = Annotated[Sequence[int], FewMessages()]
Places = Annotated[list[ClaimTarget] | list[tuple[str, str]], OnTheWire(list[ClaimTarget])]
