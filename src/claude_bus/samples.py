"""Texts that only look like a secret: development passwords, published examples, placeholders.

A password is a development password if it is an obvious guess *and* its hosts are reachable only from this machine
or its network. Neither alone is enough.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable
from urllib.parse import unquote

from .records import record

MAX_GUESSED = 5
"""Characters besides known words in a password that is an obvious guess: digits, an exclamation mark."""
MAX_PASSWORD = 64

_WORDS = (
    "password passwort passwd pass pwd secret changeme changeit change me please your my the very random strong weak "
    "example sample default placeholder dummy fake temp tmp test testing tester dev devel develop development local "
    "localhost demo admin administrator root super user username guest public anonymous owner app api web site service "
    "server client db database data base store storage cache queue broker message mail key token login welcome letmein "
    "qwerty abc foo bar baz hello world docker compose kube minikube vagrant bitnami sa system manager master "
    "postgres postgresql psql pg mysql maria mariadb mssql oracle mongo mongodb redis rabbit rabbitmq amqp mq kafka "
    "elastic elasticsearch opensearch kibana grafana influx influxdb neo4j minio s3 nats mqtt mosquitto clickhouse "
    "cassandra couch couchdb vault keycloak jenkins sonar nexus registry ldap smtp ftp ssh http https"
)
_KNOWN = re.compile("|".join(sorted(_WORDS.split(), key=len, reverse=True)))
_LEET = str.maketrans("013457@$!", "oieastasi")

_LOCAL_NAMES = ("localhost", "local", "internal", "test", "lan", "home", "localdomain", "svc", "home.arpa")
"""Last parts of names that no public name server resolves (RFC 2606, 6761, 6762, 8375; Docker, Kubernetes)."""
_NOBODYS = ("example", "invalid", "example.com", "example.net", "example.org")
"""Names reserved for documentation, which have no hosts (RFC 2606)."""

_PUBLISHED = frozenset({"0011cc25eb432071", "aa6547439583c3a2"})
"""Beginnings of the SHA-256 of published secrets: the account keys of Azure's storage and database emulators."""
_PLACEHOLDER = re.compile(
    r"your[-_]|example|placeholder|change[-_]?me|redacted|dummy|insert[-_]|<[^<>]*>", re.IGNORECASE
)
_RUN = 6
"""Characters in a row, equal or counting up, that no real secret has."""
_HOST = re.compile(r"\bhttps?://(?:[^\s/@'\"]*@)?(\[[^\]\s]*\]|[^\s/:'\"?#]+)")


@record(frozen=True, slots=True)
class Login:
    """A user's password, and the hosts that it is for."""

    user: str
    password: str
    hosts: tuple[str, ...]
    scheme: str = ""


def is_sample(secret: str, login: Login | None) -> bool:
    """Return whether a finding is harmless; `login` if it is a password that is used at a host."""
    if login:
        return _is_nobodys(login) or (_is_guessed(login) and bool(login.hosts) and all(map(_is_local, login.hosts)))
    return len(secret.split()) == 1 and (_is_published(secret) or _is_placeholder(secret))


def login_of_url(captures: dict[str, str]) -> Login | None:
    """Return the login in the parts of a URL; None if it has no password."""
    if not captures.get("password"):
        return None
    hosts = (_without_port(host) for host in captures.get("host", "").split(","))
    names = {name: unquote(captures.get(name) or "") for name in ("username", "password", "scheme")}
    return Login(names["username"], names["password"], tuple(filter(None, hosts)), names["scheme"])


def login_of_command(secret: str, line: str) -> Login | None:
    """Return the login of a curl command in a line, as `user:password` or that in base64; its hosts are in the line."""
    given = secret if ":" in secret else _decoded(secret).decode("utf-8", "replace")
    user, colon, password = given.partition(":")
    return Login(user, password, tuple(_HOST.findall(line))) if colon else None


# -- hosts ----------------------------------------------------------------------------------


def _without_port(host: str) -> str:
    return re.sub(r"(?<=[^:]):\d+$|(?<=\]):\d+$", "", host.strip())


def _is_local(host: str) -> bool:
    """Return whether only this machine or its network reaches a host; a name without a dot is a compose service."""
    bare = host.strip("[]").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return bool(bare) and ("." not in bare or _is_under(bare, _LOCAL_NAMES) or _is_under(bare, _NOBODYS))
    return address.is_private or address.is_loopback or address.is_unspecified or address.is_link_local


def _is_under(host: str, names: Iterable[str]) -> bool:
    return any(host == name or host.endswith(f".{name}") for name in names)


def _is_nobodys(login: Login) -> bool:
    """Return whether the host cannot exist, or accepts every user."""
    if login.user.lower() == "anonymous" and login.scheme.lower() in ("ftp", "ftps"):
        return True
    hosts = [host.rstrip(".").lower() for host in login.hosts]
    return bool(hosts) and all(_is_under(host, _NOBODYS) for host in hosts)


# -- passwords --------------------------------------------------------------------------------


def _is_guessed(login: Login) -> bool:
    """Return whether a password is an obvious guess: known words, the name of user or service, and little else."""
    password = login.password.lower()
    if len(password) > MAX_PASSWORD:
        return False
    for name in re.findall(r"[a-z0-9]{2,}", " ".join([login.user, *login.hosts]).lower())[:20]:
        password = password.replace(name, "")
    return any(len(_KNOWN.sub("", spelled)) <= MAX_GUESSED for spelled in (password, password.translate(_LEET)))


# -- tokens -----------------------------------------------------------------------------------


def _is_published(secret: str) -> bool:
    return hashlib.sha256(secret.encode()).hexdigest()[:16] in _PUBLISHED or _is_of_jwt_io(secret)


def _is_of_jwt_io(secret: str) -> bool:
    """Return whether it is the example token of jwt.io, which many tutorials use."""
    try:
        claims = json.loads(_decoded(secret.split(".")[1]))
    except (IndexError, ValueError):
        return False
    return isinstance(claims, dict) and claims.get("sub") == "1234567890" and claims.get("name") == "John Doe"


def _decoded(text: str) -> bytes:
    """Decode base64 in either alphabet; b"" if the text is not base64."""
    try:
        return base64.b64decode(
            text.replace("-", "+").replace("_", "/").rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
        )
    except (binascii.Error, ValueError):
        return b""


def _is_placeholder(secret: str) -> bool:
    """Return whether a person wrote it as a placeholder: `xxxx`, `1234567890abcdef`, `your_token_here`."""
    if "://" not in secret and _PLACEHOLDER.search(secret):
        return True
    return 2 * _written_by_hand(secret) >= len(secret)


def _written_by_hand(secret: str) -> int:
    """Return how many of its characters are in long runs."""
    total, run = 0, 1
    for before, after in zip(secret, f"{secret[1:]}\0", strict=True):
        if ord(after) - ord(before) in (0, 1) or before + after == "90":
            run += 1
        else:
            total, run = total + (run if run >= _RUN else 0), 1
    return total
