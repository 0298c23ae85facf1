"""What is asked of DNS and what is believed: BR9, fault A1, RFC 7672 sections 2.1 and 2.2."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import dns.flags
import dns.nameserver
import dns.rcode
import dns.resolver
import pytest

from smtpconn.deadline import Deadline
from smtpconn.finding.lookups import Lookups
from smtpconn.finding.records import MxRecord, RecordSet, SrvRecord, TlsaRecord
from smtpconn.finding.tlsa import TlsaState
from smtpconn.protocol.errors import ResolveError, SmtpTimeoutError

from .name_server import AD, Alias, NameServer, Zone

if TYPE_CHECKING:
    from collections.abc import Iterator

EE = "3 1 1 " + "ab" * 32
SERVFAIL = dns.rcode.SERVFAIL

ZONE: Zone = {
    "one.test. MX": ["10 mx.one.test."],
    "signed.test. MX": AD(["10 mx.signed.test."]),
    "bare.test. MX": [],
    "bare-signed.test. MX": AD([]),
    "null.test. MX": ["0 ."],
    "alias.test. MX": Alias("one.test."),
    "servfail.test. MX": SERVFAIL,
    "refused.test. MX": dns.rcode.REFUSED,
    "garbage.test. MX": b"\xff" * 40,
    "silent.test. MX": None,
    "loop.test. MX": Alias(*(f"{number}.loop.test." for number in range(20)), "loop.test."),
    "_submissions._tcp.one.test. SRV": ["0 1 465 mail.one.test."],
    "_submissions._tcp.null.test. SRV": AD(["0 0 0 ."]),
    # Where TLSA records may be: the addresses say whether it is worth a question.
    "mx.signed.test. A": AD(["192.0.2.1"]),
    "_25._tcp.mx.signed.test. TLSA": AD([EE, "1 1 1 " + "cd" * 32]),
    "six.signed.test. A": [],
    "six.signed.test. AAAA": AD(["2001:db8::1"]),
    "_25._tcp.six.signed.test. TLSA": AD([EE]),
    "none.signed.test. A": AD(["192.0.2.1"]),
    "_25._tcp.none.signed.test. TLSA": AD([]),
    "gone.signed.test. A": AD(["192.0.2.1"]),
    "_25._tcp.gone.signed.test. TLSA": AD(dns.rcode.NXDOMAIN),
    "pkix.signed.test. A": AD(["192.0.2.1"]),
    "_25._tcp.pkix.signed.test. TLSA": AD(["1 1 1 " + "cd" * 32]),
    "half.signed.test. A": AD(["192.0.2.1"]),
    "_25._tcp.half.signed.test. TLSA": [EE],
    "plain.test. A": ["192.0.2.1"],
    "_25._tcp.plain.test. TLSA": AD([EE]),  # never asked for
    "bogus.test. A": SERVFAIL,
    "broken.signed.test. A": AD(["192.0.2.1"]),
    "_25._tcp.broken.signed.test. TLSA": SERVFAIL,
    "mute.signed.test. A": AD(["192.0.2.1"]),
    "_25._tcp.mute.signed.test. TLSA": None,
    "alias.signed.test. A": AD(Alias("mx.signed.test.")),
    "_25._tcp.alias.signed.test. TLSA": AD(["3 1 1 " + "ef" * 32]),
    "alias-none.signed.test. A": AD(Alias("none.signed.test.")),
    "_25._tcp.alias-none.signed.test. TLSA": AD([EE]),
    "out.signed.test. A": Alias("plain.test."),
    "out.signed.test. CNAME": AD(["plain.test."]),
    "_25._tcp.out.signed.test. TLSA": AD([EE]),
    "out.test. A": Alias("plain.test."),
    "out.test. CNAME": ["plain.test."],
}


def soon() -> Deadline:
    return Deadline.after(10)


@pytest.fixture(scope="module")
def name_server() -> Iterator[NameServer]:
    server = NameServer(ZONE)
    yield server
    server.close()


@pytest.fixture
def lookups(name_server: NameServer) -> Lookups:
    name_server.asked.clear()
    return Lookups(name_server.resolver())


def test_BS21_MX_records_say_where_they_stand_and_whether_DNSSEC_vouches_for_them(lookups: Lookups) -> None:
    one = (MxRecord("mx.one.test", 10),)
    assert lookups.mx("one.test", soon()) == RecordSet("one.test", one)
    assert lookups.mx("alias.test", soon()) == RecordSet("one.test", one)
    assert lookups.mx("signed.test", soon()) == RecordSet("signed.test", (MxRecord("mx.signed.test", 10),), True)
    assert lookups.mx("null.test", soon()) == RecordSet("null.test", (MxRecord("", 0),))


def test_BS21_no_MX_record_is_an_answer_that_may_be_authenticated(lookups: Lookups) -> None:
    assert lookups.mx("bare.test", soon()) == RecordSet("bare.test")
    assert lookups.mx("bare-signed.test", soon()) == RecordSet("bare-signed.test", (), True)


def test_BS21_services_are_asked_for_over_tcp_and_a_name_that_is_not_there_has_none(lookups: Lookups) -> None:
    found = lookups.srv("submissions", "one.test", soon())
    assert found.records == (SrvRecord("mail.one.test", 465, 0, 1),)
    assert lookups.srv("submission", "one.test", soon()).records == ()
    null = lookups.srv("submissions", "null.test", soon())
    assert (null.records, null.authenticated) == ((SrvRecord("", 0, 0, 0),), True)


@pytest.mark.parametrize(
    ("domain", "text", "permanent"),
    [
        ("none.test", "does not exist", True),
        ("x" * 64 + ".test", "label", True),
        ("a..test", "label", True),
        ("servfail.test", "SERVFAIL", False),
        ("refused.test", "REFUSED", False),
        ("loop.test", "chain", False),
    ],
)
def test_A1_what_dns_says_becomes_a_resolve_error(lookups: Lookups, domain: str, text: str, permanent: bool) -> None:
    with pytest.raises(ResolveError, match=text) as caught:
        lookups.mx(domain, soon())
    assert caught.value.permanent is permanent
    assert caught.value.stage == "resolve"


@pytest.mark.parametrize("domain", ["silent.test", "garbage.test"])
def test_A1_silence_and_bad_packets_end_with_the_deadline(lookups: Lookups, domain: str) -> None:
    begin = time.monotonic()
    with pytest.raises((SmtpTimeoutError, ResolveError)) as caught:
        lookups.mx(domain, Deadline.after(0.1))
    assert time.monotonic() - begin < 5
    assert caught.value.stage == "resolve"
    assert not caught.value.permanent


ANSWERS: list[Any] = [
    pytest.param("mx.signed.test", TlsaState.USABLE, "mx.signed.test", id="7672 2.2.2: a signed zone"),
    pytest.param("six.signed.test", TlsaState.USABLE, "six.signed.test", id="7672 2.2.2: IPv6 only"),
    pytest.param("none.signed.test", TlsaState.NONE, "none.signed.test", id="7672 2.2: a secure denial"),
    pytest.param("gone.signed.test", TlsaState.NONE, "gone.signed.test", id="7672 2.2: a secure NXDOMAIN"),
    pytest.param("pkix.signed.test", TlsaState.UNUSABLE, "pkix.signed.test", id="7672 3.1.3: PKIX-EE alone"),
    pytest.param("half.signed.test", TlsaState.INSECURE, "half.signed.test", id="7672 2.1.1: TLSA in an unsigned zone"),
    pytest.param("plain.test", TlsaState.INSECURE, "plain.test", id="7672 2.2.2: insecure addresses: no question"),
    pytest.param("nowhere.test", TlsaState.INSECURE, "nowhere.test", id="a name that only the hosts file knows"),
    pytest.param("alias.signed.test", TlsaState.USABLE, "mx.signed.test", id="7672 2.2.3: behind a secure alias"),
    pytest.param("alias-none.signed.test", TlsaState.USABLE, "alias-none.signed.test",
                 id="7672 2.2.3: none behind the alias, some at the name"),
    pytest.param("out.signed.test", TlsaState.USABLE, "out.signed.test", id="7672 2.2.3: an alias out of signed zone"),
    pytest.param("out.test", TlsaState.INSECURE, "out.test", id="7672 2.2.3: an insecure alias"),
]  # fmt: skip


@pytest.mark.parametrize(("host", "state", "base"), ANSWERS)
def test_BS21_TLSA_records_are_looked_for_where_DNSSEC_vouches_for_the_address(
    lookups: Lookups, name_server: NameServer, host: str, state: TlsaState, base: str
) -> None:
    answer = lookups.tlsa(host, 25, soon())
    assert (answer.state, answer.base) == (state, base)
    assert (TlsaRecord(3, 1, 1, b"\xab" * 32) in answer.records) is (state is TlsaState.USABLE)
    assert "_25._tcp.plain.test. TLSA" not in name_server.asked


@pytest.mark.parametrize("host", ["bogus.test", "broken.signed.test"])
def test_a_server_whose_TLSA_records_cannot_be_had_is_an_error(lookups: Lookups, host: str) -> None:
    """RFC 7672 section 2.1.1: going on would be the downgrade that an attacker wants."""
    with pytest.raises(ResolveError) as caught:
        lookups.tlsa(host, 25, soon())
    assert caught.value.permanent is False


def test_silence_about_TLSA_records_is_an_error_too(lookups: Lookups) -> None:
    with pytest.raises(SmtpTimeoutError) as caught:
        lookups.tlsa("mute.signed.test", 25, Deadline.after(0.2))
    assert caught.value.stage == "resolve"


# --- the trusted way ---

ELSEWHERE: Any = dns.nameserver.DoHNameserver("https://127.0.0.1/dns-query")


@pytest.mark.parametrize(
    ("servers", "validating", "trusted"),
    [
        (["127.0.0.1"], None, True),
        (["127.0.0.53", "::1"], None, True),
        (["127.0.0.1", "192.0.2.53"], None, False),
        (["192.0.2.53"], None, False),
        (["fe80::1%1"], None, False),
        ([], None, False),
        ([ELSEWHERE], None, False),
        (["192.0.2.53"], True, True),
        (["127.0.0.1"], False, False),
    ],
    ids=repr,
)
def test_a_resolver_is_trusted_on_this_machine_or_by_the_callers_word(
    servers: list[Any], validating: bool | None, trusted: bool
) -> None:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = servers
    assert Lookups(resolver, validating=validating).trusted is trusted


def test_the_AD_bit_of_a_resolver_that_is_not_trusted_means_nothing(name_server: NameServer) -> None:
    """RFC 7672 section 2.1: whoever is on the way can set it."""
    name_server.asked.clear()
    lookups = Lookups(name_server.resolver(), validating=False)
    assert lookups.mx("signed.test", soon()).authenticated is False
    assert lookups.tlsa("mx.signed.test", 25, soon()).state is TlsaState.NOT_ASKED
    assert name_server.asked == ["signed.test. MX"]


def test_names_are_absolute_and_a_search_list_is_not_gone_through(name_server: NameServer) -> None:
    name_server.asked.clear()
    resolver = name_server.resolver()
    resolver.search = [dns.name.from_text("one.test.")]
    resolver.use_search_by_default = True
    assert Lookups(resolver).srv("submissions", "gone.test", soon()).records == ()
    assert name_server.asked == ["_submissions._tcp.gone.test. SRV"]


def test_the_default_resolver_is_the_systems_and_asks_for_the_ad_flag(
    monkeypatch: pytest.MonkeyPatch, name_server: NameServer
) -> None:
    asking = name_server.resolver()
    monkeypatch.setattr(dns.resolver, "Resolver", lambda: asking)
    assert Lookups().mx("signed.test", soon()).authenticated


def test_a_given_resolver_keeps_its_flags_and_is_not_changed(name_server: NameServer) -> None:
    given = name_server.resolver()
    given.flags = dns.flags.RD | dns.flags.CD
    assert Lookups(given).mx("signed.test", soon()).authenticated
    assert given.flags == dns.flags.RD | dns.flags.CD


def test_a_system_without_a_resolver_is_a_resolve_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unconfigured() -> dns.resolver.Resolver:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver, "Resolver", unconfigured)
    with pytest.raises(ResolveError) as caught:
        Lookups().mx("one.test", soon())
    assert caught.value.permanent is False


def test_dnspython_missing_is_a_resolve_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns", None)
    monkeypatch.setitem(sys.modules, "dns.exception", None)
    with pytest.raises(ResolveError, match="dnspython") as caught:
        Lookups().mx("one.test", soon())
    assert caught.value.permanent is True
