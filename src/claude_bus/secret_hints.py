"""Whether a text could hold a secret at all: a cheap test that lets nothing pass which the scanner would find.

To load the scanner takes half a second, and most messages hold nothing of the kind. Each of its
rules matches only what contains certain characters: a run of characters of some class and a
literal (`NEEDS`, read from the rules' own patterns by `tests/support/secret_rules.py`), or a shape
that is written down here. A text with neither, encoded in base64 or not, cannot match. Pure; linear time.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Shape(NamedTuple):
    """A shape that each match of a rule has: a run as in `NEEDS`, one of the literals, and the pattern."""

    kind: str
    run: int
    literals: tuple[str, ...]
    pattern: str


_GIVEN = r"[^=>:,|?]{0,23}(?:[=>:,]|\|\||\?=)[=>:\x60'\"\s]{0,9}"
"""The characters between a name and its value."""
_VALUE = Shape(
    "alnum",
    30,
    ("alibaba", "aliyun", "secret", "key"),
    rf"(?i:alibaba|aliyun|secret|key){_GIVEN}[A-Za-z0-9]{{30}}",
)

SHAPES: Mapping[str, Shape] = {
    "betterleaks.1password-secret-key": Shape("word", 20, ("a3-",), r"A3-[A-Z0-9]{6}-"),
    "betterleaks.airtable-personnal-access-token": Shape("hex", 64, ("pat",), r"pat[A-Za-z0-9]{14}\."),
    "betterleaks.alibaba-secret-key": _VALUE,
    "betterleaks.alibaba-sts-access-key-secret": _VALUE,
    "betterleaks.aws-access-token": Shape(
        "alnum", 20, ("a3t", "akia", "asia", "abia", "acca"), r"A(?:3T[A-Z0-9]|KIA|SIA|BIA|CCA)[A-Z2-7]{16}"
    ),
    "betterleaks.aws-session-token": Shape("base", 16, ("token",), r"(?i:AWS[_-]?SE(?:SSION|CURITY)[_-]?TOKEN)"),
    "betterleaks.azure-ad-client-secret": Shape("base", 31, ("q~",), r"Q~[\w~.-]{31}"),
    "betterleaks.azure-storage-account-key": Shape("base", 86, ("==",), r"(?is:key.{0,24}?[a-z0-9+/]{86}==)"),
    "betterleaks.box-api-access-token": Shape("alnum", 32, ("box",), rf"(?i:box){_GIVEN}[A-Za-z0-9]{{32}}"),
    "betterleaks.cloudflare-api-key.2": Shape("alnum", 40, ("cfut_", "cfat_"), ""),
    "betterleaks.facebook-access-token": Shape("word", 27, ("|", "%"), r"\d{15}[|%][\w-]{27}"),
    "betterleaks.fal-api-key.1": Shape("hex", 32, ("fal",), r"(?i:fal.?(?:ai|api|key))"),
    "betterleaks.github-app-token": Shape("alnum", 36, ("ghu_", "ghs_"), ""),
    "betterleaks.kubernetes-secret-yaml": Shape("base", 0, ("kind:",), r"(?i:kind:[ \t]*[\"']?secret)"),
    "betterleaks.freemius-secret-key": Shape("base", 0, ("secret_key",), r"(?i:secret_key)[\"']\s*=>"),
    "betterleaks.ibm-cloud-user-api-key": Shape(
        "word", 42, ("ibm", "bx"), rf"(?i:ibm(?:cloud)?|bx){_GIVEN}[\w-]{{42}}"
    ),
    "betterleaks.ovh-application-secret": Shape("word", 32, ("secret",), r"(?i:app(?:lication)?[_.-]?secret)"),
    "betterleaks.privateai-api-token": Shape("alnum", 32, ("private",), r"(?i:private[_-]?ai)"),
    "betterleaks.salesforce-access-token.1": Shape("base", 80, ("!",), r"00[A-Za-z0-9]{13}!"),
    "betterleaks.scaleway-secret-key": Shape("hex", 12, ("scaleway", "scw"), ""),
    "betterleaks.slack-webhook-url": Shape("base", 43, ("hooks",), r"hooks.slack.com/(?:services|workflows|triggers)/"),
    "betterleaks.stripe-access-token": Shape("alnum", 10, ("sk_", "rk_"), r"[sr]k_(?:test|live|prod)_[a-zA-Z0-9]{10}"),
    "betterleaks.twilio-api-key": Shape("hex", 32, ("sk",), r"SK[0-9a-fA-F]{32}"),
    "betterleaks.vault-service-token": Shape("word", 24, ("s.",), r"s\.[\w-]{24}"),
    "betterleaks.voyageai-api-key": Shape("word", 43, ("pa-", "al-"), r"(?:pa|al)-[\w-]{43}"),
    "betterleaks.zai-api-key": Shape("hex", 32, (".",), r"[0-9a-fA-F]{32}\.[0-9A-Za-z]{16}"),
    "a rule of a later version": Shape(
        "base",
        16,
        ("key", "secret", "token", "passw", "credential"),
        r"(?i:key|secret|token|passw|credential)[\w.-]{0,20}[\"']?\s{0,3}[=:]\s{0,3}[\"']?"
        r"(?=[A-Za-z_+=~%$!-]{0,40}\d)[\w+=.~%$!-]{16}",
    ),
}
"""For the rules whose literals any text may contain."""

CHECKED = frozenset(
    {
        "betterleaks.curl-auth-header",
        "betterleaks.curl-auth-user",
        "betterleaks.generic-credential-uri",
        "betterleaks.hashicorp-tf-password",
        "betterleaks.mongodb-connection-string",
        "betterleaks.private-key",
        "betterleaks.sidekiq-sensitive-url",
    }
)
"""The rules that `_is_checked` knows."""

NEEDS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("alnum", 12, ("flwseck_test-", "sumo")),
    ("alnum", 14, ("linked",)),
    ("alnum", 15, ("dropbox",)),
    ("alnum", 16, ("confluent", "linked", "sm_aat_", "sm_pat_", "sm_sat_")),
    ("alnum", 17, (".ey", "airtable")),
    ("alnum", 18, ("xoxb-",)),
    (
        "alnum",
        20,
        (
            "aik_ci_",
            "astracs:",
            "browserstack",
            "finicity",
            "finnhub",
            "looker",
            "s_api",
            "twitter",
            "ullstory",
            "ullstory_api",
            "unkey_",
        ),
    ),
    ("alnum", 22, ("honeycomb", "travis")),
    ("alnum", 24, ("etsy", "exo", "looker", "mem0", "plaid", "razorpay", "re_", "ucat_", "vercel", "x-api-key")),
    ("alnum", 25, ("bird", "twitter")),
    ("alnum", 26, ("api-", "mattermost", "ngrok", "pdl_live_apikey_", "pmat-", "samsara_api_")),
    ("alnum", 27, ("nrak-",)),
    ("alnum", 28, ("rnd_",)),
    ("alnum", 29, ("_mmk", "databento")),
    ("alnum", 30, ("mlsn.", "plaid", "rpa_", "twitch")),
    (
        "alnum",
        32,
        (
            ".webhook.office.com/webhookb2/",
            "==:",
            "_gitlab_session=",
            "algolia",
            "asana",
            "assemblyai",
            "bitbucket",
            "bittrex",
            "clerk",
            "clickup",
            "cloudinary",
            "crates",
            "datadog",
            "droneci",
            "flickr",
            "flwpubk_test-",
            "flwseck_test-",
            "glsa_",
            "ico-",
            "lark",
            "mailgun",
            "miro",
            "mistral",
            "ntn_",
            "openweather",
            "p8e-",
            "pyowm",
            "weatherstack",
            "zpka_",
        ),
    ),
    ("alnum", 34, ("api_org_", "apify_api_", "hf_", "klaviyo")),
    ("alnum", 36, ("ddo_", "ddp_", "gho_", "ghp_", "ghr_", "npm_", "pnu_", "sslmate", "waka_")),
    ("alnum", 37, ("r8_",)),
    ("alnum", 38, ("4b1d",)),
    (
        "alnum",
        40,
        (
            "bkua_",
            "ccdb1_",
            "ccipat_",
            "co_api_key",
            "cohere",
            "data.gov",
            "jumpcloud",
            "lin_api_",
            "mercury_production_",
            "rpa_",
            "upstage",
            "zendesk",
        ),
    ),
    ("alnum", 42, ("ion_",)),
    ("alnum", 43, ("dp.pt.",)),
    ("alnum", 44, ("llx-",)),
    ("alnum", 45, ("twitter",)),
    ("alnum", 48, ("csk-", "pplx-", "ramp_sec_", "stability")),
    ("alnum", 50, ("civo", "swmtkn-1-", "twitter")),
    ("alnum", 52, ("cog_", "gsk_")),
    ("alnum", 54, ("ezak", "eztk")),
    ("alnum", 56, ("xnd_production_",)),
    ("alnum", 58, ("age-secret-key-1",)),
    ("alnum", 59, ("cmvmd",)),
    ("alnum", 60, ("clojars_", "mapbox")),
    ("alnum", 63, ("pcsk_",)),
    (
        "alnum",
        64,
        (
            "-relic",
            "_relic",
            "aik_secret_",
            "confluent",
            "disqus",
            "dt0c01.",
            "freshbooks",
            "napi_",
            "relic",
            "sgp_",
            "sumo",
            "wiz",
        ),
    ),
    ("alnum", 67, ("nyk_",)),
    ("alnum", 68, ("akcp",)),
    ("alnum", 70, ("rdme_",)),
    ("alnum", 80, ("xai-",)),
    ("alnum", 100, ("eaa",)),
    ("alnum", 103, ("os_v2_",)),
    ("alnum", 146, ("xoxe-",)),
    ("alnum", 147, ("xoxe-",)),
    ("alnum", 163, ("xoxe",)),
    ("alnum", 166, ("xoxe.xoxp-",)),
    (
        "base",
        0,
        (
            '"client_secret"',
            '"refresh_token"',
            '<add key="',
            "@bitbucket.org/",
            "@git-codecommit.",
            "agjhy2lpau",
            "agnivwlpau",
            "agniwwlpau",
            "agrxuwlpau",
            "airtable",
            "amntbdbjanbi",
            "amria2lpau",
            "au5quwlp",
            "auth_provider_x509_cert_url",
            "bedrock-api-key-ymvkcm9jay5hbwf6b25hd3muy29t",
            "bgjttwlpau",
            "bgnhc2lpbn",
            "cgmztwlpau",
            "cgrpstzj",
            "clpybgzim0j6swpwy",
            "cmfxuwlp",
            "cmria2lpaup",
            "codecatalyst.aws/",
            "cwezvwlpau",
            "cwqyc2lpb",
            "d01ttwlp",
            "d01utwlpau",
            "d2niuwlpau",
            "dvc_client_",
            "dvc_mobile_",
            "dvc_server_",
            "dwiynwpau0k2",
            "ebay",
            "emruuwlp",
            "emrxswlpau",
            "enterprise__contribsys__com",
            "flyv1",
            "gems__contribsys__com",
            "incoming+",
            "mflxy2lpau",
            "mgvyqwlpaup",
            "mlpysnphvzl1swpv",
            "mlpyswlpau",
            "mwmyvwlpaup",
            "mwntd2l",
            "ne5xtwlp",
            "ne5yuwlpau",
            "ne5yuwpvekkxtmljnkl",
            "ne5yvwlpau",
            "nelqb2",
            "nmfyqwlpau",
            "xapp-",
            "xox",
            "xoxd-",
        ),
    ),
    ("base", 18, ("pagerduty",)),
    ("base", 26, ("upstash",)),
    ("base", 30, (".acc",)),
    (
        "base",
        32,
        (
            ".servicebus.windows.net/;sharedaccesskeyname=",
            "bbdc-",
            "discord",
            "ew-york-times",
            "ewyorktimes",
            "pscale_oauth_",
            "pscale_pw_",
            "pscale_tkn_",
            "ytimes",
        ),
    ),
    ("base", 36, ("endpoint=https://",)),
    ("base", 40, ("eyjrijoi", "glc_", "gocardless", "launchdarkly", "netlify", "okta", "sonar", "swmkey-1-")),
    ("base", 43, ("aaaaaaaaaa", "contentful", "duffel_", "sntrys_eyjpyxqio")),
    ("base", 44, ("beamer",)),
    ("base", 48, ("greptile",)),
    ("base", 52, ("dnkey-",)),
    ("base", 59, ("typeform",)),
    ("base", 60, (".atlasv1.", "apella", "intercom", "ouchbase")),
    ("base", 64, ("bitbucket", "fio-u-", "hcp_client_secret")),
    ("base", 66, ("instantly", "sg.")),
    ("base", 69, ("sk_live_a2v5xz",)),
    ("base", 75, ("mux",)),
    ("base", 78, ("paypal",)),
    ("base", 80, ("apk_", "kraken", "twitter")),
    ("base", 88, ("influx",)),
    ("base", 100, ("atat",)),
    ("base", 109, ("absk",)),
    ("base", 120, ("apk_user_",)),
    ("base", 135, ("dropbox",)),
    ("base", 250, ("ops_eyj",)),
    ("base", 372, ("aiven",)),
    ("hex", 10, ("xoxb-",)),
    (
        "hex",
        12,
        (
            "-figma-token",
            "_figma_token",
            '_token_apikeyclientsecret"',
            "apikey-v1",
            "bird",
            "checkout",
            "figmatoken",
            "heroku",
            "hubspot",
            "kucoin",
            "opsgenie",
            "pinecone",
            "plaid",
            "poly",
            "postmark",
            "sendbird",
            "sk-lf-",
            "snyk",
            "squarespace",
            "waka",
        ),
    ),
    ("hex", 16, ("asana",)),
    ("hex", 18, ("discord",)),
    ("hex", 19, ("nrjs-",)),
    ("hex", 24, ("kucoin", "pat", "sat")),
    ("hex", 28, ("retell",)),
    ("hex", 30, ("csa_",)),
    ("hex", 31, ("_pub_",)),
    (
        "hex",
        32,
        (
            "1000.",
            "adobe",
            "amplitude",
            "dapi",
            "facebook",
            "finicity",
            "linear",
            "lsv2_pt_",
            "lsv2_sk_",
            "mailchimp",
            "mailchimpsdk",
            "mailgun",
            "ollama",
            "shpat_",
            "shpca_",
            "shppa_",
            "shpss_",
            "sk-",
            "zoho",
        ),
    ),
    ("hex", 34, ("pmak-",)),
    ("hex", 35, ("lob",)),
    ("hex", 36, ("vultr",)),
    ("hex", 37, ("cloudflare",)),
    (
        "hex",
        40,
        (
            "andb",
            "bitly",
            "cciprj_",
            "circleci",
            "deepgram",
            "eightsandbiases",
            "gitea",
            "glptt-",
            "hunter",
            "meraki",
            "pul-",
            "sendbird",
            "sgp_",
            "shippo_",
            "woo",
        ),
    ),
    ("hex", 42, ("zoho",)),
    ("hex", 48, ("elevenlabs", "rubygems_")),
    (
        "hex",
        64,
        (
            "cursor",
            "discord",
            "doo_v1_",
            "dop_v1_",
            "dor_v1_",
            "packagist_acs_",
            "poly",
            "rainforest",
            "rootly_",
            "s-s4t2",
            "sentry",
            "sk-or-v1-",
            "sntryu_",
            "virustotal",
            "xapp-",
            "xkeysib-",
            "xoxc-",
        ),
    ),
    ("hex", 68, ("packagist_ort_", "packagist_out_")),
    ("hex", 80, ("abuseipdb",)),
    ("hex", 146, ("v1.0-",)),
    ("word", 10, ("mid-",)),
    ("word", 16, ("endr+", "lip_")),
    (
        "word",
        20,
        (
            "$aact_",
            "api_live.",
            "api_live_ca.",
            "api_live_us.",
            "eyjtaxjv",
            "glcbt-",
            "gldt-",
            "glffct-",
            "glft-",
            "glpat-",
            "glrt-",
            "glsoat-",
            "gr1348941",
            "inrlbxbvcmfslmlv",
            "persona_production_",
            "pina_",
            "polar_at_",
            "polar_oat_",
            "polar_pat_",
            "prf_",
            "sk-or-v",
            "sk_car_",
            "t3blbkfj",
            "tskey-api-",
            "tss_",
            "vtwn_",
        ),
    ),
    ("word", 22, ("apollo", "configcat", "configcat-sdk-1/", "eaaa", "sq0atp-")),
    ("word", 24, ("bsa",)),
    ("word", 25, ("glimt-",)),
    ("word", 27, ("dckr_pat_", "glpat-", "glrt-t")),
    ("word", 28, ("xox",)),
    ("word", 31, ("sb_secret_",)),
    ("word", 32, ("adafruit", "dckr_oat_", "fastly", "nrii-")),
    ("word", 34, ("telegr",)),
    ("word", 35, ("aiza", "yandex")),
    ("word", 36, ("codecov",)),
    ("word", 37, ("coveralls",)),
    ("word", 38, ("figd_", "yandex")),
    (
        "word",
        40,
        (
            "cloudflare",
            "datadog",
            "f_account_id",
            "f_api_key",
            "f_api_token",
            "f_token",
            "gitter",
            "lighton",
            "loudflare_api_key",
            "loudflare_api_token",
            "loudflare_auth_key",
            "loudflare_token",
            "mdb_sa_sk_",
            "mergify_application_key_",
            "paradigm",
            "plivo",
            "sbp_",
        ),
    ),
    ("word", 41, ("phc_", "phx_")),
    (
        "word",
        43,
        (
            "eyjhbgcioijiuzi1niisinr5cci6ikpxvcj9.eyjpc3mioij1c2vyiiwianrpijoiyxqt",
            "gumroad",
            "kagi",
            "sg.",
            "sha256~",
            "tgp_v1_",
        ),
    ),
    ("word", 44, ("aq.ab8rn6",)),
    ("word", 48, ("sk-", "tk-us-")),
    ("word", 50, ("glagent-", "monday", "pypi-ageichlwas5vcmc", "rapidapi")),
    ("word", 51, ("cnvca",)),
    ("word", 54, ("aa_", "aj_", "ar_", "ct_", "pat_", "ps_", "pt_")),
    ("word", 55, ("telnyx",)),
    ("word", 56, ("vca_", "vci_", "vck_", "vcp_", "vcr_")),
    ("word", 58, ("hrku-aa",)),
    ("word", 60, ("bitrise", "essu_", "hrku-", "infomaniak", "nvapi-")),
    ("word", 64, ("auth0", "coinbase", "gloas-", "wrka")),
    ("word", 70, ("xai-",)),
    ("word", 77, ("wandb_v1_",)),
    ("word", 82, ("github_pat_",)),
    ("word", 86, ("yandex",)),
    ("word", 93, ("sk-ant-admin01-", "sk-ant-api03-")),
    ("word", 100, ("nowflake", "token")),
    ("word", 119, ("sk-api-",)),
    ("word", 138, ("hvb.",)),
)
"""Class and least length of a run, and the literals: each match of a rule has the run and one of them."""

_RUNS = {
    "hex": r"[0-9a-f]{10,}",
    "alnum": r"[0-9a-z]{10,}",
    "word": r"[0-9a-z_-]{10,}",
    "base": r"[0-9a-z_+/=.~%-]{10,}",
}
"""The runs of the classes in `NEEDS`; case does not matter."""
_ENCODED = r"[A-Za-z0-9+/]{16,}|[A-Za-z0-9_-]{16,}"


def could_hold(text: str) -> bool:
    """Return whether the scanner has to look at a text."""
    return _could(text) or any(map(_could, _decoded(text)))


def _could(text: str) -> bool:
    text = text.replace("\0", "")  # ASCII in UTF-16 has them between its characters
    folded = text.casefold()
    if _is_checked(folded):
        return True
    longest = {kind: max(map(len, re.findall(run, folded)), default=0) for kind, run in _RUNS.items()}
    for kind, run, literals in NEEDS:
        if run <= longest[kind] and any(literal in folded for literal in literals):
            return True
    return any(
        shape.run <= longest[shape.kind]
        and any(literal in folded for literal in shape.literals)
        and re.search(shape.pattern, text)
        for shape in SHAPES.values()
    )


def _is_checked(folded: str) -> bool:
    """Return whether a text may match one of `CHECKED`: a login in a URL or for curl, a private key, a password."""
    if "://" in folded and "@" in folded and any(map(_has_login, folded.split())):
        return True
    if "curl" in folded and any(option in folded for option in ("-u", "--user", "-h", "--header")):
        return True
    return ("-----begin" in folded and "private key" in folded) or ("password" in folded and '"' in folded)


def _has_login(word: str) -> bool:
    """Return whether a user and a password may stand in a URL within a word."""
    _, _, after = word.partition("://")
    return ":" in after[: max(0, after.rfind("@"))]


def _decoded(text: str) -> Iterator[str]:
    """Yield what may be encoded in base64 in a text, from each place at which it may begin."""
    for run in re.findall(_ENCODED, text):
        for begin in range(4):
            data = run[begin:].replace("-", "+").replace("_", "/")
            yield binascii.a2b_base64(data + "A" * (-len(data) % 4)).decode("latin-1")
