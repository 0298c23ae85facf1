"""Whom to believe, as tables: RFC 6125 section 6.2.1, RFC 7672 sections 2.2 and 3.2, RFC 7817 section 3."""

from __future__ import annotations

from typing import Any

import pytest

from smtpconn.finding.records import TlsaRecord, checked_patterns, is_among
from smtpconn.finding.tlsa import TlsaAnswer, TlsaState
from smtpconn.finding.trust import Demand, FoundServer, Voucher, demand_on, voucher_of
from smtpconn.protocol.errors import InvalidInputError, TlsError
from smtpconn.tls import TlsMode

STARTTLS, IMPLICIT, NONE = TlsMode.STARTTLS, TlsMode.IMPLICIT, TlsMode.NONE
DOMAIN, HOST, BASE = "example.test", "mx.provider.test", "real.provider.test"
EE = TlsaRecord(3, 1, 1, b"a" * 32)

VOUCHERS: list[Any] = [
    pytest.param(DOMAIN, False, (), Voucher.GIVEN, id="6125 6.2.1: the name that the user gave"),
    pytest.param("EXAMPLE.test.", False, (), Voucher.GIVEN, id="the same name in another dress"),
    pytest.param(HOST, False, (), Voucher.NOBODY, id="6125 6.2.1: a name out of DNS"),
    pytest.param(f"mx.{DOMAIN}", False, (), Voucher.NOBODY, id="7817 3: below the domain is not the domain"),
    pytest.param(HOST, True, (), Voucher.DNSSEC, id="7672 2.2.1: a name out of a signed zone"),
    pytest.param(HOST, False, (HOST,), Voucher.CALLER, id="6186 6: the user confirms it"),
    pytest.param(HOST, False, ("*.provider.test",), Voucher.CALLER, id="8461 4.1: the user confirms a pattern"),
    pytest.param(f"a.{HOST}", False, ("*.provider.test",), Voucher.NOBODY, id="8461 4.1: a star is one label"),
    pytest.param("provider.test", False, ("*.provider.test",), Voucher.NOBODY, id="8461 4.1: a star is a label"),
    pytest.param("xprovider.test", False, ("*.provider.test",), Voucher.NOBODY, id="8461 4.1: a star is whole"),
]


@pytest.mark.parametrize(("host", "authenticated", "expected", "voucher"), VOUCHERS)
def test_OB20_a_name_out_of_DNS_needs_somebody_who_vouches_for_it(
    host: str, authenticated: bool, expected: tuple[str, ...], voucher: Voucher
) -> None:
    assert voucher_of(host, DOMAIN, authenticated=authenticated, expected=expected) is voucher


def demanded(
    state: TlsaState, voucher: Voucher = Voucher.DNSSEC, tls_mode: TlsMode = STARTTLS, **options: Any
) -> Demand:
    records = (EE,) if state is TlsaState.USABLE else (TlsaRecord(1, 1, 1, b""),) * (state is TlsaState.UNUSABLE)
    server = FoundServer(DOMAIN if voucher is Voucher.GIVEN else HOST, 25, tls_mode, voucher)
    return demand_on(server, TlsaAnswer(state, BASE, records), DOMAIN, **options)


WITHOUT = [TlsaState.NOT_ASKED, TlsaState.INSECURE, TlsaState.NONE]


@pytest.mark.parametrize("state", [*WITHOUT, TlsaState.UNUSABLE])
@pytest.mark.parametrize(
    ("voucher", "name"),
    [
        pytest.param(Voucher.NOBODY, DOMAIN, id="7817 3: nobody vouches: the name that the user gave"),
        pytest.param(Voucher.GIVEN, DOMAIN, id="7817 3: the host is that name"),
        pytest.param(Voucher.DNSSEC, HOST, id="6125 6.2.1: DNSSEC vouches: the host"),
        pytest.param(Voucher.CALLER, HOST, id="6186 6: the caller vouches: the host"),
    ],
)
def test_OB20_without_usable_TLSA_records_the_certificate_is_verified_for_the_name_that_is_vouched_for(
    state: TlsaState, voucher: Voucher, name: str
) -> None:
    assert demanded(state, voucher) == Demand(STARTTLS, name)
    assert demanded(state, voucher, server_name="said.test") == Demand(STARTTLS, "said.test")


@pytest.mark.parametrize("voucher", [Voucher.DNSSEC, Voucher.CALLER, Voucher.GIVEN])
def test_OB20_TLSA_records_of_a_host_that_is_vouched_for_stand_in_place_of_the_roots(voucher: Voucher) -> None:
    """RFC 7672 sections 3.1 and 3.2.2: names are the base domain and the domain that was asked for."""
    found = demanded(TlsaState.USABLE, voucher)
    assert found.tlsa is not None
    assert (found.reference_name, found.tlsa.alone, found.tlsa.names) == (BASE, True, (BASE, DOMAIN))
    assert found.tlsa.records == (EE,)


def test_OB20_TLSA_records_of_a_host_that_nobody_vouches_for_are_demanded_beside_the_name_given() -> None:
    """RFC 7672 section 2.2.1: an insecure MX may name the attacker's own host, with records of its own."""
    found = demanded(TlsaState.USABLE, Voucher.NOBODY)
    assert found.tlsa is not None
    assert (found.reference_name, found.tlsa.alone, found.tlsa.names) == (DOMAIN, False, (BASE,))


@pytest.mark.parametrize(
    ("state", "asked", "mode"),
    [
        *[pytest.param(state, NONE, NONE, id=f"plaintext as asked: {state.value}") for state in WITHOUT],
        pytest.param(TlsaState.USABLE, NONE, STARTTLS, id="7672 2.2: usable records: TLS"),
        pytest.param(TlsaState.UNUSABLE, NONE, STARTTLS, id="7672 2.2: unusable records: TLS all the same"),
        pytest.param(TlsaState.USABLE, IMPLICIT, IMPLICIT, id="7673 3: records at a port of implicit TLS"),
    ],
)
def test_OB20_nothing_goes_in_the_clear_to_a_host_that_has_TLSA_records(
    state: TlsaState, asked: TlsMode, mode: TlsMode
) -> None:
    assert demanded(state, tls_mode=asked).tls_mode is mode


@pytest.mark.parametrize("state", list(TlsaState))
@pytest.mark.parametrize("voucher", list(Voucher))
def test_OB20_where_DANE_is_required_a_host_without_it_is_an_error(state: TlsaState, voucher: Voucher) -> None:
    if state is TlsaState.USABLE and voucher is not Voucher.NOBODY:
        assert demanded(state, voucher, required=True) == demanded(state, voucher)
        return
    with pytest.raises(TlsError, match="DANE is required"):
        demanded(state, voucher, required=True)


def test_patterns_are_host_names_of_which_the_first_label_may_be_a_star() -> None:
    assert checked_patterns("expected", ["a.test", "*.b.test."]) == ("a.test", "*.b.test")
    assert is_among("A.test.", ("a.TEST",))
    assert not is_among("localhost", ("*.localhost",))
    for wrong in (["*"], ["a.*.test"], [""], ["*a.test"]):
        with pytest.raises(InvalidInputError, match="expected"):
            checked_patterns("expected", wrong)
    for wrong_type in ("a.test", 5, [5], None):
        with pytest.raises(TypeError, match="expected"):
            checked_patterns("expected", wrong_type)
