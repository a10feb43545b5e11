"""The HTTP client for a remote server: opening connections, reading answers, reporting failures.

The data sent over it must not leak: an error message never contains a token, a password or
mail. The text of a library's exception may quote any of them, so only the kind of the
exception is shown.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path, PosixPath
from typing import Any
from urllib.parse import urlsplit

import httpx2

from ..config import Access, shown_address
from ..errors import Misconfigured, Unauthorized, Unreachable
from . import proxies

ANSWER_BYTES = 64 * 1024 * 1024
"""The longest answer, in bytes, that is read."""
_LINE_BYTES = 1000
"""The longest line, in bytes, of an answer that is read line by line."""
_TOKEN_BYTES = 4096

FAILURES = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError, ValueError)
"""Exceptions that a failing request raises."""


def client(url: str, access: Access, program: str, **options: Any) -> httpx2.AsyncClient:
    """Return a client for the server at `url` that calls itself `program`. Raises `Misconfigured`.

    Redirects are not followed: the contents of a request are meant only for the configured address.
    """
    headers = {"User-Agent": program}
    token = "" if access.basic else secret(access)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    address, tls = _address(url), _tls(url, access.ca_file)
    way = proxies.Route("") if options.get("transport") else proxies.route(url)
    try:
        return httpx2.AsyncClient(
            base_url=address,
            headers=headers,
            auth=access.basic,
            verify=tls,
            follow_redirects=False,
            proxy=way.proxy or None,
            trust_env=False,  # `proxies` chooses the route
            **options,
        )
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise Misconfigured(
            f"the proxy that {way.named_by} names cannot be used ({type(error).__name__}): "
            "give an http:// or https:// address, or unset it"
        ) from None


def _address(url: str) -> httpx2.URL:
    try:
        return httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL):
        raise Misconfigured(f"{shown_address(url)!a} is not an address: give one such as https://host:8765") from None


def show_anew(http: httpx2.AsyncClient, access: Access) -> None:
    """Send the current token from the token's file from now on. Raises `Misconfigured`."""
    if access.token_file and not access.basic:
        http.headers["Authorization"] = f"Bearer {secret(access)}"


def secret(access: Access) -> str:
    """Return the token to present; "" without one. Raises `Misconfigured` if it cannot be a token."""
    if access.token or not access.token_file:
        where, said = "BUS_TOKEN", access.token
    else:
        where, said = f"BUS_TOKEN_FILE={str(access.token_file)!a}", _read(access.token_file)
    found = said.removeprefix("\N{BYTE ORDER MARK}").strip()
    if access.shown and not found:
        raise Misconfigured(f"{where} is empty: put the token into it")
    if not all("!" <= character <= "~" for character in found):
        raise Misconfigured(f"{where} holds no token: put the one word there that was shown when it was made")
    return found


def _read(path: Path) -> str:
    """Return the content of a token's file, which only its owner may be able to read."""
    where = f"BUS_TOKEN_FILE={str(path)!a}"
    try:
        with path.open("rb") as file:
            mode, content = os.fstat(file.fileno()).st_mode, file.read(_TOKEN_BYTES)
    except OSError as error:
        raise Misconfigured(f"{where} cannot be read: {error.strerror}") from None
    if isinstance(path, PosixPath) and mode & 0o077:
        raise Misconfigured(f"{where} can be read by others, who could use it: chmod 600 {path}")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Misconfigured(f"{where} is not text in UTF-8: write the token into it anew") from None


def _tls(url: str, ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the system's certificates, and those in the file."""
    if urlsplit(url).scheme != "https":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not used without https
    try:
        trusted = httpx2.create_ssl_context()
    except OSError as error:
        given = os.environ.get("SSL_CERT_FILE")
        where = f"SSL_CERT_FILE={given!a}" if given else "the file of the system's certificates"
        raise Misconfigured(f"{where} {_unusable(error)}") from None
    try:
        if ca_file:
            trusted.load_verify_locations(cafile=ca_file)
            trusted.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # accepts the server's own certificate
    except OSError as error:
        raise Misconfigured(f"BUS_CA_FILE={str(ca_file)!a} {_unusable(error)}") from None
    return trusted


def _unusable(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "holds no certificates in PEM that can be read"
    return f"cannot be read: {error.strerror or type(error).__name__}"


async def content(answer: httpx2.Response, where: str) -> bytes:
    """Return the whole answer. Raises `Unreachable` if it is too long."""
    found = bytearray()
    async for part in answer.aiter_bytes():
        found += part
        if len(found) > ANSWER_BYTES:
            raise Unreachable(f"{where} answers with more than {ANSWER_BYTES // 1024**2} MiB", sent=True)
    return bytes(found)


async def lines(answer: httpx2.Response, where: str) -> AsyncIterator[bytes]:
    """Yield an endless answer line by line."""
    rest = b""
    async for part in answer.aiter_bytes():
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > _LINE_BYTES:
            raise Unreachable(f"{where} answers with a line that does not end", sent=True)


def kind(error: BaseException) -> str:
    """Return the part of a failure that may be shown."""
    name = type(error).__name__
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"{name}: {cause.verify_message}; BUS_CA_FILE can name a certificate to trust"
        if isinstance(cause, ssl.SSLError):
            return f"{name}: the TLS handshake failed ({cause.reason}); is it http:// that is spoken there?"
        cause = cause.__cause__ or cause.__context__
    refused = re.match(r"\d{3}\b", str(error)) if isinstance(error, httpx2.ProxyError) else None
    return f"{name}: {refused[0]}" if refused else name


def unauthorized(where: str, access: Access) -> Unauthorized:
    """Return the error for a server that does not accept these credentials."""
    if access.basic:
        return Unauthorized(f"{where} does not know the user and password in its address")
    if not access.shown:
        return Unauthorized(
            f"{where} requires a token: set BUS_TOKEN or BUS_TOKEN_FILE. "
            "The operator of the server makes one: claude-bus token create NAME"
        )
    source = "BUS_TOKEN" if access.token else f"BUS_TOKEN_FILE={str(access.token_file)!a}"
    return Unauthorized(
        f"{where} refuses the token in {source}: it is not valid, or no longer. Ask the server's operator for another"
    )
