"""The errors of the bus, as a short tree.

Each is a `BusError`: a stable `code`, a sentence that names the way out, and data for
programs. A class also states the HTTP status and the exit status that the transports
use for it, so an error is declared in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .quoting import quoted


class BusError(Exception):
    """Base of all errors that the bus reports to a caller."""

    code = "error"
    http_status = 500
    exit_status = 1

    def __init__(self, message: str, /, **data: object) -> None:
        super().__init__(message)
        self.message = message
        self.data = data

    def as_dict(self) -> dict[str, object]:
        """Return the error as programs get it: `{"error": code, "message": ..., **data}`."""
        return {"error": self.code, "message": self.message, **self.data}


class InvalidInput(BusError):
    """An argument does not have the required form."""

    code = "invalid_input"
    http_status = 400
    exit_status = 2


class Misconfigured(BusError):
    """A setting of this program, or a file that it names, cannot be used to reach a remote bus."""

    code = "misconfigured"
    http_status = 500
    exit_status = 2


class MissingPackages(BusError):
    """A command needs packages that are not installed; `extra` names the extra of claude-bus that has them."""

    code = "missing_packages"
    http_status = 500
    exit_status = 2


class TooLarge(BusError):
    """Content or a value exceeds its limit; `limit` and `size` are in bytes."""

    code = "too_large"
    http_status = 413
    exit_status = 2


class SecretRefused(BusError):
    """Content to be stored looks as if it contains a secret; `found` has kinds and lines, never the secret itself."""

    code = "secret_refused"
    http_status = 422
    exit_status = 2

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
    """The operation needs a name, and the caller has none yet."""

    code = "not_registered"
    http_status = 403
    exit_status = 2

    def __init__(
        self, message: str = "register first: call register(name) with a short name such as 'backend'"
    ) -> None:
        super().__init__(message)


class NameTaken(BusError):
    """Another live session holds the name; the name `suggestion` is free."""

    code = "name_taken"
    http_status = 409
    exit_status = 4

    def __init__(self, name: str, holder: str, suggestion: str) -> None:
        super().__init__(
            f"'{name}' is held by a live session ({holder}); '{suggestion}' is free. Sessions of another project can "
            "have names of their own on another channel: register(name, channel=...), or BUS_CHANNEL",
            name=name,
            holder=holder,
            suggestion=suggestion,
        )


class Displaced(BusError):
    """A session is not bound as its own server takes it to be; the server finds out, and repeats the call."""

    code = "displaced"
    http_status = 409
    exit_status = 4

    def __init__(self, message: str = "the session is not bound as its server takes it to be: attach it again") -> None:
        super().__init__(message)


class RateLimited(BusError):
    """A session sends too much; `retry_after` is in seconds, and is set only where waiting helps."""

    code = "rate_limited"
    http_status = 429
    exit_status = 4


class Unauthorized(BusError):
    """The request carries no valid token."""

    code = "unauthorized"
    http_status = 401
    exit_status = 2


class Forbidden(BusError):
    """The token does not permit this: it is for other names or channels."""

    code = "forbidden"
    http_status = 403
    exit_status = 2


class WrongHost(BusError):
    """The request is addressed to a host name that is not one of this server's."""

    code = "wrong_host"
    http_status = 421
    exit_status = 2


class RequestTimeout(BusError):
    """The head or the body of a request did not arrive in time."""

    code = "too_slow"
    http_status = 408
    exit_status = 5


class ShuttingDown(BusError):
    """The server is about to stop, and no longer lets requests wait."""

    code = "ending"
    http_status = 503
    exit_status = 5


class AlreadyRunning(BusError):
    """Another process already does something that only one process may do."""

    code = "already_running"
    http_status = 409
    exit_status = 4


class NotFound(BusError):
    """The named thing does not exist, or the caller may not see it."""

    code = "not_found"
    http_status = 404
    exit_status = 3


class VersionConflict(BusError):
    """A compare-and-set found another version than the expected one."""

    code = "version_conflict"
    http_status = 409
    exit_status = 4

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
    http_status = 409
    exit_status = 4

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
    """A release named a claim that belongs to another agent."""

    code = "claim_of_other"
    http_status = 403
    exit_status = 4

    def __init__(self, path: str, holder: str, asked: str) -> None:
        super().__init__(
            f"'{path}' is claimed by '{holder}', not '{asked}'; ask '{holder}' to release it",
            path=path,
            holder=holder,
        )


class NoAnswer(BusError):
    """A disk did not say in time what a path names."""

    code = "no_answer"
    http_status = 500
    exit_status = 5

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__(f"{path[:200]!a} was not looked at: the disk did not answer within {seconds:.0f} s")


class StoreError(BusError):
    """The database operation failed; it had no effect."""

    code = "store_failed"
    http_status = 500
    exit_status = 5


class StoreBusy(StoreError):
    """Another process held the write lock for longer than the busy timeout."""

    code = "store_busy"
    http_status = 503
    exit_status = 5


class StoreFull(StoreError):
    """The disk (or quota) is full."""

    code = "store_full"
    http_status = 507
    exit_status = 5


class StoreReadOnly(StoreError):
    """The database file or its folder cannot be written or created."""

    code = "store_read_only"
    http_status = 500
    exit_status = 5


class StoreCorrupt(StoreError):
    """The file is damaged, or is not a database of claude-bus."""

    code = "store_corrupt"
    http_status = 500
    exit_status = 5


class StoreUnsuitable(StoreError):
    """The file system, or the file at the path, cannot hold a database that processes share."""

    code = "store_unsuitable"
    http_status = 500
    exit_status = 5


class Unreachable(StoreError):
    """The remote bus did not answer; `sent` says whether the request may have arrived."""

    code = "unreachable"
    http_status = 502
    exit_status = 5


def from_dict(document: Mapping[str, object]) -> BusError:
    """Return the error that another program reported with `as_dict`; a plain `BusError` if its code is unknown here."""
    data = dict(document)
    code, message = str(data.pop("error", "")), str(data.pop("message", ""))
    error = BusError.__new__(kinds().get(code, BusError))
    BusError.__init__(error, message, **data)
    return error


def kinds() -> dict[str, type[BusError]]:
    """Every kind of error by its code, `BusError` itself included."""
    found: list[type[BusError]] = [BusError]
    for kind in found:
        found += kind.__subclasses__()
    return {kind.code: kind for kind in reversed(found)}
