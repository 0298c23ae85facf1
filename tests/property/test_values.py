"""faults P10: addresses and URLs, against grammars transcribed from the RFCs."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpconn import InvalidInputError, PasswordAuth
from smtpconn.protocol.address import ForwardPath, ReversePath
from smtpconn.url import ParsedUrl

# RFC 5321 section 4.1.2; section 4.1.3 for literals.
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
LOCAL_PART = re.compile(rf"(?:{ATOM}(?:\.{ATOM})*|\"(?:[ !#-\[\]-~]|\\[ -~])*\")")
SUB_DOMAIN = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
DOMAIN = re.compile(rf"{SUB_DOMAIN}(?:\.{SUB_DOMAIN})*")

NEARLY_LOCAL = st.one_of(
    st.text(st.sampled_from("ab1.!-_+"), max_size=8),
    st.text(st.sampled_from('ab .\\"()<>@,;:[]~'), max_size=8).map('"{}"'.format),
    st.text(st.sampled_from('ab.\\"()<>,;:[] \t\x7f'), max_size=6),
    st.sampled_from(["x" * 64, "x" * 65]),
)
NEARLY_DOMAIN = st.one_of(
    st.text(st.sampled_from("ab1.-_"), max_size=8),
    st.lists(st.sampled_from(["a", "xn--bcher-kva", "x" * 63, "x" * 64, "a-", "-a", "1", ""]), max_size=4).map(
        ".".join
    ),
    st.sampled_from(
        ["[192.0.2.1]", "[IPv6:2001:db8::1]", "[ipv6:::1]", "[192.0.2.256]", "[IPv6:1]", "[x]", "[::1]", "["]
    ),
)


def is_mailbox(local_part: str, domain: str) -> bool:
    """With the limits of section 4.5.3.1."""
    if len(local_part) > 64 or len(f"{local_part}@{domain}") > 254 or not LOCAL_PART.fullmatch(local_part):
        return False
    if domain.startswith("["):
        try:
            ipaddress.ip_address(re.sub(r"(?i)^IPv6:(?=.*:)", "", domain[1:-1]))
        except ValueError:
            return False
        return domain.endswith("]") and (":" in domain) == domain.upper().startswith("[IPV6:")
    return bool(DOMAIN.fullmatch(domain)) and all(len(label) <= 63 for label in domain.split("."))


@given(NEARLY_LOCAL, NEARLY_DOMAIN)
@example('""', "a")
@example("a.", "a")
@example("a", "[::1]")
def test_P10_an_ascii_mailbox_is_what_the_grammar_of_RFC_5321_says(local_part: str, domain: str) -> None:
    address = f"{local_part}@{domain}"
    for path in (ForwardPath, ReversePath):
        if is_mailbox(local_part, domain):
            made = path(address)
            assert (made.local_part, made.domain, made.mailbox) == (local_part, domain, address)
        else:
            with pytest.raises(InvalidInputError):
                path(address)


SECRETS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
PLACES = st.one_of(
    st.sampled_from(["mail.example.com", "a", "xn--bcher-kva.example", "192.0.2.1"]),
    st.ip_addresses(v=6).map(str),
)


@given(SECRETS, SECRETS, st.lists(st.tuples(PLACES, st.integers(1, 65_535)), min_size=1, max_size=3))
def test_P10_what_is_percent_encoded_into_a_url_comes_back(
    user: str, password: str, hosts: list[tuple[str, int]]
) -> None:
    places = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)
    coded = ":".join(urllib.parse.quote(part, safe="") for part in (user, password))
    url = f"submission://{coded}@{places}"
    parsed = ParsedUrl(url)
    assert parsed.hosts == hosts
    assert parsed.credentials == PasswordAuth(user, password)
    assert password not in repr(parsed) or password in repr(ParsedUrl(f"submission://x:y@{places}"))


@given(st.text(max_size=40), st.sampled_from(["", "smtp://", "submission://a:b@", "lmtp+unix://", "smtps://h?"]))
def test_P10_a_url_of_any_text_is_parsed_or_refused(text: str, head: str) -> None:
    try:
        parsed = ParsedUrl(head + text)
    except InvalidInputError as error:
        shown = str(error)
    else:
        shown = repr(parsed)
        assert parsed.hosts or parsed.unix_socket
    assert shown.isprintable()
