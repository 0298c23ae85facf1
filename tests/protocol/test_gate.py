"""The capability gate: nothing is asked for that the server does not offer."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from smtpconn.protocol import gate
from smtpconn.protocol.address import ReversePath
from smtpconn.protocol.errors import ExtensionUnavailableError, InvalidInputError
from smtpconn.protocol.extensions import NO_CAPABILITIES, ServerCapabilities
from smtpconn.protocol.mail import Recipient, params_of
from smtpconn.protocol.params import DeliverBy, MailParams, RcptParams

UTC = datetime.timezone.utc
EVERYTHING = (
    "8BITMIME",
    "CHUNKING",
    "BINARYMIME",
    "SMTPUTF8",
    "DSN",
    "AUTH PLAIN",
    "REQUIRETLS",
    "FUTURERELEASE 3600 2030-01-01T00:00:00Z",
    "DELIVERBY 60",
    "MT-PRIORITY MIXER",
)
HOLD = datetime.datetime(2029, 1, 1, tzinfo=UTC)


def offering(*lines: str) -> ServerCapabilities:
    return ServerCapabilities("mx", lines, is_esmtp=True)


def without(keyword: str) -> ServerCapabilities:
    return offering(*[line for line in EVERYTHING if line.split(" ")[0] != keyword])


NEEDS = [
    ({"body": "7BIT"}, "8BITMIME"),
    ({"body": "8BITMIME"}, "8BITMIME"),
    ({"body": "BINARYMIME"}, "BINARYMIME"),
    ({"body": "BINARYMIME"}, "CHUNKING"),
    ({"smtputf8": True}, "SMTPUTF8"),
    ({"ret": "FULL"}, "DSN"),
    ({"envid": "x"}, "DSN"),
    ({"auth": "<>"}, "AUTH"),
    ({"requiretls": True}, "REQUIRETLS"),
    ({"hold_for": 5}, "FUTURERELEASE"),
    ({"hold_until": HOLD}, "FUTURERELEASE"),
    ({"deliver_by": DeliverBy(60, "R")}, "DELIVERBY"),
    ({"mt_priority": 0}, "MT-PRIORITY"),
]


@pytest.mark.parametrize(("given", "extension"), NEEDS, ids=repr)
def test_a_parameter_of_mail_needs_its_extension_e175_f78(given: dict[str, Any], extension: str) -> None:
    params = MailParams(**given)
    gate.check(params, [Recipient("a@b")], offering(*EVERYTHING), secure=True)
    for capabilities in (without(extension), NO_CAPABILITIES):
        with pytest.raises(ExtensionUnavailableError) as caught:
            gate.check(params, [Recipient("a@b")], capabilities, secure=True)
        assert caught.value.permanent is True
        assert caught.value.stage == "input"
        assert caught.value.scope in ("message", "service")
        assert str(caught.value.extension) in str(caught.value)
    with pytest.raises(ExtensionUnavailableError) as caught:
        gate.check(params, [Recipient("a@b")], without(extension), secure=True)
    assert caught.value.extension == extension


@pytest.mark.parametrize(
    ("given", "extension"),
    [
        ({"notify": "NEVER"}, "DSN"),
        ({"orcpt": "rfc822;a@b"}, "DSN"),
        ({"orcpt": "utf-8;\u00fc@b"}, "SMTPUTF8"),
        ({"orcpt": "utf-8;u@b"}, "SMTPUTF8"),
    ],
    ids=repr,
)
def test_a_parameter_of_rcpt_needs_its_extension_e175_e209(given: dict[str, Any], extension: str) -> None:
    recipients = [Recipient("a@b"), Recipient("c@d", RcptParams(**given))]
    gate.check(MailParams(), recipients, offering(*EVERYTHING), secure=False)
    with pytest.raises(ExtensionUnavailableError) as caught:
        gate.check(MailParams(), recipients, without(extension), secure=False)
    assert caught.value.extension == extension


def test_extra_has_no_gate_mp12() -> None:
    recipients = [Recipient("a@b", RcptParams(extra={"XB": "1"}))]
    gate.check(MailParams(extra={"XA": None}), recipients, NO_CAPABILITIES, secure=False)


def test_a_plain_mail_needs_nothing() -> None:
    for params in (params_of(None), MailParams()):
        for recipient in (Recipient("a@b"), Recipient("a@b", RcptParams())):
            gate.check(params, [recipient], NO_CAPABILITIES, secure=False)


def test_ret_after_helo_is_refused_e122() -> None:
    with pytest.raises(ExtensionUnavailableError, match="does not offer DSN"):
        gate.check(MailParams(ret="FULL"), [Recipient("a@b")], NO_CAPABILITIES, secure=True)


def test_requiretls_needs_tls_e213() -> None:
    with pytest.raises(ExtensionUnavailableError, match="needs TLS") as caught:
        gate.check(MailParams(requiretls=True), [Recipient("a@b")], offering("REQUIRETLS"), secure=False)
    assert caught.value.extension == "REQUIRETLS"


@pytest.mark.parametrize(
    ("sender", "recipient"),
    [("\u00fc@b", "c@d"), ("a@b", "\u00fc@d"), ("a@\u00fc", "c@d")],
)
def test_a_path_outside_ascii_needs_smtputf8_e69_f65(sender: str, recipient: str) -> None:
    recipients = [Recipient("x@y"), Recipient(recipient)]
    gate.check(MailParams(), recipients, offering("SMTPUTF8"), secure=False, sender=ReversePath(sender))
    with pytest.raises(ExtensionUnavailableError) as caught:
        gate.check(MailParams(), recipients, NO_CAPABILITIES, secure=False, sender=ReversePath(sender))
    assert caught.value.extension == "SMTPUTF8"
    with pytest.raises(InvalidInputError, match="smtputf8=False"):
        gate.check(
            MailParams(smtputf8=False), recipients, offering("SMTPUTF8"), secure=False, sender=ReversePath(sender)
        )


@pytest.mark.parametrize(
    ("given", "line", "word"),
    [
        ({"hold_for": 3601}, "FUTURERELEASE 3600", "3600 s"),
        ({"hold_until": HOLD}, "FUTURERELEASE 1 2028-12-31T23:59:59Z", "2028-12-31"),
        ({"deliver_by": DeliverBy(59, "R")}, "DELIVERBY 60", "60 s"),
    ],
)
def test_a_limit_that_the_server_announced_e210(given: dict[str, Any], line: str, word: str) -> None:
    with pytest.raises(ExtensionUnavailableError, match=word) as caught:
        gate.check(MailParams(**given), [Recipient("a@b")], offering(line), secure=False)
    assert caught.value.extension == line.split(" ")[0]
    assert caught.value.permanent is True


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"hold_for": 3600}, "FUTURERELEASE 3600"),
        ({"hold_for": 9999}, "FUTURERELEASE"),
        ({"hold_for": 9999}, "FUTURERELEASE x 2028-12-31T23:59:59Z"),
        ({"hold_until": HOLD}, "FUTURERELEASE 1 2029-01-01T00:00:00Z"),
        ({"hold_until": HOLD}, "FUTURERELEASE 1 soon"),
        ({"deliver_by": DeliverBy(60, "R")}, "DELIVERBY 60"),
        ({"deliver_by": DeliverBy(1, "R")}, "DELIVERBY"),
        ({"deliver_by": DeliverBy(1, "N")}, "DELIVERBY 60"),
        ({"mt_priority": 9}, "MT-PRIORITY STANAG4406"),
    ],
)
def test_within_a_limit_or_without_one_all_passes(given: dict[str, Any], line: str) -> None:
    gate.check(MailParams(**given), [Recipient("a@b")], offering(line), secure=False)


@pytest.mark.parametrize(
    ("addresses", "limits", "names"),
    [
        (["a@x", "b@x", "c@x"], "RCPTMAX=2", ("3 recipients", "takes 2")),
        (["a@x", "a@y", "a@z"], "RCPTDOMAINMAX=2", ("3 domains", "takes 2")),
        (["a@x", "b@y"], "RCPTMAX=5 RCPTDOMAINMAX=1", ("2 domains", "takes 1")),
    ],
)
def test_limits_of_the_server_are_not_exceeded_li3_li4(
    addresses: list[str], limits: str, names: tuple[str, ...]
) -> None:
    recipients = [Recipient(address) for address in addresses]
    with pytest.raises(ExtensionUnavailableError) as caught:
        gate.check(MailParams(), recipients, offering("LIMITS " + limits), secure=False)
    assert (caught.value.extension, caught.value.permanent, caught.value.scope) == ("LIMITS", True, "caller")
    for name in names:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("addresses", "limits"),
    [
        (["a@x", "b@x"], "RCPTMAX=2"),
        (["a@x", "a@X", "b@x"], "RCPTMAX=2"),
        (["a@x", "a@X", "b@x"], "RCPTDOMAINMAX=1"),
        (["a@x", "postmaster"], "RCPTDOMAINMAX=1"),
        (["a@x", "b@y", "c@z"], "MAILMAX=1"),
        (["a@x", "b@y", "c@z"], "RCPTMAX=0"),
    ],
)
def test_limits_count_after_merging_what_is_the_same_d18_li3(addresses: list[str], limits: str) -> None:
    recipients = [Recipient(address) for address in addresses]
    gate.check(MailParams(), recipients, offering("LIMITS " + limits), secure=False)


def test_the_same_path_with_other_parameters_counts_twice_d18_e136() -> None:
    recipients = [Recipient("a@x"), Recipient("a@x", RcptParams(notify="NEVER"))]
    with pytest.raises(ExtensionUnavailableError, match="2 recipients"):
        gate.check(MailParams(), recipients, offering("DSN", "LIMITS RCPTMAX=1"), secure=False)
