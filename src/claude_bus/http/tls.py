"""TLS with certificate and key from files."""

from __future__ import annotations

import ssl
from pathlib import Path

from ..errors import InvalidInput


def context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a server's context with this chain and key. Raises `InvalidInput`, naming the file and the reason."""
    for file, variable in ((certificate, "BUS_TLS_CERT"), (key, "BUS_TLS_KEY")):
        _check_readable(file, variable)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    try:
        made.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise InvalidInput(_reason(error, certificate, key)) from None
    return made


def _check_readable(file: Path, variable: str) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise InvalidInput(f"{variable}: {file} cannot be read: {error.strerror}") from None


def _no_password() -> str:
    """Return no password, because a server cannot ask for one; the key must be an unencrypted file of mode 0600."""
    return ""


def _reason(error: ssl.SSLError, certificate: Path, key: Path) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key in {key} (BUS_TLS_KEY) is not the one of the certificate in {certificate} (BUS_TLS_CERT)"
    return (
        f"{certificate} (BUS_TLS_CERT) and {key} (BUS_TLS_KEY) cannot be used: {error.reason or error}; "
        "give a certificate chain and its key without a password, both in PEM"
    )
