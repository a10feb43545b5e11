"""Settings, read once from the environment at the start of a process.

| variable | meaning | default |
|---|---|---|
| `BUS_DB` | the database file, a whole path; `~`, `$NAME`, `${NAME:-else}` are understood | `~/.claude-bus/bus.db` |
| `BUS_NAME` | register under this name at start | none |
| `BUS_ROLE` | role for `BUS_NAME` | none |
| `BUS_CHANNEL` | channel to join | `default` |
| `BUS_WAKE` | doorbell: `auto`, `always` (also in bypassPermissions mode), `never` | `auto` |
| `BUS_GUARD` | edits of files others claim: `off`, `warn`, `confirm` (refused once), `deny` | `confirm` |
| `BUS_SHARE_PROMPTS` | `1`: peers see the first words of your last prompt | off |
| `BUS_RATE` | messages a session may send per minute, a quarter of them to one recipient; `0`: any number | 120 |
| `BUS_BUSY_TIMEOUT` | seconds to wait for another process's write | 5 |
| `BUS_URL` | a bus served elsewhere, such as `https://host:8765`; `BUS_DB` is not used then | none |
| `BUS_TOKEN`, `BUS_TOKEN_FILE` | the token for it, or a file (0600) that holds it | none |
| `BUS_CA_FILE` | a file of certificates (PEM) to trust besides the system's, by claude-bus alone | none |

For a server of the bus (`claude-bus serve`), as `Serving`:

| variable | meaning | default |
|---|---|---|
| `BUS_HOST` | address to listen at; any but loopback needs a token | `127.0.0.1` |
| `BUS_PORT` | port | 8765 |
| `BUS_PREFIX` | path under which everything is, such as `/agent-bus` | none |
| `BUS_ALLOWED_HOSTS` | names by which clients reach it, separated by commas, such as `*.example.org` | this machine's |
| `BUS_ALLOWED_ORIGINS` | origins whose browser pages may call, separated by commas | the server's own |
| `BUS_TLS_CERT`, `BUS_TLS_KEY` | files with certificate chain and key, for https | none |
| `BUS_CONNECTIONS` | requests of one token under way at once, waiting ones included; `0`: any number | 1100 |
| `BUS_REQUESTS` | requests of one token per minute; `0`: any number | 6000 |
| `BUS_RECV_CHANNEL` | what `/recv` without channel reads: `all`, or `default` | `all` |

For the commands that speak the agent-bus protocol (`recv`, `listen`, `send` and the like), as `AgentBus`:

| variable | meaning | default |
|---|---|---|
| `AGENT_BUS_URL` | the bus's address; a user and password in it are sent as Basic | `BUS_URL` |
| `AGENT_NAME` | as whom to send, and to listen | `agent` |
| `AGENT_BUS_CHANNEL` | the channel there | `default` |
| `AGENT_BUS_UA` | the User-Agent of requests | `Mozilla/5.0` |
| `AGENT_BUS_STATE_DIR` | folder for cursors and what `listen` writes | the system's for state |
| `AGENT_BUS_NO_CURSOR` | `1`: cursors are neither read nor written | off |
| `LOG`, `FULL`, `HEARTBEAT`, `PID_FILE` | the files of `listen` | in that folder |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Literal, cast
from urllib.parse import unquote, urlsplit

from .addresses import DEFAULT_CHANNEL
from .errors import InvalidInput
from .limits import check_line
from .model.claims import Guard
from .names import check_name
from .records import record

Wake = Literal["auto", "always", "never"]

_SEGMENT = re.compile(r"(?!\.\.?$)[A-Za-z0-9._~-]+")
"""A path segment that no client rewrites."""

_VARIABLE = re.compile(r"\$(?:(?P<plain>\w+)|\{(?P<braced>\w+)(?::-(?P<default>[^}]*))?\}|\{[^}]*\}?|\([^)]*\)?)")
"""`$NAME`, `${NAME}` and `${NAME:-default}`; also other shell expansions, which are refused."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_WEB = re.compile(r"https?:", re.IGNORECASE)


@record(frozen=True, slots=True)
class Access:
    """The credentials for a remote bus, and the certificates to trust for it.

    Files are named here and read where they are used, so a process that does not connect needs none of them.
    """

    token: str = field(default="", repr=False)
    token_file: Path | None = None
    """File that holds the token, unless `token` is given."""
    basic: tuple[str, str] | None = field(default=None, repr=False)
    """User and password from the address. They take precedence over the token."""
    ca_file: Path | None = None

    @property
    def shown(self) -> bool:
        """Whether any credentials are set."""
        return bool(self.token or self.token_file or self.basic)


@record(frozen=True, slots=True)
class Config:
    """The settings of one process. Built by `from_env`; tests build it directly."""

    db: Path
    name: str = ""
    role: str = ""
    channel: str = DEFAULT_CHANNEL
    wake: Wake = "auto"
    guard: Guard = "confirm"
    share_prompts: bool = False
    rate: int = 120
    busy_timeout: float = 5.0
    url: str = ""
    """The address without user and password; "" if none is set."""
    access: Access = Access()

    @property
    def shown_url(self) -> str:
        """The address for messages; see `shown_address`."""
        return shown_address(self.url)

    @classmethod
    def from_env(cls, env: Mapping[str, str], home: Path | None) -> Config:
        """Return the settings from the environment. Raises `InvalidInput`, naming the variable, for an invalid one.

        `home` is the user's home folder, None if the user has no home.
        """
        wake = _one_of(env, "BUS_WAKE", "auto", ("auto", "always", "never"))
        guard = _one_of(env, "BUS_GUARD", "confirm", ("off", "warn", "confirm", "deny"))
        name = env.get("BUS_NAME") or ""
        url, basic = _without_user(_url(env.get("BUS_URL") or "", "BUS_URL"))
        return cls(
            db=_database(env, home, needed=not (url or env.get("AGENT_BUS_URL"))),
            name=check_name(name, "BUS_NAME") if name else "",
            role=check_line(env.get("BUS_ROLE") or "", "BUS_ROLE"),
            channel=check_name(env.get("BUS_CHANNEL") or DEFAULT_CHANNEL, "BUS_CHANNEL"),
            wake=cast(Wake, wake),
            guard=cast(Guard, guard),
            share_prompts=_one_of(env, "BUS_SHARE_PROMPTS", "0", ("0", "1")) == "1",
            rate=_count(env.get("BUS_RATE") or "120", "BUS_RATE"),
            busy_timeout=_seconds(env.get("BUS_BUSY_TIMEOUT") or "5", "BUS_BUSY_TIMEOUT"),
            url=url,
            access=_access(env, home, basic),
        )


@record(frozen=True, slots=True)
class Serving:
    """The settings of a server of the bus over HTTP."""

    host: str = "127.0.0.1"
    port: int = 8765
    prefix: str = ""
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    connections: int = 1100
    requests: int = 6000
    recv_default_channel: bool = False
    verbose: int = 0
    """0: log errors. 1: also a line for each request. 2: also details that help to find a fault."""

    @classmethod
    def from_env(cls, env: Mapping[str, str], home: Path | None) -> Serving:
        """Return the settings from the environment. Raises `InvalidInput`, naming the variable, for an invalid one."""
        recv = _one_of(env, "BUS_RECV_CHANNEL", "all", ("all", "default"))
        certificate, key = _file(env, "BUS_TLS_CERT", home), _file(env, "BUS_TLS_KEY", home)
        if bool(certificate) != bool(key):
            raise InvalidInput("BUS_TLS_CERT and BUS_TLS_KEY go together: give both files, or none")
        return cls(
            host=env.get("BUS_HOST") or "127.0.0.1",
            port=_port(env.get("BUS_PORT") or "8765"),
            prefix=_prefix(env.get("BUS_PREFIX") or ""),
            hosts=_listed(env.get("BUS_ALLOWED_HOSTS") or ""),
            origins=_listed(env.get("BUS_ALLOWED_ORIGINS") or ""),
            certificate=certificate,
            key=key,
            connections=_count(env.get("BUS_CONNECTIONS") or "1100", "BUS_CONNECTIONS"),
            requests=_count(env.get("BUS_REQUESTS") or "6000", "BUS_REQUESTS"),
            recv_default_channel=recv == "default",
        )

    @property
    def url(self) -> str:
        """The address at which a client on this machine reaches the server."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.certificate else ''}://{host}:{self.port}{self.prefix}"


@record(frozen=True, slots=True)
class AgentBus:
    """Settings of the commands that speak the agent-bus protocol. A file that is None is one in `folder`."""

    folder: Path | None
    """Folder of the cursors; None without a home folder."""
    url: str = ""
    """The address without user and password; "" if none is set."""
    own: bool = False
    """The address comes from AGENT_BUS_URL, not from BUS_URL."""
    name: str = "agent"
    named: bool = False
    """The name was given, not assumed."""
    channel: str = DEFAULT_CHANNEL
    program: str = "Mozilla/5.0"
    cursors: bool = True
    access: Access = Access()
    log: Path | None = None
    full: Path | None = None
    heartbeat: Path | None = None
    pid_file: Path | None = None

    @property
    def shown_url(self) -> str:
        """The address for messages; see `shown_address`."""
        return shown_address(self.url)

    @classmethod
    def from_env(cls, env: Mapping[str, str], home: Path | None, platform: str) -> AgentBus:
        """Return the settings from environment variables (of a system named as in `sys.platform`).

        BUS_NAME and BUS_CHANNEL apply if BUS_URL does. The token belongs to BUS_URL: an
        AGENT_BUS_URL on another server does not get it.
        """
        own = _url(env.get("AGENT_BUS_URL") or "", "AGENT_BUS_URL")
        ours = _url(env.get("BUS_URL") or "", "BUS_URL")
        url, basic = _without_user(own or ours)
        access = _access(env, home, basic)
        if own and ours and _origin(own) != _origin(ours):
            access = replace(access, token="", token_file=None)
        name = env.get("AGENT_NAME") or ("" if own else env.get("BUS_NAME") or "")
        channel = env.get("AGENT_BUS_CHANNEL") or ("" if own else env.get("BUS_CHANNEL") or "")
        return cls(
            folder=_state_folder(env, home, platform),
            url=url,
            own=bool(own),
            name=name or "agent",
            named=bool(name),
            channel=channel or DEFAULT_CHANNEL,
            program=_ascii(check_line(env.get("AGENT_BUS_UA") or "Mozilla/5.0", "AGENT_BUS_UA", 400), "AGENT_BUS_UA"),
            cursors=(env.get("AGENT_BUS_NO_CURSOR") or "0") == "0",
            access=access,
            log=_file(env, "LOG", home),
            full=_file(env, "FULL", home),
            heartbeat=_file(env, "HEARTBEAT", home),
            pid_file=_file(env, "PID_FILE", home),
        )


def _state_folder(env: Mapping[str, str], home: Path | None, platform: str) -> Path | None:
    """Return the folder for this user's program state on such a system; None without a home folder."""
    if given := _file(env, "AGENT_BUS_STATE_DIR", home):
        return given
    if platform == "win32":
        parent = Path(env["LOCALAPPDATA"]) if env.get("LOCALAPPDATA") else home and home / "AppData" / "Local"
    elif platform == "darwin":
        parent = home and home / "Library" / "Application Support"
    else:
        given_parent = env.get("XDG_STATE_HOME") or ""
        parent = Path(given_parent) if given_parent.startswith("/") else home and home / ".local" / "state"
    return parent and parent / "claude-bus"


def _without_user(url: str) -> tuple[str, tuple[str, str] | None]:
    """Split an address into itself without credentials, and its user and password."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    name, _, password = user.partition(":")
    return parts._replace(netloc=host).geturl(), (unquote(name), unquote(password))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _port(text: str) -> int:
    if not _is_count(text) or int(text) > 65_535:
        raise InvalidInput(f"BUS_PORT={text!a} is not valid: give a port up to 65535, or 0 for a free one")
    return int(text)


def _prefix(text: str) -> str:
    """Return the path in the form that it has in every URL: it needs no encoding and has no special segments."""
    parts = [part for part in text.split("/") if part]
    if not all(_SEGMENT.fullmatch(part) for part in parts):
        raise InvalidInput(
            f"BUS_PREFIX={text[:100]!a} is not valid: give a path of letters, digits and . _ ~ -, such as /agent-bus"
        )
    return "".join(f"/{part}" for part in parts)


def shown_address(url: str) -> str:
    """An address for messages, without what may be secret: user and password, tokens in its path, a query."""
    before, scheme, rest = url.partition("://")
    place, slash, path = re.split(r"[?#]", rest if scheme else url, maxsplit=1)[0].rpartition("@")[2].partition("/")
    path = _MASKED.sub("***", re.sub(r"(?:^|(?<=/))t/[^/]+", "t/***", path))
    return f"{before}{scheme}{place}{slash}{path}" if scheme else f"{place}{slash}{path}"


_MASKED = re.compile(r"[^/]{20,}|bus_[^/]+")
"""Parts of a path that may be tokens."""


def _url(text: str, name: str) -> str:
    """Return the address of a remote bus, without a trailing slash."""
    if not text:
        return ""
    if not _is_address(text):
        shown = shown_address(text)
        raise InvalidInput(f"{name}={shown!a} is not valid: give an address such as https://host:8765")
    return text.rstrip("/")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    complete = parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
    return complete and text.isprintable() and not (parts.query or parts.fragment)


def _access(env: Mapping[str, str], home: Path | None, basic: tuple[str, str] | None) -> Access:
    return Access(
        token=env.get("BUS_TOKEN") or "",
        token_file=_file(env, "BUS_TOKEN_FILE", home),
        basic=basic,
        ca_file=_file(env, "BUS_CA_FILE", home),
    )


def _one_of(env: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = env.get(name) or default
    if value not in allowed:
        raise InvalidInput(f"{name}={value!a} is not valid: use {', '.join(allowed[:-1])} or {allowed[-1]}")
    return value


def _database(env: Mapping[str, str], home: Path | None, *, needed: bool) -> Path:
    """Return the database file. A relative path is refused, because each folder would get its own bus."""
    given = (env.get("BUS_DB") or "").strip()
    if not given:
        return _default_database(home, needed=needed)
    shown = f"BUS_DB={given!a} is not valid"
    if _WEB.match(given):
        raise InvalidInput(f"{shown}: give the path of a file, and the address of a bus that is served as BUS_URL")
    if given.startswith(":") or _SCHEME.match(given):
        raise InvalidInput(f"{shown}: give the path of a file; a URI or a database in memory cannot be shared")
    path = _expanded("BUS_DB", given, env, home)
    if path.endswith(("/", "\\")) or any(character < " " for character in path):
        raise InvalidInput(f"{shown}: it must end in the name of a file, such as bus.db, without control characters")
    if not Path(path).is_absolute():
        raise InvalidInput(
            f"{shown}: it is relative, so each folder would have a bus of its own. Give the whole path, such as "
            f"{(home or Path('/var/lib')) / '.claude-bus' / 'bus.db'}"
        )
    return Path(path)


def _default_database(home: Path | None, *, needed: bool) -> Path:
    if home:
        return home / ".claude-bus" / "bus.db"
    if needed:
        raise InvalidInput(
            "this user has no home folder to keep the bus in (HOME is not set, or not a whole path): set BUS_DB to a "
            "file, such as /var/lib/claude-bus/bus.db"
        )
    return Path("/dev/null")  # not used: the bus is remote


def _file(env: Mapping[str, str], name: str, home: Path | None) -> Path | None:
    """Return the file that a variable names; None if it is not set."""
    if not (text := env.get(name) or ""):
        return None
    try:
        return Path(_expanded(name, text, env, home)).absolute()
    except OSError:
        raise InvalidInput(
            f"{name}={text!a} is relative to a folder that no longer exists: give the whole path"
        ) from None


def _expanded(name: str, text: str, env: Mapping[str, str], home: Path | None) -> str:
    """Expand the variables and `~` in a path: clients pass on what a shell would have expanded."""

    def value(found: re.Match[str]) -> str:
        variable, default = found["plain"] or found["braced"] or "", found["default"]
        known = env.get(variable) or (str(home) if variable == "HOME" and home else "") or default
        if not known:
            raise InvalidInput(f"{name}={text!a} is not valid: {found[0]!a} in it is not set, or not understood")
        return known

    path = _VARIABLE.sub(value, text)
    if path != "~" and not path.startswith(("~/", "~\\")):
        return path
    if not home:
        raise InvalidInput(f"{name}={text!a} is not valid: this user has no home folder, so give the whole path")
    return str(home / path[2:])


def _ascii(text: str, name: str) -> str:
    if not text.isascii():
        raise InvalidInput(f"{name}={text!a} is not valid: give plain ASCII, which is all that a header can hold")
    return text


def _count(text: str, name: str) -> int:
    if not _is_count(text):
        raise InvalidInput(f"{name}={text!a} is not valid: give a whole number of up to 6 digits, or 0 for no limit")
    return int(text)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 7


def _seconds(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 600:
        raise InvalidInput(f"{name}={text!a} is not valid: give seconds from 0 to 600")
    return value
