"""Hosts and origins: which headers are understood, and which are admitted."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from claude_bus.errors import BusError, Forbidden, InvalidInput, WrongHost
from claude_bus.http.hosts import Allowed, Host, Origin, host_of, is_loopback, origin_of

ALLOWED = Allowed(["box", "box.local", "0.0.0.0"], ["bus.example.org", "*.team.example"], ["https://pages.example"])

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NAMES = (
    st.lists(LABELS, min_size=1, max_size=4).map(".".join).filter(lambda name: not name.endswith(tuple("0123456789")))
)
ADDRESSES = st.ip_addresses().map(lambda a: f"[{a}]" if a.version == 6 else str(a)).filter(lambda a: "%" not in a)
PORTS = st.integers(0, 65_535)


@given(st.text(max_size=60))
def test_a_host_is_read_or_refused(text: str) -> None:
    """Any text either is a host or raises `InvalidInput`; a host's text form reads back as the same host."""
    try:
        host = host_of(text)
    except InvalidInput:
        return
    name = f"[{host.name}]" if ":" in host.name else host.name
    assert host_of(name if host.port is None else f"{name}:{host.port}") == host
    assert host.name == host.name.lower()
    assert not set("@/\\?#% \t\r\n[]") & set(host.name)


@given(NAMES, PORTS)
def test_a_name_is_itself_in_any_case_with_a_dot_and_a_port(name: str, port: int) -> None:
    """Case, a trailing dot and a port do not make a different name."""
    for written in (name, name.upper(), f"{name}."):
        assert host_of(written) == Host(name)
        assert host_of(f"{written}:{port}") == Host(name, port)


@pytest.mark.parametrize(
    "header",
    [
        *(
            "",
            " ",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            "-a",
            "a-",
            "a b",
            " a",
            "a ",
            "a\tb",
            "a\x00",
            "é",
            "a,b",
            "a:",
            ":80",
        ),
        *("user@host", "user:word@127.0.0.1", "127.0.0.1@evil.example", "a:80:80", "a:65536", "a:-1", "a:8x", "a:٣"),
        *("::1", "[::1", "::1]", "[]", "[::1]x", "[::1%eth0]", "[127.0.0.1]x", "[evil]", "[::1]:", "a/b", "a?b", "a#b"),
        *("http://a", "a%2eb", "a" * 254, "a\\b", "a\r\nb", "a\n"),
    ],
)
def test_what_is_no_host_is_refused(header: str) -> None:
    """Users, zones, unbalanced brackets, invalid ports, empty labels and white space are refused."""
    with pytest.raises(InvalidInput):
        host_of(header)


@given(st.one_of(ADDRESSES, NAMES), st.one_of(st.none(), PORTS))
def test_a_bus_that_needs_no_token_answers_to_loopback_only(name: str, port: int | None) -> None:
    """A request under any other name comes from a browser that was lured here; the port is irrelevant."""
    header = name if port is None else f"{name}:{port}"
    loopback = name == "localhost" or is_loopback(name.strip("[]"))
    assume(name != "bus.example.org" and not name.endswith(".team.example"))
    try:
        ALLOWED.check_host(header, open_to_all=True)
    except WrongHost:
        assert not loopback
    else:
        assert loopback


@given(ADDRESSES)
def test_a_bus_with_tokens_answers_to_any_address(address: str) -> None:
    """An attacker cannot make an IP address resolve to this server, as a name can be."""
    ALLOWED.check_host(address, open_to_all=False)


@pytest.mark.parametrize("header", ["box", "BOX.local:1", "bus.example.org.", "a.team.example", "a.b.team.example:443"])
def test_a_bus_with_tokens_answers_to_its_names(header: str) -> None:
    """It answers to its machine's names and to configured ones, including wildcards."""
    ALLOWED.check_host(header, open_to_all=False)


@pytest.mark.parametrize(
    "header",
    [
        *("evil.example", "team.example", "xteam.example", "bus.example.org.evil.example", "xbus.example.org"),
        *("localhost.evil.example", "127.0.0.1.evil.example", "127.1", "2130706433", "0x7f000001", "0177.0.0.1"),
    ],
)
def test_it_answers_to_no_other_name(header: str) -> None:
    """Names that only resemble its own are refused, and so are addresses in spellings that only some programs
    accept.
    """
    with pytest.raises(WrongHost, match="--allow-hosts"):
        ALLOWED.check_host(header, open_to_all=False)


@pytest.mark.parametrize("name", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost"])
def test_loopback_has_several_names(name: str) -> None:
    """All of 127.0.0.0/8, the IPv6 loopback, and IPv4 loopback addresses written as IPv6."""
    assert is_loopback(name)
    assert not is_loopback(f"{name}.x")


# -- pages ------------------------------------------------------------------------------------


@given(st.text(max_size=60))
def test_an_origin_is_read_or_is_none(text: str) -> None:
    """Parsing never fails on any text; an origin's text form is that same origin."""
    found = origin_of(text)
    assert found is None or origin_of(str(found)) == found


@given(NAMES, PORTS.filter(bool), st.sampled_from(["http", "https"]))
def test_a_page_of_the_server_itself_may_call(name: str, port: int, scheme: str) -> None:
    """Its origin equals the address of the request: scheme, name and port, with or without the default port."""
    host = Host(name, port)
    ALLOWED.check_page(host, scheme, f"{scheme}://{name}:{port}", "same-origin")
    ALLOWED.check_page(host, scheme, str(Origin.of(scheme, host)), None)


@given(st.one_of(NAMES, ADDRESSES), PORTS.filter(bool), st.sampled_from(["http", "https"]))
def test_no_other_page_may(name: str, port: int, scheme: str) -> None:
    """Another name, another port or another scheme is another origin."""
    own = Host("bus.example.org", 8765)
    origin = f"{scheme}://{name}:{port}"
    assume(origin_of(origin) != Origin("http", "bus.example.org", 8765))
    with pytest.raises(Forbidden, match="--allow-origins"):
        ALLOWED.check_page(own, "http", origin, None)


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        ("null", None),
        ("", None),
        ("file://", None),
        ("chrome-extension://abc", None),
        ("http://bus.example.org:8765/", None),
        ("http://user@bus.example.org:8765", None),
        ("http://bus.example.org:8765 http://x", None),
        (None, "cross-site"),
        (None, "same-site"),
        (None, "nonsense"),
        ("http://bus.example.org:8765", "cross-site"),
    ],
)
def test_pages_that_hide_are_refused(origin: str | None, site: str | None) -> None:
    """An opaque origin is refused, and one that contradicts the browser's Sec-Fetch-Site."""
    with pytest.raises(Forbidden):
        ALLOWED.check_page(Host("bus.example.org", 8765), "http", origin, site)


@pytest.mark.parametrize(
    ("origin", "site"),
    [(None, None), (None, "none"), (None, "same-origin"), ("https://pages.example", "cross-site")],
)
def test_programs_people_and_configured_pages_may(origin: str | None, site: str | None) -> None:
    """Requests without a browser, typed addresses, the dashboard's own requests and configured pages are admitted."""
    ALLOWED.check_page(Host("bus.example.org", 8765), "http", origin, site)


@pytest.mark.parametrize(
    ("hosts", "origins"),
    [
        (["*"], []),
        (["*.*.example"], []),
        (["a b"], []),
        ([], ["*"]),
        ([], ["null"]),
        ([], ["pages.example"]),
        ([], ["https://pages.example/path"]),
        ([], ["ftp://pages.example"]),
        ([], ["https://a:99999"]),
    ],
)
def test_settings_that_say_nothing_are_refused(hosts: list[str], origins: list[str]) -> None:
    """A server does not start with a name or origin that could never match, or would match everything."""
    with pytest.raises(BusError):
        Allowed([], hosts, origins)
