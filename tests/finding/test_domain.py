"""From a domain to its servers: what is asked for which service, and in which order they come (RFC 6186, RFC 8314)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dns.rcode
import pytest

from smtpconn.deadline import Deadline
from smtpconn.finding.domain import DomainSearch, find_servers, tlsa_of, what_it_must_prove
from smtpconn.finding.tlsa import TlsaState
from smtpconn.finding.trust import FoundServer, Voucher
from smtpconn.protocol.errors import InvalidInputError, ResolveError
from smtpconn.tls import TlsMode

from .name_server import AD, NameServer, Zone

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVFAIL = dns.rcode.SERVFAIL
ZONE: Zone = {
    "both.test. MX": ["20 mx2.both.test.", "10 mx1.both.test."],
    "_submissions._tcp.both.test. SRV": ["20 0 465 tls2.both.test.", "10 0 4465 tls1.both.test."],
    "_submission._tcp.both.test. SRV": ["5 0 587 start.both.test."],
    "signed.test. MX": AD(["10 mx.signed.test."]),
    "mx.signed.test. A": AD(["192.0.2.1"]),
    "_25._tcp.mx.signed.test. TLSA": AD(["3 1 1 " + "ab" * 32]),
    "old.test. MX": [],
    "_submission._tcp.old.test. SRV": ["0 1 587 mail.old.test."],
    "_submissions._tcp.old.test. SRV": ["0 0 0 ."],
    "null.test. MX": ["0 ."],
    "_submissions._tcp.null.test. SRV": ["0 0 0 ."],
    "_submission._tcp.null.test. SRV": ["0 0 0 ."],
    "_submissions._tcp.half.test. SRV": SERVFAIL,
    "_submission._tcp.half.test. SRV": ["0 1 587 mail.half.test."],
    "_submissions._tcp.broken.test. SRV": SERVFAIL,
    "_submission._tcp.broken.test. SRV": SERVFAIL,
    "many.test. MX": [f"10 mx{number}.many.test." for number in range(25)],
}


@pytest.fixture(scope="module")
def name_server() -> Iterator[NameServer]:
    server = NameServer(ZONE)
    yield server
    server.close()


def found(name_server: NameServer, domain: str, **options: Any) -> tuple[FoundServer, ...]:
    name_server.asked.clear()
    search = DomainSearch(domain=domain, resolver=name_server.resolver(), **options)
    return find_servers(search, Deadline.after(10))


def shown(servers: tuple[FoundServer, ...]) -> list[str]:
    return [f"{each.host}:{each.port} {each.tls_mode.value}" for each in servers]


SUBMISSION: list[Any] = [
    pytest.param("both.test", {}, ["tls1.both.test:4465 implicit", "tls2.both.test:465 implicit",
                                   "start.both.test:587 starttls"], id="8314 3.3: implicit TLS first"),
    pytest.param("both.test", {"tls_mode": TlsMode.STARTTLS}, ["start.both.test:587 starttls"],
                 id="only what the caller demands"),
    pytest.param("both.test", {"tls_mode": TlsMode.IMPLICIT}, ["tls1.both.test:4465 implicit",
                                                               "tls2.both.test:465 implicit"], id="only implicit TLS"),
    pytest.param("old.test", {}, ["mail.old.test:587 starttls"], id="6186 3.4: the root says no to one of two"),
    pytest.param("half.test", {}, ["mail.half.test:587 starttls"], id="one question fails, the other is answered"),
]  # fmt: skip


@pytest.mark.parametrize(("domain", "options", "expected"), SUBMISSION)
def test_BS21_submission_servers_are_found_by_SRV(
    name_server: NameServer, domain: str, options: dict[str, Any], expected: list[str]
) -> None:
    assert shown(found(name_server, domain, **options)) == expected


NOTHING: list[Any] = [
    pytest.param("null.test", {}, True, "no submission server", id="6186 3.4: the root says no to both"),
    pytest.param("gone.test", {}, True, "no submission server", id="6186 3.1: no record: nothing is guessed"),
    pytest.param("old.test", {"tls_mode": TlsMode.IMPLICIT}, True, "no submission", id="none of the mode demanded"),
    pytest.param("broken.test", {}, False, "SERVFAIL", id="nobody could say"),
    pytest.param("null.test", {"service": "mx"}, True, "null MX", id="7505: null MX"),
    pytest.param("gone.test", {"service": "mx"}, True, "does not exist", id="no such domain"),
]


@pytest.mark.parametrize(("domain", "options", "permanent", "words"), NOTHING)
def test_A1_where_there_is_no_server_the_error_says_whether_for_good(
    name_server: NameServer, domain: str, options: dict[str, Any], permanent: bool, words: str
) -> None:
    with pytest.raises(ResolveError, match=words) as caught:
        found(name_server, domain, **options)
    assert caught.value.permanent is permanent


def test_BS21_MX_hosts_come_in_order_with_who_vouches_for_them(name_server: NameServer) -> None:
    servers = found(name_server, "both.test", service="mx", expected=["mx2.both.test"])
    assert shown(servers) == ["mx1.both.test:25 starttls", "mx2.both.test:25 starttls"]
    assert [each.voucher for each in servers] == [Voucher.NOBODY, Voucher.CALLER]
    assert found(name_server, "signed.test", service="mx") == (
        FoundServer("mx.signed.test", 25, TlsMode.STARTTLS, Voucher.DNSSEC),
    )
    assert found(name_server, "old.test", service="mx", port=2525, tls_mode=TlsMode.NONE) == (
        FoundServer("old.test", 2525, TlsMode.NONE, Voucher.GIVEN),
    )
    assert name_server.asked == ["old.test. MX"]


def test_a_domain_with_a_thousand_hosts_costs_no_more_than_one_with_twenty(name_server: NameServer) -> None:
    assert len(found(name_server, "many.test", service="mx")) == 20


def test_BS21_a_servers_TLSA_records_become_what_it_must_prove(name_server: NameServer) -> None:
    search = DomainSearch(domain="signed.test", service="mx", resolver=name_server.resolver())
    (server,) = find_servers(search, Deadline.after(10))
    answer = tlsa_of(server, search, Deadline.after(10))
    assert answer.state is TlsaState.USABLE
    demand = what_it_must_prove(server, answer, search)
    assert (demand.reference_name, demand.tlsa is not None) == ("mx.signed.test", True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"domain": "192.0.2.1"}, "domain"),
        ({"domain": "::1"}, "domain"),
        ({"domain": "b\u00fccher.test"}, "A-label"),
        ({"domain": "a b"}, "domain"),
        ({"service": "imap"}, "service"),
        ({"dane": "off"}, "dane"),
        ({"tls_mode": TlsMode.NONE}, "tls_mode"),
        ({"tls_mode": TlsMode.IMPLICIT, "service": "mx"}, "tls_mode"),
        ({"port": 0, "service": "mx"}, "port"),
        ({"port": 2525}, "port"),
        ({"expected": ["*"]}, "expected"),
        ({"own_names": ["a b"]}, "own_names"),
    ],
    ids=repr,
)
def test_a_search_that_makes_no_sense_is_refused_at_birth(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        DomainSearch(**{"domain": "example.test", **options})


@pytest.mark.parametrize(
    "options",
    [{"domain": None}, {"tls_mode": "none"}, {"port": "25"}, {"port": True}, {"expected": "a.test"}, {"validating": 1}],
    ids=repr,
)
def test_a_search_of_the_wrong_types_is_a_type_error(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        DomainSearch(**{"domain": "example.test", **options})


def test_a_search_names_itself_and_the_least_TLS() -> None:
    assert DomainSearch(domain="example.test.").name == "example.test (submission)"
    assert DomainSearch(domain="example.test").least_tls is TlsMode.IMPLICIT
    relay = DomainSearch(domain="example.test", service="mx")
    assert (relay.name, relay.least_tls) == ("example.test (MX)", TlsMode.STARTTLS)
