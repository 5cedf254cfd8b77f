"""Hosts in their one canonical form, and the names that can be registered."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metrics_service.errors import InvalidNameError, MalformedRequestError
from metrics_service.tenants.names import (
    RESERVED,
    normalize_domain,
    normalize_host,
    strip_base,
    validate_display_name,
    validate_slug,
)

LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(
    lambda label: not label.startswith("xn--")
)
NAME = st.lists(LABEL, min_size=1, max_size=5).map(".".join)


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        ("acme.localhost", "acme.localhost"),
        ("ACME.LocalHost:8000", "acme.localhost"),
        ("acme.localhost.", "acme.localhost"),
        ("acme.localhost.:443", "acme.localhost"),
        ("a", "a"),
        ("a--b.example", "a--b.example"),
        ("127.0.0.1:65535", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[2001:DB8:0:0::1]:1", "2001:db8::1"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example:80", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("a。b", "a.b"),
        ("x" * 63 + ".example", "x" * 63 + ".example"),
        ("4chan.example", "4chan.example"),
        ("1.2.3.4.example", "1.2.3.4.example"),
    ],
)
def test_a_host_has_one_canonical_form(raw: str, canonical: str) -> None:
    assert normalize_host(raw) == canonical


@pytest.mark.parametrize(
    "raw",
    [
        "", ".", "..", "a..", "a..b", ".a", ":80", "a:", "a:0", "a:65536", "a:-1", "a:+1", "a:80 ",
        "a:80:80", "a:８０", "a:1e3", "user@a", "user:pass@a", "a@", "*", "*.a", " a", "a ", "a b",
        "a\t", "a\n", "a\x00", "a/", "a/b", "a?b", "a#b", "a\\b", "a%2eb", "a_b", "_a", "-a", "a-",
        "a.-b", "a,b", "a;b", "[::1", "::1", "[::1]x", "[::1]:", "[::1]:0", "[::1]:80x", "[]",
        "[v1.x]", "[::1%25eth0]", "[127.0.0.1]", "[a]", "1.2.3", "1.2.3.4.5", "256.1.1.1",
        "01.2.3.4", "123", "x" * 64, ".".join(["x" * 63] * 4), "xn--", "xn--a", "xn--zzzzzz",
        "☃.example", "a\u200d.example", "é/..", "é_a.example", "a:80\n", "é:99999", "\ud800",
        "http://a", "[::1]\n", "x" * 300, "é" * 300,
    ],
)  # fmt: skip
def test_what_is_no_host_is_refused(raw: str) -> None:
    with pytest.raises(MalformedRequestError):
        normalize_host(raw)


@given(st.text(max_size=80) | st.text("aA1.-:[]_@%é。xn", max_size=30))
@example("xn--a-ecp.ru")
@example("ｘｎ－－zzzzzz")
@example("１２７.0.0.1")
@example("٠")
def test_a_host_is_canonical_or_refused_and_never_anything_else(raw: str) -> None:
    try:
        host = normalize_host(raw)
    except MalformedRequestError:
        return

    assert len(host) <= 253
    if ":" in host:
        assert re.fullmatch(r"[0-9a-f:.]+", host)
        assert normalize_host(f"[{host}]") == host
    else:
        assert all(re.fullmatch(r"(?!-)[a-z0-9-]{1,63}(?<!-)", part) for part in host.split("."))
        assert normalize_host(host) == host


@given(NAME, st.integers(1, 65535), st.booleans())
def test_case_port_and_one_trailing_dot_make_no_difference(name: str, port: int, dot: bool) -> None:
    raw = f"{name.upper()}{'.' if dot else ''}:{port}"

    assert normalize_host(raw) == name


def test_the_base_domain_is_dropped_once_and_only_as_whole_labels() -> None:
    assert strip_base("acme.localhost", "localhost") == "acme"
    assert strip_base("acme.localhost.localhost", "localhost") == "acme.localhost"
    assert strip_base("acmelocalhost", "localhost") == "acmelocalhost"
    assert strip_base("localhost", "localhost") == "localhost"
    assert strip_base("acme.localhost.example", "localhost") == "acme.localhost.example"


@pytest.mark.parametrize("slug", ["a", "acme", "fortium-demo", "a1", "1a", "a--b", "x" * 63])
def test_a_label_can_be_a_slug(slug: str) -> None:
    assert validate_slug(slug) == slug


@pytest.mark.parametrize(
    "slug",
    [
        "", "Acme", "a.b", "a_b", "-a", "a-", "123", "x" * 64, "xn--bcher-kva", "bücher", "a b",
        "acme\n", "acme ", "a'; DROP SCHEMA public", "٣", *sorted(RESERVED),
    ],
)  # fmt: skip
def test_what_cannot_be_a_slug_is_refused_in_one_line(slug: str) -> None:
    with pytest.raises(InvalidNameError, match=r"^slug [^\n]+$"):
        validate_slug(slug)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("acme", "acme"),
        ("Acme.LOCALHOST", "acme"),
        ("acme.localhost.", "acme"),
        ("metrics.acme.example", "metrics.acme.example"),
        ("api.acme.example", "api.acme.example"),
        ("bücher", "xn--bcher-kva"),
        ("team.acme.localhost", "team.acme"),
    ],
)
def test_a_domain_is_registered_without_the_base(text: str, domain: str) -> None:
    assert normalize_domain(text, "localhost") == domain


@pytest.mark.parametrize(
    "text",
    [
        "", "localhost", "LOCALHOST.", "x.localhost.localhost", "acme:80", "127.0.0.1", "[::1]",
        "127.0.0.1.localhost", "1.localhost", "www", "www.localhost", "API", "a_b", "*.acme",
        "http://acme", "acme/x", "acme..", " acme", "acme\x00", "x" * 64, "12", "a.12", "a@b",
    ],
)  # fmt: skip
def test_what_cannot_be_a_domain_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidNameError, match=r"^domain [^\n]+$"):
        normalize_domain(text, "localhost")


def test_the_base_of_several_labels_cannot_be_registered() -> None:
    for text in ["metrics.example", "x.metrics.example.metrics.example"]:
        with pytest.raises(InvalidNameError):
            normalize_domain(text, "metrics.example")


@given(NAME)
def test_a_registered_domain_is_found_by_the_host_it_was_registered_for(name: str) -> None:
    try:
        domain = normalize_domain(name, "base.example")
    except InvalidNameError:
        return

    assert normalize_domain(domain, "base.example") == domain
    assert strip_base(normalize_host(f"{domain}.base.example:80"), "base.example") == domain
    assert strip_base(normalize_host(domain), "base.example") == domain


@pytest.mark.parametrize("name", ["A", " Acme GmbH ", "株式会社", "x" * 255, "O'Hara; --", "שלום"])
def test_a_name_for_people_is_kept_without_surrounding_space(name: str) -> None:
    assert validate_display_name(name) == name.strip()


@pytest.mark.parametrize(
    "name",
    ["", "  ", "x" * 256, "a\x00b", "a\nb", "a\u202eb", "a\u2066b", "a\u2028b", "\u200b", "\ud800"],
)
def test_a_name_that_would_deceive_or_break_a_page_is_refused(name: str) -> None:
    with pytest.raises(InvalidNameError, match=r"^name [^\n]+$"):
        validate_display_name(name)
