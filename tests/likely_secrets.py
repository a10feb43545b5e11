"""Texts for the detector: each kind of secret, made up on the spot, and what only resembles one.

No token stands here as such: other people's scanners read this file, too.
"""

from __future__ import annotations

import base64
import json
import random
import string

_CHANCE = random.Random(7)
_WORDLY = string.ascii_letters + string.digits
_URLSAFE = _WORDLY + "_-"
_HEX = "0123456789abcdef"


def some(count: int, letters: str = _WORDLY) -> str:
    return "".join(_CHANCE.choice(letters) for _ in range(count))


def pem(kind: str) -> str:
    body = base64.b64encode(_CHANCE.randbytes(1_200)).decode()
    lines = (body[i : i + 64] for i in range(0, len(body), 64))
    return "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----"])


def _part(**claims: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


SECRETS: dict[str, str] = {
    "rsa key": pem("RSA PRIVATE KEY"),
    "pkcs8 key": pem("PRIVATE KEY"),
    "ec key": pem("EC PRIVATE KEY"),
    "openssh key": pem("OPENSSH PRIVATE KEY"),
    "encrypted key": pem("ENCRYPTED PRIVATE KEY"),
    "pgp key": pem("PGP PRIVATE KEY BLOCK"),
    "key within json": json.dumps({"private_key": pem("PRIVATE KEY")}),
    "aws pair": f"aws_access_key_id = AKIA{some(16, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567')}\n"
    f"aws_secret_access_key = {some(40, _WORDLY + '+/')}",
    "github classic": "ghp_" + some(36),
    "github oauth": "gho_" + some(36),
    "github app": "ghs_" + some(36),
    "github fine-grained": f"github_pat_{some(22)}_{some(59)}",
    "gitlab": "glpat-" + some(20),
    "gitlab runner": "glrt-" + some(20),
    "slack bot": f"xoxb-{some(12, string.digits)}-{some(13, string.digits)}-{some(24)}",
    "slack hook": "https://hooks.slack.com/services/"
    f"T{some(8, string.ascii_uppercase)}/B{some(10, string.ascii_uppercase)}/{some(24)}",
    "stripe": "sk_live_" + some(24),
    "stripe restricted": "rk_live_" + some(24),
    "openai": f"sk-proj-{some(74, _URLSAFE)}T3BlbkFJ{some(74, _URLSAFE)}",
    "openai legacy": f"sk-{some(20)}T3BlbkFJ{some(20)}",
    "anthropic": f"sk-ant-api03-{some(93, _URLSAFE)}AA",
    "anthropic admin": f"sk-ant-admin01-{some(93, _URLSAFE)}AA",
    "google": "AIza" + some(35, _URLSAFE),
    "npm": "npm_" + some(36),
    "pypi": "pypi-AgEIcHlwaS5vcmcC" + some(150, _URLSAFE),
    "azure storage": "DefaultEndpointsProtocol=https;AccountName=acmeprodstore;"
    f"AccountKey={base64.b64encode(_CHANCE.randbytes(64)).decode()};EndpointSuffix=core.windows.net",
    "jwt": f"{_part(alg='HS256', typ='JWT')}.{_part(sub='42', name='Jo Doe', iat=1_516_239_022)}.{some(43, _URLSAFE)}",
    "password in a url": f"postgres://svc:{some(16)}@db.acme.io:5432/prod",
    "short password in a url": f"https://me:{some(7)}@git.acme.io/x.git",
    "password alone in a url": f"redis://:{some(20)}@cache.acme.io:6379/0",
    "hugging face": "hf_" + some(34, string.ascii_letters),
    "sendgrid": f"SG.{some(22, _URLSAFE)}.{some(43, _URLSAFE)}",
    "digitalocean": "dop_v1_" + some(64, _HEX),
    "shopify": "shpat_" + some(32, _HEX),
    "vault": "hvs." + some(95, _URLSAFE),
    "age": "AGE-SECRET-KEY-1" + some(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"),
}

ORDINARY: dict[str, str] = {
    "plain talk": "the build is green, you may deploy",
    "sha256": "sha256 " + some(64, _HEX),
    "commit": f"fixed in {some(40, _HEX)}, see src/claude_bus/text.py:120",
    "uuid": "-".join(some(n, _HEX) for n in (8, 4, 4, 4, 12)),
    "lock file": f'"integrity": "sha512-{base64.b64encode(_CHANCE.randbytes(64)).decode()}"',
    "url with a port": "see https://example.com:8080/@user/post",
    "url with a variable": "postgres://app:${DB_PASSWORD}@db/prod",
    "url with a template": "https://user:{{ token }}@host",
    "url with stars": "redis://:***@cache:6379",
    "git over ssh": "git@github.com:org/repo.git and ssh://git@host:22/x.git",
    "a key spoken of": "the file starts with -----BEGIN RSA PRIVATE KEY----- and I fixed its parser",
    "public key": pem("PUBLIC KEY"),
    "certificate": pem("CERTIFICATE"),
    "prefixes spoken of": f"keys look like sk-ant-api03-... or ghp_{'x' * 36} or AKIA...",
    "the documentation's key": "AKIA" + "IOSFODNN7EXAMPLE",
    "test and public keys": f"sk_test_{some(24)} pk_live_{some(24)}",
    "code": 'token = os.environ["GITHUB_TOKEN"]; password = getpass(); client_secret=None',
    "workflow": "${{ secrets.GITHUB_TOKEN }}",
    "image": "data:image/png;base64," + base64.b64encode(_CHANCE.randbytes(600)).decode(),
}
