"""What can go wrong, as a short tree.

Every error a caller may meet is a `BusError`: a stable `code`, a sentence that
names the way out, and data for programs. Doors (tools, CLI, HTTP) translate a
code through `EXIT_STATUS` and `HTTP_STATUS`; nobody else decides on a status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .quoting import quoted


class BusError(Exception):
    """Base of all errors the bus reports to a caller."""

    code = "error"

    def __init__(self, message: str, /, **data: object) -> None:
        super().__init__(message)
        self.message = message
        self.data = data

    def as_dict(self) -> dict[str, object]:
        """The error as programs get it: `{"error": code, "message": ..., **data}`."""
        return {"error": self.code, "message": self.message, **self.data}


class InvalidInput(BusError):
    """An argument does not have the form it must have."""

    code = "invalid_input"


class Misconfigured(BusError):
    """A setting of this program, or a file that it names, is of no use; a line to a bus elsewhere needs it."""

    code = "misconfigured"


class TooLarge(BusError):
    """Content or a value exceeds its limit; `limit` and `size` are in bytes."""

    code = "too_large"


class SecretRefused(BusError):
    """What was to be stored looks like it holds a secret; `found` has kinds and lines, never the secret."""

    code = "secret_refused"

    def __init__(self, what: str, found: Sequence[tuple[str, int]]) -> None:
        shown = ", ".join(f"{kind} on line {line}" for kind, line in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        super().__init__(
            f"{what} looks like it holds a secret ({shown}{more}); nothing was stored. Put it into a file that only "
            "its readers can open, and pass that on: send with files (--file). If it may be on the bus, repeat with "
            "allow_secret (--allow-secret)",
            found=[{"kind": kind, "line": line} for kind, line in found],
        )


class NotRegistered(BusError):
    """The verb needs a name and the caller has none yet."""

    code = "not_registered"

    def __init__(
        self, message: str = "register first: call register(name) with a short name such as 'backend'"
    ) -> None:
        super().__init__(message)


class NameTaken(BusError):
    """Another live session holds the name; `suggestion` is free."""

    code = "name_taken"

    def __init__(self, name: str, holder: str, suggestion: str) -> None:
        super().__init__(
            f"'{name}' is held by a live session ({holder}); '{suggestion}' is free. Sessions of another project can "
            "have names of their own on another channel: register(name, channel=...), or BUS_CHANNEL",
            name=name,
            holder=holder,
            suggestion=suggestion,
        )


class RateLimited(BusError):
    """A session sends too much; `retry_after` is in seconds, where waiting helps."""

    code = "rate_limited"


class Unauthorized(BusError):
    """No token came with the request, or none that is valid."""

    code = "unauthorized"


class Forbidden(BusError):
    """The token may not do this: it is for other names or channels."""

    code = "forbidden"


class WrongHost(BusError):
    """The request is addressed to a name that is not one of this server's."""

    code = "wrong_host"


class RequestTimeout(BusError):
    """A request's head or body did not come in time."""

    code = "too_slow"


class ShuttingDown(BusError):
    """The server is about to end, and answers nobody who waits."""

    code = "ending"


class AlreadyRunning(BusError):
    """Another process does already what only one may do."""

    code = "already_running"


class NotFound(BusError):
    """What was named does not exist, or is not the caller's to see."""

    code = "not_found"


class VersionConflict(BusError):
    """A compare-and-set met another version than the expected one."""

    code = "version_conflict"

    def __init__(self, key: str, expected: int, current: int) -> None:
        super().__init__(
            f"stale write: expected_version {expected} != current {current}; re-read '{key}' and retry",
            key=key,
            expected=expected,
            current=current,
        )


class ClaimHeld(BusError):
    """Another agent's live claim overlaps; nothing was claimed."""

    code = "claim_held"

    def __init__(self, path: str, held: str, holder: str, expires_in: float, reason: str) -> None:
        under = "" if held == path else f" (its claim: {quoted(held, 300)})"
        why = f", reason: {quoted(reason, 200)}" if reason else ""
        super().__init__(
            f"'{path}' is claimed by '{holder}' for another {expires_in:.0f}s{under}{why}; "
            f"ask '{holder}' with send, or wait. Nothing was claimed",
            path=path,
            held=held,
            holder=holder,
            expires_in=round(expires_in, 1),
            reason=reason,
        )


class ClaimOfOther(BusError):
    """A release named a claim that belongs to somebody else."""

    code = "claim_of_other"

    def __init__(self, path: str, holder: str, asked: str) -> None:
        super().__init__(
            f"'{path}' is claimed by '{holder}', not '{asked}'; ask '{holder}' to release it",
            path=path,
            holder=holder,
        )


class StoreError(BusError):
    """The database could not do its part; the verb had no effect."""

    code = "store_failed"


class StoreBusy(StoreError):
    """Another process held the write lock for longer than the busy timeout."""

    code = "store_busy"


class StoreFull(StoreError):
    """The disk (or quota) is full."""

    code = "store_full"


class StoreReadOnly(StoreError):
    """The database file or its folder may not be written or created."""

    code = "store_read_only"


class StoreCorrupt(StoreError):
    """The file is damaged, or is not a database of ours."""

    code = "store_corrupt"


class StoreUnsuitable(StoreError):
    """The file system, or what lies at the path, is of no use for a database that processes share."""

    code = "store_unsuitable"


class Unreachable(StoreError):
    """The bus is served elsewhere, and no answer came from there; `sent` says whether the request may have arrived."""

    code = "unreachable"


def from_dict(document: Mapping[str, object]) -> BusError:
    """The error that another program reported with `as_dict`; one of a kind unknown here is a plain `BusError`."""
    data = dict(document)
    code, message = str(data.pop("error", "")), str(data.pop("message", ""))
    error = BusError.__new__(_kinds().get(code, BusError))
    BusError.__init__(error, message, **data)
    return error


def _kinds() -> dict[str, type[BusError]]:
    found: list[type[BusError]] = [BusError]
    for kind in found:
        found += kind.__subclasses__()
    return {kind.code: kind for kind in reversed(found)}


EXIT_STATUS: dict[str, int] = {
    "invalid_input": 2,
    "misconfigured": 2,
    "too_large": 2,
    "secret_refused": 2,
    "not_registered": 2,
    "unauthorized": 2,
    "forbidden": 2,
    "wrong_host": 2,
    "not_found": 3,
    "name_taken": 4,
    "version_conflict": 4,
    "claim_held": 4,
    "claim_of_other": 4,
    "already_running": 4,
    "rate_limited": 4,
    "store_busy": 5,
    "store_full": 5,
    "store_read_only": 5,
    "store_corrupt": 5,
    "store_unsuitable": 5,
    "store_failed": 5,
    "unreachable": 5,
    "too_slow": 5,
    "ending": 5,
}
"""Exit status of the CLI by error code; a code that is not listed exits with 1."""

HTTP_STATUS: dict[str, int] = {
    "invalid_input": 400,
    "too_large": 413,
    "secret_refused": 422,
    "not_registered": 403,
    "unauthorized": 401,
    "forbidden": 403,
    "wrong_host": 421,
    "too_slow": 408,
    "ending": 503,
    "not_found": 404,
    "name_taken": 409,
    "version_conflict": 409,
    "claim_held": 409,
    "claim_of_other": 403,
    "already_running": 409,
    "rate_limited": 429,
    "store_busy": 503,
    "store_full": 507,
    "store_read_only": 500,
    "store_corrupt": 500,
    "store_unsuitable": 500,
    "store_failed": 500,
    "misconfigured": 500,
    "unreachable": 502,
}
"""HTTP status by error code; a code that is not listed answers 500."""
