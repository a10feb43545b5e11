"""Texts for the detector: secrets of every kind, made up at run time, and texts that only resemble secrets.

No token is written out in this file, because other people's scanners read it too.
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
    "strong password at localhost": f"postgres://postgres:{some(14)}@localhost:5432/app",
    "strong password at a service": f"amqp://guest:{some(14)}@rabbitmq:5672/",
    "strong password at a private address": f"mysql://root:{some(14)}@10.1.2.3/app",
    "weak password at a public host": "postgres://postgres:" + "postgres@db.acme.io/app",
    "weak password at a public address": "postgres://postgres:" + "postgres@203.0.114.7/app",
    "weak password with curl, elsewhere": "curl -u admin:" + "admin https://api.acme.io",
    "weak password with curl, here and elsewhere": "curl -u admin:" + "admin http://localhost https://api.acme.io",
    "strong password with curl": f"curl -u admin:Q{some(14)} http://localhost:9200",
    "a host that is only called like a local one": "redis://:" + "redis@localhost.acme.io:6379",
    "a local host among others": "mongodb://root:" + "example@mongo:27017,db.acme.io:27017/app",
    "a database called example": f"mongodb://svc:{some(16)}@db.acme.io/example_placeholder",
    "key of a published account's name": "AccountName=devstoreaccount1;"
    f"AccountKey={base64.b64encode(_CHANCE.randbytes(64)).decode()};EndpointSuffix=core.windows.net",
    "token for John Doe": f"{_part(alg='HS256')}.{_part(sub='1234567891', name='John Doe')}.{some(43, _URLSAFE)}",
    "token with a run in it": "ghp_" + some(24) + "x" * 12,
    "real beside a sample": "postgres://postgres:" + f"postgres@localhost and postgres://a:{some(16)}@db.acme.io/x",
}

DEVELOPMENT = {
    "postgres://localhost:5432/test": "postgres:postgres",
    "postgresql+asyncpg://db:5432/app": "app:app",
    "postgresql://127.0.0.1/db": "user:password",
    "postgres://192.168.1.20/dev": "shop:shop123",
    "mysql://[::1]:3306/app": "root:mysql",
    "mysql://mysql/app": "root:example",
    "mariadb://10.0.0.5:3306/x": "root:mariadb",
    "mongodb://mongo:27017,mongo2:27017/app": "root:example",
    "mongodb://mongodb.default.svc.cluster.local:27017": "admin:admin",
    "redis://redis:6379/0": ":redis",
    "redis://localhost:6379": "default:redispassword",
    "amqp://rabbitmq:5672/": "guest:guest",
    "http://localhost:9200": "elastic:changeme",
    "http://host.docker.internal:8080": "test:P%40ssw0rd!",
    "https://minio:9000": "minioadmin:minioadmin",
    "http://app.local/": "dev:secret",
    "http://shop.test/": "admin:letmein2",
    "sqlserver://mssql:1433": "sa:yourStrong(!)Password",
    "ldap://openldap:389": "cn=admin,dc=example,dc=org:admin",
    "smtp://mailhog:1025": "user:pass",
    "https://example.com/": "user:pass",
    "https://www.example.org/": "alice:anything-at-all-4711",
    "ftp://ftp.gnu.org/": "anonymous:guest",
}
"""URLs with the logins that people write into them during development."""

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
    **{f"development password {uri}": uri.replace("://", f"://{login}@") for uri, login in DEVELOPMENT.items()},
    "compose": "POSTGRES_PASSWORD: postgres\n- MYSQL_ROOT_PASSWORD=example\nRABBITMQ_DEFAULT_PASS: guest",
    ".env.example": "SECRET_KEY=changeme\nAPI_KEY=<your-token>\nJWT_SECRET=your-secret-key\nTOKEN=" + "x" * 32,
    "curl, here": "curl -u admin:" + "admin -s http://localhost:9200/_cat?v",
    "curl, here, url first": "curl http://elastic:9200 --user elastic:" + "changeme",
    "curl, in base64": "curl -H 'Authorization: Basic " + "dXNlcjpwYXNzd29yZA==' http://localhost:8080",
    "first token of jwt.io": f"{_part(alg='HS256')}.{_part(sub='1234567890', name='John Doe')}.{some(43, _URLSAFE)}",
    "aws documentation": "aws_access_key_id=AKIA"
    "IOSFODNN7EXAMPLE aws_secret_access_key=wJalrXUtnFEMI/"
    "K7MDENG/bPxRfiCYEXAMPLEKEY",
    "azurite": "AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/"
    "K1SZFPTOtr/KBHBeksoGMGw==;BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1",
    "placeholder of npm": "npm_" + "x" * 36,
    "placeholder of sendgrid": f"SG.{'x' * 22}.{'x' * 43}",
    "placeholder of slack": f"https://hooks.slack.com/services/T{'0' * 8}/B{'0' * 8}/{'X' * 24}",
    "placeholder of gitlab": "glpat-" + "YOUR_TOKEN_HERE_1234",
    "placeholder that counts": "sk-" + "1234567890abcdef" * 2,
    "placeholder of zeros": "dop_v1_" + "0" * 64,
    "image": "data:image/png;base64," + base64.b64encode(_CHANCE.randbytes(600)).decode(),
}
