"""TLS certificates made by the tests."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate(folder: Path, name: str, *, password: bytes | None = None, issued: bool = False) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 and its key. It is self-signed, or, if `issued`, signed by a CA of which
    nothing is kept.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    chain, private = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(_signed(key, name, issued=issued).public_bytes(serialization.Encoding.PEM))
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    return chain, private


def _signed(key: ec.EllipticCurvePrivateKey, name: str, *, issued: bool) -> x509.Certificate:
    subject, issuer = (_named(each) for each in (name, f"{name}'s issuer" if issued else name))
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=not issued, path_length=None), critical=True)
        .sign(ec.generate_private_key(ec.SECP256R1()) if issued else key, hashes.SHA256())
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
